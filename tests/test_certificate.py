"""What a look at all similarities proves, and that it proves nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from interp_assets.alignment import certificate, directions
from interp_assets.alignment.blocks import Arrays, Blocks
from interp_assets.alignment.candidates import candidates
from interp_assets.alignment.certificate import (
    EVERYWHERE,
    GROUP,
    MARGIN,
    NEAR_PER_ROW,
    Unknown,
    look_at,
    look_over,
    near_pairs,
)
from interp_assets.alignment.directions import Products
from interp_assets.alignment.measures import similarities_of
from interp_assets.alignment.ranks import ranks
from interp_assets.alignment.sparse_graph import Edges
from interp_assets.examples.draws import rank_in_group
from tests.matching_instances import KINDS, check, cosines, exact, instance, sparse


def test_too_few_candidates_are_noticed_and_the_bound_holds() -> None:
    """With one candidate a row and no second look the matching is not the best, and the certificate says so."""
    similarities = cosines(*instance("clustered", 400, 400))
    truth = exact(similarities)
    best = truth[linear_sum_assignment(truth, maximize=True)].sum()
    few = sparse(similarities, per_row=1, per_column=1, passes=1)
    assert best - few.similarity.sum() > 1e-3
    assert few.gap >= best - few.similarity.sum() - 1e-9
    more = sparse(similarities, per_row=1, per_column=1)
    assert more.looks > 1
    check(more, truth)


def test_a_certificate_that_skips_columns_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: prices that look at candidates only call the same matching the best."""
    similarities = cosines(*instance("clustered", 400, 400))
    none = np.zeros(0, dtype=np.int64)

    def blind_look(_: Products, rows: np.ndarray, profit: np.ndarray, *rest: object) -> Arrays:
        return {"greatest": profit, "limit": profit, "row": none, "column": none, "better": np.zeros(1)}

    monkeypatch.setattr(certificate, "look_at", blind_look)
    found = sparse(similarities, per_row=1, per_column=1)
    assert found.gap == 0.0
    with pytest.raises(AssertionError):
        check(found, exact(similarities))


def test_single_precision_alone_does_not_decide() -> None:
    """Directions that differ in the tenth digit: float32 calls all similarities equal, float64 knows the best pairs."""
    draw = np.random.default_rng(5)
    base, rest = draw.normal(size=64), draw.normal(size=(40, 64))
    a = (base + 1e-5 * rest).astype(np.float32)
    similarities = cosines(a, a[draw.permutation(40)])
    tile = similarities.tile(slice(0, 40), slice(0, 40)).numpy()
    assert np.ptp(tile) <= similarities.error
    check(sparse(similarities, per_row=4, per_column=2), exact(similarities))


def test_tiles_keep_their_bound() -> None:
    for seed in range(5):
        similarities = cosines(*instance("clustered", 300, 500, 96, seed))
        off = np.abs(similarities.tile(slice(0, 300), slice(0, 500)).numpy() - exact(similarities)).max()
        assert 0 < off <= similarities.error


def test_a_bound_on_the_error_that_is_wide_keeps_the_certificate_right() -> None:
    """Folded thresholds make one latent many times as long as the others, and with it the bound on a float32 tile."""
    draw = np.random.default_rng(4)
    a, b = draw.normal(size=(2, 60, 1_024)).astype(np.float32)
    a[7] *= 400
    b[9] *= 400
    similarities = similarities_of([a], [b], "folded")
    assert similarities.error > MARGIN
    check(sparse(similarities, per_row=2, per_column=1), exact(similarities))


@pytest.mark.parametrize("error", [None, 1e-6])
def test_ties_do_not_fill_the_memory(error: float | None) -> None:
    """A tile of equal numbers: a rough look lists so many of each row, a certificate has them computed whole."""
    found = near_pairs(torch.zeros(3, 4_800), np.zeros(3), MARGIN, error)
    assert found.many.all() == (error is not None)
    assert np.bincount(found.row, minlength=3).max() <= NEAR_PER_ROW * GROUP


def test_a_block_certifies_only_what_holds() -> None:
    """One pair made better than its row's own is counted; what comes near is a candidate too, and nothing else."""
    similarities = cosines(*instance("random", 64, 80))
    truth = exact(similarities)
    profit = truth.max(1) + 0.01
    profit[7] = np.sort(truth[7])[-2] + 1e-9
    found = look_at(similarities, np.arange(64), profit, np.zeros(80))
    assert found["better"].tolist() == [1]
    pairs = set(zip(found["row"].tolist(), found["column"].tolist(), strict=True))
    assert pairs == set(zip(*(each.tolist() for each in np.nonzero(truth >= profit[:, None] - MARGIN)), strict=True))
    expected = profit.copy()
    expected[7] = truth[7].max()
    np.testing.assert_allclose(found["greatest"], expected, atol=1e-14)


def test_rows_with_many_ties_are_certified_too() -> None:
    """More pairs as good as its row's own than are looked at one by one, and one that is better by 1e-9."""
    draw = np.random.default_rng(6)
    base, other = draw.normal(size=(2, 24))
    a = np.tile(base, (4, 1)).astype(np.float32)
    b = np.tile(base + other, (300, 1)).astype(np.float32)
    b[123, 0] = np.nextafter(b[123, 0], np.float32(base[0] * 100))
    similarities = cosines(a, b)
    truth = exact(similarities)
    best = truth.max(1)
    assert 1e-9 < best[0] - truth[0, 0] < 1e-7
    found = look_at(similarities, np.arange(4), truth[:, 0], np.zeros(300))
    assert set(zip(found["row"].tolist(), found["column"].tolist(), strict=True)) == {(i, 123) for i in range(4)}
    np.testing.assert_allclose(found["greatest"], best, atol=1e-14)


@pytest.mark.parametrize("kind", ["random", "clustered", "duplicated_rows"])
@pytest.mark.parametrize("moved", [1e-4, 0.01, 0.05])
def test_what_a_look_proves_holds_of_other_prices(kind: str, moved: float) -> None:
    """After prices moved, some of them far: no pair outside the areas is better than its row's best candidate."""
    similarities = cosines(*instance(kind, 200, 260, 24))
    truth, draw = exact(similarities), np.random.default_rng(8)
    before = 0.1 * draw.random(260)
    profit = (truth - before).max(1) - 0.03 * draw.random(200)
    found = look_over(similarities, Blocks("test"), "look", EVERYWHERE, profit, before, False)
    candidate = np.zeros(truth.shape, dtype=bool)
    candidate[found["row"], found["column"]] = True
    after = before + 0.2 + moved * draw.normal(size=260)
    after[draw.integers(260, size=4)] -= 0.3
    now = np.where(candidate, truth - after, -np.inf).max(1)
    after_better = truth - after > now[:, None] + 1e-14
    areas = Unknown(found["limit"], before).not_proved(now, after)
    open_to_question = candidate | within(areas, truth.shape)
    assert not (after_better & ~open_to_question).any()
    assert kind == "duplicated_rows" or moved > 0.01 or open_to_question.mean() < 0.15
    # The control: limits that are too low let better pairs through.
    low = Unknown(found["limit"] - 0.3, before).not_proved(now, after)
    assert (after_better & ~candidate & ~within(low, truth.shape)).any()


def within(areas: Sequence[certificate.Area], shape: tuple[int, int]) -> np.ndarray:
    """Which pairs lie in one of the areas, bool."""
    found = np.zeros(shape, dtype=bool)
    for rows, columns in areas:
        found[
            np.ix_(*(np.arange(n) if some is None else some for n, some in zip(shape, (rows, columns), strict=True)))
        ] = True
    return found


def test_a_second_certificate_looks_only_where_prices_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    similarities, areas = cosines(*instance("clustered", 600, 600, 24, 1)), []
    truth, plain = exact(similarities), Unknown.not_proved

    def noted(self: Unknown, profit: np.ndarray, price: np.ndarray) -> Sequence[certificate.Area]:
        areas.append(plain(self, profit, price))
        return areas[-1]

    monkeypatch.setattr("interp_assets.alignment.matching.MANY_BETTER", np.inf)
    monkeypatch.setattr(Unknown, "not_proved", noted)
    check(sparse(similarities, per_row=2, per_column=1), truth)
    assert within(areas[-1], truth.shape).mean() < 0.2
    # The control: one that looks nowhere is wrong, and is noticed.
    monkeypatch.setattr(Unknown, "not_proved", lambda *_: [])
    with pytest.raises(AssertionError):
        check(sparse(similarities, per_row=2, per_column=1), truth)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_narrower_than_a_side_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    similarities = cosines(*instance(kind, 130, 300))
    truth = exact(similarities)
    profit, price = truth.max(1) - 0.01, np.zeros(300)

    def all_of_it() -> tuple[set[tuple[int, int]], np.ndarray, np.ndarray, np.ndarray]:
        found = look_at(similarities, np.arange(130), profit, price)
        row, column = linear_sum_assignment(truth, maximize=True)
        pairs = set(zip(found["row"].tolist(), found["column"].tolist(), strict=True))
        return pairs, found["greatest"], *ranks(similarities, row, column, Blocks("test"))

    wide, edges = all_of_it(), candidates(similarities, Blocks("test"), 8, 2)
    monkeypatch.setattr(directions, "TILE", (512, 70))
    narrow = all_of_it()
    crowded = kind in ("duplicated_rows", "all_equal", "near_tied")
    assert wide[0] == narrow[0] or crowded
    for one, other in zip(wide[1:], narrow[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-14)
    of_narrow = candidates(similarities, Blocks("test"), 8, 2)
    np.testing.assert_allclose(best_of(edges), best_of(of_narrow), atol=0.01)
    check(sparse(similarities), truth)


def best_of(edges: Edges) -> np.ndarray:
    """The sum of the eight highest candidates of each row."""
    order = np.lexsort((-edges.value, edges.row))
    first = rank_in_group(edges.row[order]) < 8
    return np.bincount(edges.row[order][first], edges.value[order][first])
