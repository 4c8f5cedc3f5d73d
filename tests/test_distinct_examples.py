"""No place and no text twice for a latent, and nothing in where a window stands that tells what kind it is."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.leaks import start_auroc
from benchmarks.repeated_corpus import HEADER, LENGTH, active_where, edge_firings, repeated_corpus
from interp_assets.activations import cache_file
from interp_assets.activations.cache_file import CacheReader, Entries
from interp_assets.examples.cooccurrence import cooccurring
from interp_assets.examples.distinct import Shown, fill, slots_beside
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.repeats import RepeatedText, shared_run
from interp_assets.examples.shortfalls import shortfalls
from interp_assets.examples.windows import ActivationLookup, WindowShape, for_explaining
from interp_assets.settings import Examples, ExplainExamples, TestExamples
from tests.synthetic_cache import write_cache

WINDOW = 16
RUN = WINDOW // 2
KINDS = ["random", "neighbour"]


def settings(placement: str = "aligned", kinds: list[str] = KINDS, non_activating: int = 20) -> Examples:
    return Examples(
        window=WINDOW,
        placement=placement,
        min_windows=6,
        explain=ExplainExamples(n=20),
        test=TestExamples(activating=20, non_activating=non_activating, negatives=kinds, neighbour_by="cooccurrence"),
    )


@pytest.fixture(scope="module")
def corpus() -> np.ndarray:
    return repeated_corpus()


@pytest.fixture(scope="module")
def cache(corpus: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    return write_cache(tmp_path_factory.mktemp("repeated"), active_where(corpus))


@pytest.fixture(scope="module")
def near(cache: CacheReader, corpus: np.ndarray) -> np.ndarray:
    return cooccurring(cache, len(corpus), LENGTH, 5)[0]


def blind_to_repeats() -> RepeatedText:
    """As if the corpus had no text twice."""
    return RepeatedText(np.arange(np.prod(repeated_corpus().shape)).reshape(-1, LENGTH), WINDOW)


def runs(tokens: list[int]) -> set[tuple[int, ...]]:
    return {tuple(tokens[at : at + RUN]) for at in range(len(tokens) - RUN + 1)}


def pairs_that_share(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """The purposes or kinds of each two windows of one latent that share a run of half a window, by brute force."""
    found = []
    for _, group in rows.group_by("latent"):
        windows = [(row["purpose"], row["kind"], runs(row["tokens"])) for row in group.iter_rows(named=True)]
        found += [(a[0] + a[1], b[0] + b[1]) for a, b in combinations(windows, 2) if a[2] & b[2]]
    return found


def shown_before(rows: pl.DataFrame) -> float:
    """The share of activating test windows that equal an explain window of their latent, word for word."""
    mine = rows.filter(pl.col("kind") == "activating").with_columns(
        text=pl.col("tokens").cast(pl.List(pl.String)).list.join(" ")
    )
    explain, test = (mine.filter(pl.col("purpose") == purpose) for purpose in ("explain", "test"))
    return len(test.join(explain, on=["latent", "text"], how="semi")) / len(test)


def overlapping(rows: pl.DataFrame) -> int:
    ordered = rows.sort("latent", "context", "start").with_columns(pl.col("start").cast(pl.Int64))
    gap = pl.col("start").diff().over("latent", "context")
    return int(ordered.select((gap < WINDOW).sum()).item())


@pytest.mark.parametrize("placement", ["aligned", "centred"])
def test_no_text_and_no_place_is_shown_twice(
    cache: CacheReader, corpus: np.ndarray, near: np.ndarray, placement: str
) -> None:
    table = draw_examples(cache, corpus, settings(placement), near)
    rows = table.filter(pl.col("status") == "ok")
    assert set(rows["kind"]) == {"activating", *KINDS}
    assert len(rows) > 1000
    assert pairs_that_share(rows) == []
    assert overlapping(rows) == 0
    # Control: to who does not know what is repeated, much of it is there twice, in every combination.
    blind = draw_examples(cache, corpus, settings(placement), near, texts=blind_to_repeats())
    blind = blind.filter(pl.col("status") == "ok")
    shared = set(pairs_that_share(blind))
    assert {("explainactivating",) * 2, ("testactivating",) * 2, ("explainactivating", "testactivating")} <= shared
    assert any("testrandom" in each for each in shared)
    assert overlapping(blind) == 0
    assert shown_before(rows) == 0
    if placement == "aligned":
        assert shown_before(blind) > 0.05
    # And kinds that are drawn without regard for one another meet at the same places.
    alone = [draw_examples(cache, corpus, settings(placement, [kind]), near) for kind in KINDS]
    assert overlapping(pl.concat(alone).filter(pl.col("kind") != "activating")) > 0


def test_what_fires_on_boilerplate_alone_has_too_few_windows(cache: CacheReader, corpus: np.ndarray) -> None:
    """Latent 0 fires on the header that every document begins with, hundreds of times on the same words."""
    rows = draw_examples(cache, corpus, settings(kinds=["random"])).filter(pl.col("latent") == 0)
    assert rows["status"].to_list() == ["too_few_examples"]
    assert int(rows["reason"].item().split()[0]) < 6
    assert int(rows["reason"].item().split("(")[1].split(" more repeat their text)")[0]) > 100
    blind = draw_examples(cache, corpus, settings(kinds=["random"]), texts=blind_to_repeats())
    assert (blind.filter(pl.col("latent") == 0)["status"] == "ok").all()


@pytest.mark.parametrize("seed", range(4))
def test_repeats_by_brute_force(seed: int) -> None:
    draw = np.random.default_rng(seed)
    text = draw.integers(0, 60, (30, 40))
    text[:3] = draw.integers(0, 2, (3, 1))  # text that repeats itself
    for _ in range(40):  # pieces that stand elsewhere too, at other offsets
        length = int(draw.integers(4, 20))
        a, b = draw.integers(0, 30, 2)
        i, j = draw.integers(0, 40 - length, 2)
        text[b, j : j + length] = text[a, i : i + length]
    texts = RepeatedText(text, WINDOW)
    first = draw.integers(0, 9, 30)
    context, start = np.repeat(np.arange(30), 2), np.stack([first, first + WINDOW], axis=1).ravel()
    latent, turn = draw.integers(3, 5, len(context)), draw.permutation(len(context)).astype(np.uint64)
    text_of = [runs(text[c, s : s + WINDOW].tolist()) for c, s in zip(context, start, strict=True)]
    share = [
        (one, other)
        for one, other in combinations(range(len(context)), 2)
        if latent[one] == latent[other] and text_of[one] & text_of[other]
    ]
    gone = set(texts.repeats(latent, context, start, turn).tolist())
    assert len(share) > 4
    assert all(one in gone or other in gone for one, other in share)
    for window in gone:
        partners = [sum(pair) - window for pair in share if window in pair]
        assert any(turn[partner] < turn[window] for partner in partners)
    everywhere = [runs(text[c, s : s + WINDOW].tolist()) for c in range(30) for s in range(25)]
    counts: dict[tuple[int, ...], int] = {}
    for c in range(30):
        for s in range(40 - RUN + 1):
            counts[tuple(text[c, s : s + RUN].tolist())] = counts.get(tuple(text[c, s : s + RUN].tolist()), 0) + 1
    recur = [any(counts[run] > 1 for run in each) for each in everywhere]
    np.testing.assert_array_equal(texts.somewhere.ravel(), recur)


def test_the_run_that_counts_is_half_a_window_but_no_phrase() -> None:
    assert [shared_run(window) for window in (4, 8, 12, 16, 32, 64)] == [4, 8, 8, 8, 16, 32]


def test_survivors_depend_on_nothing_but_the_latent(
    cache: CacheReader, corpus: np.ndarray, near: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = draw_examples(cache, corpus, settings("centred"), near, threads=1)
    monkeypatch.setattr(cache_file, "ENTRIES_PER_FILE", 300)
    dense = active_where(corpus)
    shards = write_cache(tmp_path / "shards", dense)
    assert len(shards.files) > 5
    assert draw_examples(shards, corpus, settings("centred"), near, threads=4).equals(whole)
    dense[:, :, 10:] = 0
    fewer = draw_examples(write_cache(tmp_path / "fewer", dense), corpus, settings(kinds=["random"]))
    all_latents = draw_examples(cache, corpus, settings(kinds=["random"]))
    assert fewer.filter(pl.col("latent") < 10).equals(all_latents.filter(pl.col("latent") < 10))


@pytest.mark.parametrize("placement", ["aligned", "centred"])
def test_where_a_window_stands_does_not_tell_its_kind(tmp_path: Path, placement: str) -> None:
    """Latents that fire near the edges of contexts, some early only, so that centred windows are pushed inwards."""
    dense = edge_firings()
    text = np.random.default_rng(1).integers(0, 5000, dense.shape[:2]).astype(np.uint32)
    cache = write_cache(tmp_path, dense)
    near = cooccurring(cache, *dense.shape[:2], 5)[0]
    test = draw_examples(cache, text, settings(placement, non_activating=40), near).filter(pl.col("purpose") == "test")
    activating = test.filter(pl.col("kind") == "activating")
    for kind in KINDS:
        negatives = test.filter(pl.col("kind") == kind)
        assert len(negatives) > 400
        assert abs(start_auroc(activating, negatives) - 0.5) < 0.02
    # Control: silent windows that stand anywhere, as they once were drawn.
    step = WINDOW if placement == "aligned" else 1
    anywhere = np.random.default_rng(2).integers(0, (LENGTH - WINDOW) // step + 1, len(activating)) * step
    assert start_auroc(activating, activating.with_columns(start=pl.Series(anywhere))) > 0.55


def test_windows_on_offer_are_taken_in_order_and_never_twice() -> None:
    texts = RepeatedText(np.arange(10 * LENGTH).reshape(10, LENGTH), WINDOW)
    shown = Shown(texts)
    latent, start = np.array([3, 3, 5]), np.array([0, 20, 20])
    shown.add(latent, np.array([1, 1, 1]), start)
    slots = slots_beside(latent, start, 4)
    assert slots.start.tolist() == [0, 20, 0, 20, 20, 20, 20, 20]
    slot = np.array([0, 0, 1, 1, 2, 2, 4, 4, 5])
    context = np.array([1, 2, 2, 3, 2, 4, 2, 9, 2])
    # Latent 3: context 1 has its start 0 taken; 2 goes to slot 0, and a second time at start 20 to slot 1.
    elsewhere = Entries(*np.ones((4, 1), dtype=np.int64))
    silent = ActivationLookup(elsewhere, WindowShape(WINDOW, "centred", 10, LENGTH))
    assert context[fill(slots, slot, context, silent, shown)].tolist() == [2, 2, 4, 2]
    assert shown.clash(np.array([3, 3, 5]), np.array([2, 2, 9]), np.array([15, 36, 20])).tolist() == [
        True,
        False,
        False,
    ]


def test_what_is_lacking_is_said(cache: CacheReader, corpus: np.ndarray, near: np.ndarray) -> None:
    asked = settings()
    table = draw_examples(cache, corpus, asked, near)
    short = shortfalls(table, asked)
    wanted = {
        ("explain", "activating"): 20,
        ("test", "activating"): 20,
        ("test", "random"): 10,
        ("test", "neighbour"): 10,
    }
    expected = set()
    for latent in table.filter(pl.col("status") == "ok")["latent"].unique():
        for (purpose, kind), n in wanted.items():
            mine = table.filter(
                (pl.col("latent") == latent) & (pl.col("purpose") == purpose) & (pl.col("kind") == kind)
            )
            if len(mine) < n:
                expected.add((latent, purpose, kind, n, len(mine)))
    assert {kind for _, _, kind, _, _ in expected} >= {"activating", "neighbour"}
    assert set(short.drop("reason").iter_rows()) == expected
    assert short["reason"].null_count() == 0
    assert len(HEADER) == 24


@pytest.mark.parametrize("latent", [8, 12])
def test_one_new_firing_moves_few_windows_of_its_latent(tmp_path: Path, latent: int) -> None:
    text = np.random.default_rng(1).integers(0, 5000, (200, LENGTH)).astype(np.uint32)
    dense = active_where(np.random.default_rng(5).integers(len(HEADER), 800, text.shape))
    before = draw_examples(write_cache(tmp_path / "before", dense), text, settings(kinds=["random"]))
    testing = ~for_explaining(0, np.array(latent), np.arange(len(text)))
    context = np.flatnonzero(testing & (dense[:, 16:32, latent].max(axis=1) == 0))[0]
    dense[context, 20, latent] = 1.234
    after = draw_examples(write_cache(tmp_path / "after", dense), text, settings(kinds=["random"]))
    columns = ["latent", "purpose", "kind", "context", "start"]
    gone = before.drop_nulls("start").join(after.drop_nulls("start"), on=columns, how="anti")
    assert set(gone["latent"]) == {latent}
    assert len(gone) <= 6
