"""An SAE that is gone, or is none any more, stops its own layer; the study and its other layers go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from interp_assets.freshness import Freshness, PartitionState
from interp_assets.job import make_partition
from interp_assets.layers import MissingSae
from interp_assets.setting_errors import StudyError
from interp_assets.study import load_study
from resources.errors import NotNow
from resources.loaded_models import LoadedModels
from tests.changed_study import changed
from tests.refusals import GOOD, make
from tests.tiny import make_sae

GONE = "layers.0"


@pytest.fixture
def root(two_layers: Path, tmp_path: Path) -> Path:
    root = shutil.copytree(two_layers.parent, tmp_path / "world")
    return changed(root / two_layers.name, {"controls.random": {"k": 2}}, "study.yaml").parent


def states(root: Path) -> dict[tuple[str, str | None], PartitionState]:
    return {(each.asset, each.partition): each for each in Freshness(load_study(root / "study.yaml")).states()}


WAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (shutil.rmtree, "saes[0].hookpoints: no SAE for 'layers.0' in saes; there are: embed_tokens"),
    "weights": (
        lambda sae: (sae / "sae.safetensors").unlink(),
        "saes[0].path: {sae}: cfg.json is of format sparsify, but sae.safetensors is missing",
    ),
    "settings": (
        lambda sae: (sae / "cfg.json").unlink(),
        "saes[0].path: {sae}: cfg.json is missing beside sae.safetensors, the settings of sparsify (EleutherAI)",
    ),
    "no JSON": (
        lambda sae: (sae / "cfg.json").write_text("{"),
        "saes[0].path: {sae}/cfg.json: not valid JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
    ),
    "no SAE": (
        lambda sae: (sae / "cfg.json").write_text("{}"),
        "saes[0].path: {sae}/cfg.json: no supported format has these keys; supported: sparsify, saelens, ",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_its_layer_has_failed_and_no_other(root: Path, way: str) -> None:
    spoil, said = WAYS[way]
    spoil(root / "saes" / GONE)
    reason = said.format(sae=root / "saes" / GONE)
    found = states(root)
    for key in (GONE, f"{GONE}@random"):
        (told,) = found["sae_weights", key].reasons
        assert (found["sae_weights", key].state, told[: len(reason)]) == ("failed", reason)
        assert found["activation_cache", key].reasons == (f"sae_weights[{key}] failed",)
        assert found["explanations", key].reasons == (f"examples[{key}] is blocked",)
    assert {found[asset, GOOD].state for asset, key in found if key == GOOD} == {"missing"}
    assert make(root, "sae_weights", GOOD)


def test_it_fails_alone_in_a_pass_of_all_layers_and_costs_nothing_when_it_is_back(root: Path) -> None:
    for key in (GOOD, GONE):
        make(root, "latent_statistics", key)
    before = states(root)
    shutil.move(root / "saes" / GONE, root / "aside")
    changed(root / "study.yaml", {"corpus.tokens": 4096}, "study.yaml")
    study = load_study(root / "study.yaml")
    keys = [layer.key for layer in study.layers]
    make_partition(study, "corpus", None, LoadedModels())
    assert (
        make_partition(study, "activation_cache", GOOD, LoadedModels(), keys).partition.metadata["tokens_used"] == 4096
    )
    for asset in ("sae_weights", "activation_cache"):
        with pytest.raises(NotNow, match=r"^sae_weights\[layers.0\]: .*no SAE for 'layers.0' in saes"):
            make_partition(study, asset, GONE, LoadedModels(), keys)
    shutil.move(root / "aside", root / "saes" / GONE)
    changed(root / "study.yaml", {"corpus.tokens": 8192}, "study.yaml")
    after = states(root)
    assert {label: after[label].state for label in after} == {label: before[label].state for label in before}
    assert after["latent_statistics", GONE].state == "fresh"


def test_a_second_folder_that_is_gone(root: Path) -> None:
    make_sae(root / "more", "layers.1")
    sources = [{"path": "saes"}, {"path": "more", "hookpoints": ["layers.1"]}]
    changed(root / "study.yaml", {"saes": sources}, "study.yaml")
    assert states(root)["sae_weights", "layers.1"].state == "missing", "control"
    shutil.rmtree(root / "more")
    (told,) = states(root)["sae_weights", "layers.1"].reasons
    assert told.startswith(f"saes[1].path: more: no such folder ({root / 'more'})")


def test_where_no_hookpoint_is_named_only_folders_tell_what_there_ought_to_be(root: Path) -> None:
    changed(root / "study.yaml", {"saes": [{"path": "saes"}], "controls": {}}, "study.yaml")
    (root / "saes" / GONE / "sae.safetensors").unlink()
    layers = load_study(root / "study.yaml").layers
    assert [(layer.key, isinstance(layer.location, MissingSae)) for layer in layers] == [(GOOD, False), (GONE, True)]
    shutil.rmtree(root / "saes" / GONE)
    assert [layer.key for layer in load_study(root / "study.yaml").layers] == [GOOD]


def test_a_study_without_a_single_sae_is_none(root: Path) -> None:
    """A wrong path is a mistake in the study, and is told at once."""
    (root / "saes" / GONE / "cfg.json").unlink()
    (root / "saes" / GOOD / "cfg.json").unlink()
    with pytest.raises(StudyError, match=r"saes\[0\].path: .*embed_tokens: cfg.json is missing"):
        load_study(root / "study.yaml")
