"""Pairs of layers: which there are, what they read, and the matching of their latents."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from interp_assets.alignment.blocks import Blocks
from interp_assets.alignment.matching import best_matching
from interp_assets.alignment.measures import similarities_of, weights_of, without_direction
from interp_assets.alignment.outcome import MORE_HERE, Side, tables_of
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.partitions import layer_pairs, pair_key
from interp_assets.study import Layer, Study, load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.sparse_autoencoders.location import SaeLocation
from resources.sparse_autoencoders.read import read_sae
from tests.changed_study import changed
from tests.matching_instances import KINDS, cosines, instance

PAIR = ("embed_tokens", "layers.0")


def with_layers(study: Study, *keys: str) -> Study:
    place = SaeLocation(None, Path("sae.safetensors"), "sparsify")
    layers = tuple(Layer(key=key, hookpoint=key.split("@")[0], location=place) for key in keys)
    return study.model_copy(update={"layers": layers})


@pytest.fixture
def layers_file(two_layers: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_layers.parent, tmp_path / "world") / two_layers.name


def test_adjacent_layers_differ_in_one_number(layers_file: Path) -> None:
    study = load_study(changed(layers_file, {"alignment": {}}, "adjacent.yaml"))
    keys = ["layers.10", "layers.9.mlp", "layers.2", "layers.9", "layers.10.mlp", "layers.9@wide", "embed_tokens"]
    assert layer_pairs(with_layers(study, *keys)) == [
        ("layers.2", "layers.9"),
        ("layers.9", "layers.10"),
        ("layers.9.mlp", "layers.10.mlp"),
    ]
    assert layer_pairs(load_study(layers_file)) == []


@pytest.mark.parametrize(("rows", "columns"), [(30, 30), (30, 45), (45, 30)])
@pytest.mark.parametrize("dense", [0, 10**6])
def test_a_planted_permutation_is_found(rows: int, columns: int, dense: int) -> None:
    draw = np.random.default_rng(rows + columns)
    both = draw.normal(size=(max(rows, columns), 24)).astype(np.float32)
    order = draw.permutation(len(both))
    noisy = both[order] + 0.05 * draw.normal(size=both.shape).astype(np.float32)
    found = best_matching(cosines(both[:rows], noisy[:columns]), Blocks("test"), dense=dense)
    matched = dict(zip(found.row.tolist(), found.column.tolist(), strict=True))
    truth = {int(order[b]): b for b in range(columns) if order[b] < rows}
    assert truth
    assert {a: matched[a] for a in truth} == truth
    assert len(matched) == min(rows, columns)


@pytest.mark.parametrize("dense", [0, 10**6])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_and_next_best_are_those_of_the_whole_matrix(kind: str, dense: int) -> None:
    similarities = cosines(*instance(kind, 70, 90))
    truth = similarities.exact_tile(np.arange(70))
    found = best_matching(similarities, Blocks("test"), dense=dense)
    sides = Side("one", np.arange(70) + 5, {"dead": np.array([2, 3])}), Side("other", np.arange(90), {})
    tables = tables_of(similarities, found, sides, Blocks("test"))
    rows = tables["matching"].sort("latent_a")
    own = truth[found.row, found.column]
    np.testing.assert_allclose(rows["similarity"], own, atol=1e-14)
    assert rows["latent_a"].to_list() == (found.row + 5).tolist()
    # Products summed in another order differ in the last digits, so that ties may be broken either way.
    others = truth[found.row] - own[:, None]
    assert (rows["rank"].to_numpy() >= (others > 1e-12).sum(1) + 1).all()
    assert (rows["rank"].to_numpy() <= (others > -1e-12).sum(1)).all()
    nearest = ((others <= -1e-12).sum(1) == 89) & ((truth[:, found.column] - own <= -1e-12).sum(0) == 69)
    far = ((others > 1e-12).any(1)) | ((truth[:, found.column] - own > 1e-12).any(0))
    assert rows["mutual_nearest"].to_numpy()[nearest].all()
    assert not rows["mutual_nearest"].to_numpy()[far].any()

    left = tables["left_over"]
    assert left.filter(side="a").to_dicts() == [{"side": "a", "latent": n, "reason": "dead"} for n in (2, 3)]
    assert set(left.filter(side="b")["latent"]) == set(range(90)) - set(rows["latent_b"])
    assert set(left.filter(side="b")["reason"]) == {MORE_HERE}
    best = tables["next_best"].filter(side="a").sort("latent", "place")
    assert best.group_by("latent").len()["len"].unique().to_list() == [4]
    np.testing.assert_allclose(
        best["similarity"].to_numpy().reshape(70, 4),
        -np.sort(-truth, axis=1)[:, :4],
        atol=1e-3 if dense == 0 else 1e-14,
    )
    assert tables["next_best"].filter(side="b")["latent"].n_unique() == 90


def test_directions_that_cannot_be_compared() -> None:
    with pytest.raises(UnusableInput, match="directions of 3 and of 4 numbers"):
        similarities_of([np.ones((2, 3), np.float32)], [np.ones((2, 4), np.float32)], "decoder")
    rows = np.ones((5, 3), dtype=np.float32)
    rows[2] = 0
    assert np.flatnonzero(without_direction([rows], "layers.1")).tolist() == [2]
    rows[3, 1] = np.nan
    with pytest.raises(
        UnusableInput, match=r"layers\.1: directions of 1 latents hold NaN or infinity, such as latent 3"
    ):
        without_direction([rows], "layers.1")


def test_folded_thresholds_count() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 6, 5)).astype(np.float32)
    found = similarities_of([a], [b], "folded").exact_tile(np.arange(6))
    mean = np.concatenate([(a.astype(float) ** 2).sum(1), (b.astype(float) ** 2).sum(1)]).mean()
    expected = 1 - ((a[:, None].astype(float) - b[None]) ** 2).sum(2) / (2 * mean)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b)]
    same = similarities_of([unit[0]], [unit[1]], "folded").exact_tile(np.arange(6))
    np.testing.assert_allclose(same, similarities_of([a], [b], "decoder").exact_tile(np.arange(6)), atol=1e-6)


def test_both_is_the_mean_of_two_cosines() -> None:
    draw = np.random.default_rng(1)
    decoders, encoders = draw.normal(size=(2, 2, 6, 5)).astype(np.float32)
    found = similarities_of([decoders[0], encoders[0]], [decoders[1], encoders[1]], "both").exact_tile(np.arange(6))
    each = [similarities_of([x], [y], "decoder").exact_tile(np.arange(6)) for x, y in (decoders, encoders)]
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, atol=1e-14)


def test_only_an_sae_with_thresholds_can_be_folded(layers_file: Path) -> None:
    sae = read_sae(load_study(layers_file).layers[0].location)
    with pytest.raises(
        UnusableInput, match="similarity: folded needs the thresholds of a JumpReLU SAE, and this one is topk"
    ):
        weights_of(sae, "folded", "layers.0")


def test_a_pair_is_made_from_both_layers(layers_file: Path) -> None:
    settings = {"alignment": {"pairs": [list(PAIR)]}, "storage": "pairs"}
    file = changed(layers_file, settings, "pairs.yaml")
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
