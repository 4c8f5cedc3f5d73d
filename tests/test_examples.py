"""Every example equals a brute-force recomputation, and draws depend on their keys alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from interp_assets.activations import cache_file
from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.draws import PICK_WINDOW, SPLIT_CONTEXT, keyed
from interp_assets.examples.negatives import nearest_rows
from interp_assets.settings import Examples, ExplainExamples, TestExamples
from tests.synthetic_cache import CONTEXTS, LATENTS, LENGTH, firings, tokens, write_cache

WINDOW = 16
SAMPLERS = ["top", "top_pool", "random", "quantiles", "mixture"]


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    return firings()


@pytest.fixture(scope="module")
def cache(dense: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    return write_cache(tmp_path_factory.mktemp("cache"), dense)


@pytest.fixture(scope="module")
def neighbours() -> np.ndarray:
    import torch

    return nearest_rows(torch.randn(LATENTS, 12, generator=torch.Generator().manual_seed(0)), count=5)


def settings(
    sampler: str = "quantiles", placement: str = "aligned", negatives: str = "random", n: int = 20, **more: object
) -> Examples:
    return Examples(
        window=WINDOW,
        placement=placement,
        min_windows=6,
        explain=ExplainExamples(sampler=sampler, n=n, pool=30),
        test=TestExamples(activating=12, non_activating=8, negatives=negatives),
        **more,
    )


def brute_force_windows(dense: np.ndarray, latent: int) -> dict[tuple[int, int], float]:
    """(context, start) -> peak, for aligned windows."""
    found = {}
    for context in range(CONTEXTS):
        for start in range(0, LENGTH - WINDOW + 1, WINDOW):
            peak = dense[context, start : start + WINDOW, latent].max()
            if peak > 0:
                found[context, start] = float(peak)
    return found


def is_explain(latent: int, context: int, seed: int = 0) -> bool:
    return int(keyed(seed, SPLIT_CONTEXT, np.array([latent]), np.array([context]))[0]) < 2**63


def priority(latent: int, context: int, start: int) -> int:
    return int(keyed(0, PICK_WINDOW, np.array([latent]), np.array([context]), np.array([start]))[0])


@pytest.mark.parametrize("placement", ["aligned", "centred"])
@pytest.mark.parametrize("negatives", ["random", "neighbour"])
def test_tokens_and_activations_are_those_of_the_corpus(
    cache: CacheReader, dense: np.ndarray, neighbours: np.ndarray, placement: str, negatives: str
) -> None:
    near = neighbours if negatives == "neighbour" else None
    table = draw_examples(cache, tokens(), settings(placement=placement, negatives=negatives), near)
    rows = table.filter(pl.col("status") == "ok")
    assert len(rows) > 500
    for row in rows.iter_rows(named=True):
        inside = slice(row["start"], row["start"] + WINDOW)
        assert row["start"] + WINDOW <= LENGTH
        np.testing.assert_array_equal(row["tokens"], tokens()[row["context"], inside])
        np.testing.assert_array_equal(np.float32(row["activations"]), dense[row["context"], inside, row["latent"]])
        assert is_explain(row["latent"], row["context"]) == (row["purpose"] == "explain")
        peak = max(row["activations"])
        assert (peak > 0) == (row["kind"] == "activating")
        assert np.float32(peak) == np.float32(row["peak_activation"])
        if row["kind"] == "neighbour":
            assert dense[row["context"], inside, row["neighbour"]].max() > 0
            assert row["neighbour"] in neighbours[row["latent"]]
        if placement == "centred" and row["purpose"] == "explain" and WINDOW <= row["start"] < LENGTH - WINDOW - WINDOW:
            assert dense[row["context"], :, row["latent"]].argmax() == row["start"] + WINDOW * 3 // 4
    keys = ["latent", "purpose", "kind", "context", "start"]
    assert rows.select(keys).is_unique().all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_take_what_their_definition_says(cache: CacheReader, dense: np.ndarray, sampler: str) -> None:
    table = draw_examples(cache, tokens(), settings(sampler)).filter(
        (pl.col("kind") == "activating") & (pl.col("status") == "ok")
    )
    for latent in table["latent"].unique():
        windows = brute_force_windows(dense, latent)
        by_peak = sorted(windows, key=lambda w: (windows[w], *w))
        decile = {window: rank * 10 // len(windows) for rank, window in enumerate(by_peak)}
        explain = [w for w in windows if is_explain(latent, w[0])]
        mine = table.filter((pl.col("latent") == latent) & (pl.col("purpose") == "explain"))
        got = set(mine.select("context", "start").iter_rows())
        strongest = sorted(explain, key=lambda w: (-windows[w], *w))
        cheapest = sorted(explain, key=lambda w: priority(latent, *w))
        if sampler == "top":
            assert sorted(windows[w] for w in got) == sorted(windows[w] for w in strongest[:20])
        elif sampler == "random":
            assert got == set(cheapest[:20])
        elif sampler == "top_pool" and len({windows[w] for w in explain}) == len(explain):
            pool = set(strongest[:30])
            assert got == set([w for w in cheapest if w in pool][:20])
        elif sampler == "mixture" and len({windows[w] for w in explain}) == len(explain):
            pool = set(strongest[:30])
            first = [w for w in cheapest if w in pool][:10]
            rest = [w for w in cheapest if w not in first]
            assert got == set(first + rest[: 20 - len(first)])
        elif sampler == "quantiles":
            per_decile = [[w for w in cheapest if decile[w] == d] for d in range(10)]
            fullest, sizes = 20 // 10, [sum(w in got for w in each) for each in per_decile]
            for each, size in zip(per_decile, sizes, strict=True):
                assert size >= min(len(each), fullest)
                assert {w for w in each if w in got} == set(each[:size])
        assert len(got) == min(20, len(explain))
        assert {decile[w] for w in got} == set(mine["decile"])


@pytest.mark.parametrize("negatives", ["random", "neighbour"])
@pytest.mark.parametrize("placement", ["aligned", "centred"])
def test_shards_and_threads_change_nothing(
    cache: CacheReader,
    dense: np.ndarray,
    neighbours: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    negatives: str,
    placement: str,
) -> None:
    near = neighbours if negatives == "neighbour" else None
    chosen = settings("mixture", placement, negatives, latents=15)
    whole = draw_examples(cache, tokens(), chosen, near, threads=1)
    monkeypatch.setattr(cache_file, "ENTRIES_PER_FILE", 300)
    in_shards = write_cache(tmp_path, dense)
    assert len(in_shards.files) > 5
    assert draw_examples(in_shards, tokens(), chosen, near, threads=4).equals(whole)


def test_one_new_window_changes_few_examples_of_one_latent(
    cache: CacheReader, dense: np.ndarray, tmp_path: Path
) -> None:
    before = draw_examples(cache, tokens(), settings())
    latent = 25
    context = next(c for c in range(CONTEXTS) if dense[c, :WINDOW, latent].max() == 0 and is_explain(latent, c))
    more = dense.copy()
    more[context, 5, latent] = 1.234
    after = draw_examples(write_cache(tmp_path, more), tokens(), settings())
    columns = ["latent", "purpose", "kind", "context", "start"]
    gone = before.drop_nulls("start").join(after.drop_nulls("start"), on=columns, how="anti")
    assert set(gone["latent"].to_list()) <= {latent}
    assert len(gone) <= 4


def test_draws_do_not_depend_on_other_latents(cache: CacheReader, dense: np.ndarray, tmp_path: Path) -> None:
    before = draw_examples(cache, tokens(), settings())
    other = dense.copy()
    other[:, :, 30:] = firings(seed=5)[:, :, 30:]
    after = draw_examples(write_cache(tmp_path, other), tokens(), settings())
    same = pl.col("latent") < 30
    assert before.filter(same).equals(after.filter(same))
    assert not before.filter(~same).equals(after.filter(~same))


def test_latents_without_enough_windows_say_so(cache: CacheReader, dense: np.ndarray) -> None:
    table = draw_examples(cache, tokens(), settings())
    rows = {row["latent"]: row for row in table.unique("latent").iter_rows(named=True)}
    assert set(rows) == set(range(LATENTS))
    assert rows[7]["status"] == "dead"
    few = [latent for latent in range(LATENTS) if 0 < len(brute_force_windows(dense, latent)) < 6]
    assert few, "the data must hold a latent with few windows"
    for latent in few:
        assert rows[latent]["status"] == "too_few_examples"
        assert f"{len(brute_force_windows(dense, latent))} active windows" in rows[latent]["reason"]


def test_neighbours_are_the_nearest_by_cosine() -> None:
    import torch

    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 9, 50)[:, None]
    unit = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    similar = unit @ unit.T
    np.fill_diagonal(similar, -9)
    got = nearest_rows(rows, count=4, rows_per_block=7)
    np.testing.assert_array_equal(got, np.argsort(-similar, axis=1)[:, :4])
