"""What is made of matchings: chains through layers, whether explanations agree, correlations of activations, the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors.torch import load_file, save_file

from interp_assets.alignment import correlations
from interp_assets.alignment.correlations import Correlations, Firing
from interp_assets.alignment.outcome import NOTHING_THERE
from interp_assets.alignment.overlap import RANDOM_MATCHINGS, explained_alike
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.partitions import pair_key, partitions_of
from interp_assets.report.alignment import section, site, tables_of_pairs
from interp_assets.report.chains import LAST_LAYER, LEFT_OVER, LOST, Pair, chains, families
from interp_assets.study import load_study
from interp_assets.tables import LAYER_MATCHING, NEXT_BEST, OVERLAP_OF_PAIRS, conform
from resources.loaded_models import LoadedModels
from tests.changed_study import changed
from tests.methods_study import make_bag_of_words
from tests.synthetic_cache import write_cache

PAIR = ("embed_tokens", "layers.0")


def pair(a: str, b: str, matches: list[tuple[int, int, float, bool]], others: list[tuple[int, int, float]]) -> Pair:
    """
    Args:
        matches: latent_a, latent_b, similarity, mutual_nearest.
        others: latents of b with the latent of a that is nearest to them, and how similar; the partners of the matches
            are theirs.
    """
    table = pl.DataFrame(matches, schema=["latent_a", "latent_b", "similarity", "mutual_nearest"], orient="row")
    best = [("a", a_, 1, b_, s) for a_, b_, s, _ in matches] + [("b", b_, 1, a_, s) for a_, b_, s, _ in matches]
    best += [("b", b_, 1, a_, s) for b_, a_, s in others]
    next_best = pl.DataFrame(best, schema=["side", "latent", "place", "other", "similarity"], orient="row")
    return Pair(a, b, conform(table, LAYER_MATCHING), pl.DataFrame(), conform(next_best, NEXT_BEST))


def test_chains_begin_go_on_split_and_end() -> None:
    first = pair("l.8", "l.9", [(0, 5, 0.9, True), (1, 6, 0.8, False), (2, 7, 0.7, True)], [(8, 0, 0.85), (9, 0, 0.3)])
    second = pair("l.9", "l.10", [(5, 1, 0.6, True), (6, 2, 0.9, True), (8, 3, 0.5, False)], [])
    second = second.__class__(
        second.a, second.b, second.matching, second.left_over,
        pl.concat([second.next_best, pl.DataFrame(
            [("a", 7, 1, 1, 0.1), ("a", 9, 1, 1, 0.1)], schema=NEXT_BEST, orient="row")]),
    )  # fmt: skip
    table = chains([first, second])
    told = {}
    for _, rows in table.group_by("chain", maintain_order=True):
        told[tuple(zip(rows["layer"], rows["latent"], strict=True))] = (rows["end"][-1], rows["length"][0])
        assert rows["end"][:-1].null_count() == len(rows) - 1
        assert rows["step"].to_list() == list(range(1, len(rows) + 1))
    assert told == {
        (("l.8", 0), ("l.9", 5), ("l.10", 1)): (LAST_LAYER, 3),
        (("l.8", 1),): (LOST, 1),
        (("l.8", 2), ("l.9", 7)): (LEFT_OVER, 2),
        (("l.9", 6), ("l.10", 2)): (LAST_LAYER, 2),
        (("l.9", 8),): (LOST, 1),
        (("l.9", 9),): (LEFT_OVER, 1),
        (("l.10", 3),): (LAST_LAYER, 1),
    }
    at = {(row["layer"], row["latent"]): row for row in table.to_dicts()}
    assert at["l.9", 5]["similarity"] == 0.9
    # Latent 8 is nearest to latent 0 and nearly as similar as its match; latent 9 is not.
    assert (at["l.8", 0]["splits"], at["l.8", 2]["splits"], at["l.10", 1]["splits"]) == (1, 0, None)


def test_pairs_follow_one_another_in_whatever_order_they_are_named() -> None:
    one, two, over = (pair(a, b, [(0, 0, 0.9, True)], []) for a, b in (("x.1", "x.2"), ("x.2", "x.3"), ("x.1", "x.3")))
    for given in ([one, two, over], [two, one, over], [over, two, one]):
        rows = [[(each.a, each.b) for each in row] for row in families(given)]
        assert sorted(rows) == [[("x.1", "x.2"), ("x.2", "x.3")], [("x.1", "x.3")]]
    # A picture of the pair that skips a layer shows that pair's chains alone.
    table = chains([one, two, over])
    assert table.filter(row=1)["layer"].to_list() == ["x.1", "x.3"]
    assert table.filter(row=0)["layer"].to_list() == ["x.1", "x.2", "x.3"]


def test_sites_are_keys_without_numbers() -> None:
    assert site("layers.8.mlp") == site("layers.10.mlp") != site("layers.8")
    assert site("layers.8") == site("layers.9")


def test_where_no_match_is_explained_nothing_is_shown_of_it() -> None:
    rows = [
        ("x.1", "x.2", explainer, matching, "mean_cosine", n, 0.5 if n else None, None, None)
        for explainer, matching, n in [
            ("quotes", "optimal", 3),
            ("quotes", "random", 9),
            ("words", "optimal", 0),
            ("words", "random", 9),
        ]
    ]
    tables = tables_of_pairs(pairs := [pair("x.1", "x.2", [(0, 0, 0.9, True)], [])], {}, {})
    tables["overlap"] = pl.DataFrame(rows, schema=OVERLAP_OF_PAIRS, orient="row")
    environment = Environment(loader=PackageLoader("interp_assets.report"), autoescape=True, undefined=StrictUndefined)
    page = section(pairs, tables, environment)
    assert "no match has both its latents explained:\nx.1 to x.2 by words.</p>" in page
    assert page.count("<td>quotes</td>") == 2 and "<td>words</td>" not in page


def explanations(texts: dict[int, str], status: str = "ok") -> pl.DataFrame:
    columns = {"latent": list(texts), "explanation": list(texts.values())}
    return pl.DataFrame(columns, schema_overrides={"latent": pl.UInt32}).with_columns(
        explainer=pl.lit("e"), status=pl.lit(status)
    )


def test_explanations_that_agree_stand_out_from_chance() -> None:
    """Latent i of both layers is explained by the same word; the matching is right, the greedy one wrong in half."""
    n = 40
    words = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0].astype(np.float32)
    a, b = explanations({i: str(i) for i in range(n)}), explanations({i + 100: str(i) for i in range(n)})
    right = pl.DataFrame({"latent_a": range(50), "latent_b": range(100, 150)}, schema=["latent_a", "latent_b"])
    right = right.cast(pl.UInt32)
    shift = [100 + (i if i < 20 else 20 + (i + 1) % 20) for i in range(n)]
    greedy = pl.DataFrame({"latent_a": range(n), "latent_b": shift}).cast(pl.UInt32)
    seen: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return words[[int(text) for text in texts]]

    overlap, pairs = explained_alike({"optimal": right, "greedy": greedy}, a, b, embed, seed=0)
    of = {(row["matching"], row["statistic"]): row for row in overlap.to_dicts()}
    optimal, random = of["optimal", "mean_cosine"], of["random", "mean_cosine"]
    assert (optimal["value"], optimal["n_latents"]) == (pytest.approx(1), n)
    assert of["greedy", "mean_cosine"]["value"] == pytest.approx(0.5, abs=1e-5)
    assert of["greedy", "mean_cosine"]["low"] < 0.4 < 0.6 < of["greedy", "mean_cosine"]["high"]
    # Each of 40 words meets itself once in 40 random matchings.
    assert random["value"] == pytest.approx(1 / n, abs=0.01)
    above = of["optimal", "above_random"]
    assert above["low"] > 0.9
    assert len(pairs) == 2 * n
    again, _ = explained_alike({"optimal": right, "greedy": greedy}, a, b, embed, seed=0)
    assert again.equals(overlap)
    assert RANDOM_MATCHINGS >= 50


def test_only_what_both_sides_explain_is_compared() -> None:
    a = pl.concat([explanations({1: "x", 2: "y"}), explanations({3: "z"}, "failed")])
    b = explanations({7: "x", 9: "w"})
    matching = pl.DataFrame({"latent_a": [1, 2, 3], "latent_b": [7, 8, 9]}).cast(pl.UInt32)
    vectors = dict(zip("xyzw", np.eye(4, dtype=np.float32), strict=True))
    overlap, pairs = explained_alike(
        {"optimal": matching}, a, b, lambda texts: np.stack([vectors[text] for text in texts]), 0
    )
    assert pairs.select("latent_a", "latent_b").rows() == [(1, 7)]
    row = overlap.filter(matching="optimal", statistic="mean_cosine").to_dicts()[0]
    assert (row["n_latents"], row["value"], row["low"]) == (1, 1.0, None)
    nothing, none = explained_alike({"optimal": matching}, a.clear(), b, lambda texts: np.zeros((0, 4)), 0)
    assert len(nothing) == len(none) == 0


@pytest.mark.parametrize("at_once", [2**24, 100])
def test_correlations_are_those_of_the_dense_activations(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two caches, dense, by numpy's own correlation; BOS positions are no positions."""
    monkeypatch.setattr(correlations, "ENTRIES_AT_ONCE", at_once)
    draw, (contexts, length, latents) = np.random.default_rng(0), (20, 12, 30)
    dense, firing = [], []
    for number in range(2):
        acts = draw.random((latents, contexts, length)).astype(np.float32) * (
            draw.random((latents, contexts, length)) < 0.2
        )
        acts[:, :, 0] = 0
        if number:
            acts[:5] = dense[0].reshape(latents, contexts, length)[5:10] * 2
        acts[11] = 0
        dense.append(acts.reshape(latents, -1))
        cache = write_cache(tmp_path / f"{number}", acts.transpose(1, 2, 0))
        firing.append(Firing.of(cache, np.arange(latents), contexts, length, 1))
        assert np.flatnonzero(~firing[-1].varies).tolist() == [11]
    rows = np.delete(np.arange(latents), 11)
    similarities = Correlations(*(each.subset(rows) for each in firing))
    kept = (np.arange(contexts * length) % length) != 0
    truth = np.corrcoef(dense[0][rows][:, kept], dense[1][rows][:, kept])[: len(rows), len(rows) :]
    np.testing.assert_allclose(similarities.exact_tile(np.arange(len(rows))), truth, atol=1e-6)
    assert (
        np.abs(
            similarities.tile(slice(3, 9), slice(0, len(rows))).numpy() - similarities.exact_tile(np.arange(3, 9))
        ).max()
        <= similarities.error
    )
    i, j = np.indices(truth.shape).reshape(2, -1)
    np.testing.assert_allclose(
        similarities.exact(i, j), similarities.exact_tile(np.arange(len(rows))).ravel(), atol=1e-13
    )
    np.testing.assert_allclose(similarities.T.exact_tile(np.arange(4)), truth.T[:4], atol=1e-6)
    assert truth[5, 0] == pytest.approx(1)


@pytest.fixture(scope="module")
def paired(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with explanations and an embedder, matched."""
    root = tmp_path_factory.mktemp("paired") / "world"
    shutil.copytree(two_layers.parent, root)
    make_bag_of_words(root / "embedder")
    settings = {"alignment": {"pairs": [list(PAIR)]}, "scorers.embedding": {"model": "./embedder"}, "storage": "paired"}
    return changed(root / two_layers.name, settings, "paired.yaml")


def test_from_saes_to_the_report(paired: Path) -> None:
    study, models = load_study(paired), LoadedModels()
    made = {}
    for name, asset in Freshness(study).assets.items():
        for key in partitions_of(study, asset):
            made[name, key] = make_partition(study, name, key, models).partition
    key = pair_key(*PAIR)
    matched, overlap = made["layer_matching", key], made["semantic_overlap", key].read("overlap")
    assert matched.metadata["certified_gap"] == 0.0
    assert not (matched.folder / "blocks").exists()
    assert {"optimal", "greedy", "random"} == set(overlap["matching"])
    # Both SAEs have the same directions and read the same words, so that explanations agree.
    assert overlap.filter(statistic="above_random")["low"].min() > 0
    report = made["score_report", None]
    page = report.files("page")[0].read_text()
    assert "What persists from layer to layer" in page
    assert page.count("<svg") >= 4
    chains = report.read("chains")
    assert chains.filter(step=2)["similarity"].min() == pytest.approx(1)
    assert report.read("pairs")["mutual_nearest"].to_list() == [1.0]

    other = Freshness(load_study(changed(paired, {"explainers.quotes.words": 2}, "other.yaml")))
    assert other.own_state(other.assets["layer_matching"], key)[0] == "fresh"
    assert other.own_state(other.assets["explanations"], PAIR[0])[0] == "stale"
    moved = Freshness(load_study(changed(paired, {"alignment.similarity": "encoder"}, "moved.yaml")))
    assert moved.own_state(moved.assets["layer_matching"], key)[0] == "stale"
    for asset in ("latent_statistics", "explanations", "activation_cache"):
        assert moved.own_state(moved.assets[asset], PAIR[0])[0] == "fresh"


def test_activations_are_a_measure_and_read_the_cache(paired: Path) -> None:
    study = load_study(
        changed(paired, {"alignment.similarity": "activations", "alignment.dead": "matched"}, "acts.yaml")
    )
    assets = Freshness(study).assets
    assert {read.asset for read in assets["layer_matching"].reads} == {"activation_cache", "corpus"}
    models = LoadedModels()
    for layer in PAIR:
        for asset in ("sae_weights", "corpus", "activation_cache"):
            make_partition(study, asset, None if asset == "corpus" else layer, models)
    made = make_partition(study, "layer_matching", pair_key(*PAIR), models).partition
    table = made.read("matching")
    assert len(table) and (table["similarity"] > 0.5).any()
    assert set(made.read("left_over")["reason"]) <= {"its activation is always the same"}


def test_a_layer_without_live_latents_leaves_an_empty_table_with_a_reason(paired: Path) -> None:
    """All directions zero: nothing can be matched, and everything downstream says why."""
    root = shutil.copytree(paired.parent, paired.parent.with_name("empty"))
    sae = root / "saes" / PAIR[1] / "sae.safetensors"
    weights = load_file(sae)
    save_file({**weights, "W_dec": torch.zeros_like(weights["W_dec"])}, sae)
    study = load_study(changed(root / paired.name, {"alignment.dead": "matched"}, "empty.yaml"))
    models, key = LoadedModels(), pair_key(*PAIR)
    for layer in PAIR:
        make_partition(study, "sae_weights", layer, models)
    made = make_partition(study, "layer_matching", key, models).partition
    for table in ("matching", "greedy", "next_best"):
        assert made.read(table).is_empty()
    n = len(weights["W_dec"])
    left = made.read("left_over").group_by("side", "reason").len().sort("side").rows()
    assert left == [("a", NOTHING_THERE, n), ("b", "direction is zero", n)]
    assert made.metadata["nothing_matched"] == f"no latents to match in {PAIR[1]}"
