"""SAEs as they are published: each is recognised, and its place in the model found, or it is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp_assets.model_names import hub_name_of
from resources.errors import UnusableInput
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.location import describe
from tests.published_saes import PUBLISHED

READABLE = [name for name, sae in PUBLISHED.items() if not sae.refused]


@pytest.mark.parametrize("name", READABLE)
def test_what_is_published_is_understood(name: str, tmp_path: Path) -> None:
    sae = PUBLISHED[name]
    (place,) = locate(sae.lay_out(tmp_path), model={"model_type": sae.model_type})
    said = describe(place)
    assert (said["architecture"], said["reads"]) == (sae.architecture, sae.reads)
    assert (said["n_latents"], said["d_in"]) == sae.size
    assert said["transcodes"] == (sae.writes is not None)
    assert said["writes"] == (sae.writes or sae.reads)
    assert said["l0"] == sae.l0
    assert (said["model"] and hub_name_of(said["model"])) == sae.model


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(READABLE)))
def test_what_reads_several_places_is_refused_by_name(name: str, tmp_path: Path) -> None:
    sae = PUBLISHED[name]
    with pytest.raises(UnusableInput) as error:
        locate(sae.lay_out(tmp_path), model={"model_type": sae.model_type})
    assert sae.refused in str(error.value)
