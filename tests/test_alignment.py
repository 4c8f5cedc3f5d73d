"""Pairs of layers: which there are, what they read, and the matching of their latents."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from interp_assets.alignment.matching import match
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.partitions import layer_pairs, pair_key
from interp_assets.study import Layer, Study, load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.sparse_autoencoders.locate import SaeLocation
from tests.changed_study import changed

PAIR = ("embed_tokens", "layers.0")


def with_layers(study: Study, *keys: str) -> Study:
    place = SaeLocation(None, Path(), "sparsify")
    layers = tuple(Layer(key=key, hookpoint=key.split("@")[0], location=place) for key in keys)
    return study.model_copy(update={"layers": layers})


@pytest.fixture
def two_layers(two_layers: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_layers.parent, tmp_path / "world") / two_layers.name


def test_adjacent_layers_differ_in_one_number(two_layers: Path) -> None:
    study = load_study(changed(two_layers, {"alignment": {}}, "adjacent.yaml"))
    keys = ["layers.10", "layers.9.mlp", "layers.2", "layers.9", "layers.10.mlp", "layers.9@wide", "embed_tokens"]
    assert layer_pairs(with_layers(study, *keys)) == [
        ("layers.2", "layers.9"),
        ("layers.9", "layers.10"),
        ("layers.9.mlp", "layers.10.mlp"),
    ]
    assert layer_pairs(load_study(two_layers)) == []


@pytest.mark.parametrize(("rows", "columns"), [(30, 30), (30, 45), (45, 30)])
def test_a_planted_permutation_is_found(rows: int, columns: int) -> None:
    draw = np.random.default_rng(rows + columns)
    both = draw.normal(size=(max(rows, columns), 24)).astype(np.float32)
    order = draw.permutation(len(both))
    noisy = both[order] + 0.05 * draw.normal(size=both.shape).astype(np.float32)
    alive_a, alive_b = np.arange(rows), np.arange(columns)
    table = match(both, noisy, alive_a, alive_b)
    found = dict(zip(table["latent_a"].to_list(), table["latent_b"].to_list(), strict=True))
    truth = {int(order[b]): b for b in range(columns) if order[b] < rows}
    assert truth
    assert {a: found[a] for a in truth} == truth
    assert len(table) == min(rows, columns)


def test_directions_of_unequal_length_are_refused() -> None:
    with pytest.raises(UnusableInput, match="directions of 3 and of 4 numbers"):
        match(np.ones((2, 3)), np.ones((2, 4)), np.arange(2), np.arange(2))


def test_a_pair_is_made_from_both_layers(two_layers: Path) -> None:
    settings = {"alignment": {"pairs": [list(PAIR)]}, "storage": "pairs"}
    file = changed(two_layers, settings, "pairs.yaml")
    study = load_study(file)
    models = LoadedModels()
    for layer in PAIR:
        for asset in ("sae_weights", "corpus", "activation_cache", "latent_statistics"):
            make_partition(study, asset, None if asset == "corpus" else layer, models)
    made = make_partition(study, "layer_matching", pair_key(*PAIR), models).partition
    table = made.read("matching")
    # Both SAEs have the same directions: latent i is word i in both.
    assert (table["latent_a"] == table["latent_b"]).all()
    assert table["similarity"].min() == pytest.approx(1.0)
    assert set(made.parts["inputs"]) == {
        f"{asset}[{layer}]" for asset in ("sae_weights", "latent_statistics") for layer in PAIR
    }

    other = Freshness(load_study(changed(file, {"alignment.similarity": "encoder"}, "encoder.yaml")))
    state, reasons = other.own_state(other.assets["layer_matching"], pair_key(*PAIR))
    assert (state, reasons) == ("stale", ("alignment.similarity: 'decoder' -> 'encoder'",))
