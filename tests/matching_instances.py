"""Two sides of directions to be matched, of kinds that solvers find easy and hard, and what a matching must be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from interp_assets.alignment.blocks import Blocks
from interp_assets.alignment.directions import Directions, Products
from interp_assets.alignment.matching import Matching, best_matching

KINDS = ("random", "clustered", "near_tied", "duplicated_rows", "all_equal", "planted")


def instance(kind: str, rows: int, columns: int, d: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Directions float32 [rows, d] and [columns, d]."""
    draw = np.random.default_rng([seed, rows, columns, KINDS.index(kind)])
    a, b = draw.normal(size=(rows, d)), draw.normal(size=(columns, d))
    if kind == "clustered":
        centres = draw.normal(size=(max(2, rows // 20), d))
        a, b = (0.7 * side + 2 * centres[draw.integers(len(centres), size=len(side))] for side in (a, b))
    elif kind == "near_tied":
        a, b = (np.round(side * 2) + 1e-7 * draw.normal(size=side.shape) for side in (a, b))
        a, b = (side + (np.abs(side).sum(1, keepdims=True) < 0.5) for side in (a, b))
    elif kind == "duplicated_rows":
        a, b = a[draw.integers(rows // 3, size=rows)], b[draw.integers(columns // 3, size=columns)]
    elif kind == "all_equal":
        a, b = np.ones((rows, d)), np.ones((columns, d))
    elif kind == "planted":
        both = draw.normal(size=(max(rows, columns), d))
        a, b = both[:rows], (both + 0.02 * draw.normal(size=both.shape))[draw.permutation(len(both))[:columns]]
    return a.astype(np.float32), b.astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> Products:
    return Products(Directions.unit(a), Directions.unit(b))


def exact(similarities: Products) -> np.ndarray:
    return similarities.exact_tile(np.arange(similarities.shape[0]))


def sparse(similarities: Products, **how: int) -> Matching:
    return best_matching(similarities, Blocks("test"), dense=0, **how)


def check(found: Matching, truth: np.ndarray) -> None:
    """One to one, with the right similarities, certified, and of the sum that scipy's has."""
    assert len(set(found.row)) == len(found.row) == min(truth.shape) == len(set(found.column))
    np.testing.assert_allclose(found.similarity, truth[found.row, found.column], atol=1e-14)
    best = truth[linear_sum_assignment(truth, maximize=True)].sum()
    assert found.similarity.sum() == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert (found.gap, found.method) == (0.0, "sparse")
