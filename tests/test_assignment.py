"""The sparse matching against scipy's dense one, and its certificate against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from interp_assets.alignment import assignment
from interp_assets.alignment.assignment import assign
from interp_assets.alignment.auction import auction
from interp_assets.alignment.blocks import Arrays, Blocks
from interp_assets.alignment.candidates import candidates, top_of_rows
from interp_assets.alignment.directions import parts
from interp_assets.alignment.matching import best_matching
from interp_assets.alignment.sparse_graph import NOBODY, Edges, Graph, greedy
from tests.matching_instances import KINDS, check, cosines, exact, instance, sparse

SHAPES = [(300, 300), (200, 330), (330, 200), (150, 151)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_is_that_of_the_dense_optimum(kind: str, shape: tuple[int, int]) -> None:
    similarities = cosines(*instance(kind, *shape))
    found = sparse(similarities, per_row=8, per_column=4)
    check(found, exact(similarities))
    assert (np.diff(found.row) > 0).all()


@pytest.mark.parametrize("kind", ["clustered", "duplicated_rows"])
def test_a_thousand_latents(kind: str) -> None:
    similarities = cosines(*instance(kind, 1_200, 1_250, 32))
    check(sparse(similarities), exact(similarities))


@pytest.mark.parametrize("dense", [0, 10**6])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 1)])
def test_one_latent(shape: tuple[int, int], dense: int) -> None:
    similarities = cosines(*instance("random", *shape))
    found, truth = best_matching(similarities, Blocks("test"), dense=dense), exact(similarities)
    assert (len(found.row), found.gap) == (1, 0.0)
    assert found.similarity[0] == pytest.approx(truth.max(), abs=1e-14)
    assert truth[found.row[0], found.column[0]] == truth.max()


@pytest.mark.parametrize("seed", range(6))
def test_values_that_differ_by_their_rounding_alone(seed: int) -> None:
    """Nearly opposite directions: all cosines are -1 but for the last digits, and none of these may be chased."""
    draw = np.random.default_rng(seed)
    base = draw.normal(size=24)
    a, b = ((sign * (base + 1e-7 * draw.normal(size=(n, 24)))).astype(np.float32) for sign, n in ((1, 30), (-1, 40)))
    similarities = cosines(a, b)
    truth = exact(similarities)
    row, column = (each.ravel() for each in np.indices(truth.shape))
    found = assign(Edges(row, column, truth.ravel()), *truth.shape)
    best = truth[linear_sum_assignment(truth, maximize=True)].sum()
    assert truth.ravel()[found.edge].sum() == pytest.approx(best, rel=1e-12)


def test_thousands_that_are_alike_are_paired_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """All have the same candidates: the search for what these leave over goes one level down, and not a hundred."""
    levels: list[str] = []
    part = Blocks.part
    monkeypatch.setattr(Blocks, "part", lambda self, name: levels.append(name) or part(self, name))
    draw = np.random.default_rng(0)
    base = draw.normal(size=64)
    a, b = ((base + 0.02 * draw.normal(size=(1_400, 64))).astype(np.float32) for _ in range(2))
    similarities = cosines(a, b)
    found = sparse(similarities)
    assert len(levels) == 1
    best = exact(similarities)
    assert found.similarity.sum() == pytest.approx(best[linear_sum_assignment(best, maximize=True)].sum(), rel=1e-9)


@pytest.mark.parametrize("shape", [(40, 40), (30, 55)])
def test_prices_prove_the_assignment(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(1)
    values = np.round(draw.random(shape), 2)
    row, column = (each.ravel() for each in np.indices(shape))
    found = assign(Edges(row, column, values.ravel()), *shape)
    used = column[found.edge]
    profit = values - found.price
    np.testing.assert_allclose(profit[np.arange(shape[0]), used], profit.max(1), atol=1e-11)
    if shape[0] < shape[1]:
        assert found.price.min() >= 0
        assert not found.price[np.setdiff1d(np.arange(shape[1]), used)].any()
    best = values[linear_sum_assignment(values, maximize=True)].sum()
    assert values.ravel()[found.edge].sum() == pytest.approx(best, abs=1e-9)


def test_the_auction_alone_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `improve` is there for: after a coarse auction there is something to improve, and it is improved."""
    monkeypatch.setattr(assignment, "SMALLEST_EPSILON", 0.05)
    draw = np.random.default_rng(2)
    values = draw.random((200, 200))
    row, column = (each.ravel() for each in np.indices(values.shape))
    edges = Edges(row, column, values.ravel())
    graph = Graph(edges, *values.shape)
    rough = np.full(200, NOBODY)
    auction(graph, rough, np.zeros(200), np.arange(200), 0.05)
    best = values[linear_sum_assignment(values, maximize=True)].sum()
    assert best - edges.value[rough].sum() > 0.1
    assert edges.value[assign(edges, *values.shape).edge].sum() == pytest.approx(best, rel=1e-12)


def test_greedy_takes_the_greatest_that_is_left() -> None:
    draw = np.random.default_rng(3)
    values = np.round(draw.random((60, 50)), 2)
    row, column = (each.ravel() for each in np.indices(values.shape))
    taken = greedy(Edges(row, column, values.ravel()), 60, 50)
    order = sorted(zip(-values.ravel(), row, column, strict=True))
    rows, columns, expected = set(), set(), set()
    for _, i, j in order:
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            expected.add((int(i), int(j)))
    assert {(int(row[e]), int(column[e])) for e in taken} == expected


@pytest.mark.parametrize(("columns", "count"), [(5, 3), (64, 3), (1_000, 7), (1_003, 7)])
def test_the_best_columns_are_found_by_groups(columns: int, count: int) -> None:
    tile = torch.randn(20, columns, generator=torch.Generator().manual_seed(columns))
    found = tile.gather(1, top_of_rows(tile, count)).sort(dim=1).values
    assert torch.equal(found, tile.sort(dim=1).values[:, -count:])


def test_candidates_of_columns_are_found_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions of few numbers that bfloat16 holds exactly, so that the best are known."""
    draw = np.random.default_rng(4)
    a = 2.0 ** draw.integers(-3, 4, size=(500, 6)).astype(np.float32)
    b = draw.normal(size=(600, 6)).astype(np.float32)
    similarities = cosines(a, b)
    monkeypatch.setattr(
        "interp_assets.alignment.candidates.row_blocks",
        lambda rows, blocks=0: parts(rows, 50),
    )
    edges = candidates(similarities, Blocks("test"), 1, 3)
    truth, kept = exact(similarities), np.zeros((500, 600), dtype=bool)
    kept[edges.row, edges.column] = True
    lowest_kept = np.where(kept, truth, np.inf)
    third = np.sort(truth, axis=0)[-3]
    assert ((kept & (truth >= third - 0.02)).sum(0) >= 3).mean() > 0.99
    assert np.isfinite(lowest_kept.min(1)).all()


def test_an_interrupted_matching_goes_on_from_the_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever block it is stopped at, the blocks before are not computed again, and the result is the same."""
    similarities = cosines(*instance("clustered", 300, 300))
    for module in ("candidates", "certificate"):
        monkeypatch.setattr(f"interp_assets.alignment.{module}.row_blocks", lambda rows, blocks=0: parts(rows, 100))
    calls: list[str] = []
    limit = -1
    once = Blocks.once

    def counting(self: Blocks, what: str, compute):  # type: ignore[no-untyped-def]
        def counted() -> Arrays:
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append(what)
            return compute()

        return once(self, what, counted)

    monkeypatch.setattr(Blocks, "once", counting)
    whole = best_matching(similarities, Blocks("test", tmp_path / "whole"), dense=0, per_row=2, per_column=1)
    steps = list(calls)
    assert whole.looks > 1 and len(steps) == len(set(steps))
    calls.clear()
    blocks = Blocks("test", tmp_path / "stopped")
    for limit in range(len(steps)):
        with pytest.raises(KeyboardInterrupt):
            best_matching(similarities, blocks, dense=0, per_row=2, per_column=1)
        assert calls == steps[:limit]
    limit = -1
    again = best_matching(similarities, blocks, dense=0, per_row=2, per_column=1)
    assert calls == steps
    for one, other in zip([*whole[:-1], *whole.looked_at], [*again[:-1], *again.looked_at], strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "stopped" / f"{steps[0].replace(' ', '_')}.npz").write_bytes(b"half of it")
    best_matching(similarities, blocks, dense=0, per_row=2, per_column=1)
    assert calls[len(steps) :] == steps[:1]
    blocks.remove()
    assert not (tmp_path / "stopped").exists()


def test_blocks_of_other_inputs_are_not_used(tmp_path: Path) -> None:
    def made(inputs: str, value: float) -> float:
        blocks = Blocks("test", tmp_path / "blocks").of(inputs)
        return float(blocks.once("one", lambda: {"x": np.array([value])})["x"][0])

    assert [made("these", 1), made("these", 2), made("others", 3), made("these", 4)] == [1, 1, 3, 4]
