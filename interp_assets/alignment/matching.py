"""The one-to-one matching of two sides whose similarities add up to most, and how far it is from the best of all.

Where all similarities are few they are looked at together, by scipy's `linear_sum_assignment`. Otherwise: candidates,
prices that an auction makes of them, a look at all similarities for better pairs, which become candidates too; then the
best assignment of the candidates and another look, until one of them proves it the best of all. What one look proved is
not looked at again where prices changed little since.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from interp_assets.alignment.assignment import assign, rough_prices
from interp_assets.alignment.blocks import Arrays, Blocks
from interp_assets.alignment.candidates import PER_COLUMN, PER_ROW, candidates, joined, with_values
from interp_assets.alignment.certificate import EVERYWHERE, Unknown, look_over
from interp_assets.alignment.directions import Similarities
from interp_assets.alignment.sparse_graph import Edges

DENSE = 2_560**2
"With up to so many similarities the dense method is the faster one: `python -m benchmarks.assignment --small`."
PASSES = 8
"How often better pairs are looked for, at most, after the candidates are found."
MANY_BETTER = 5
"After a look in bfloat16 that finds more better pairs than this for each row, the next one is in bfloat16 too."
ROUNDING = 1e-12
"A gap of less than this share of the sum of absolute similarities is float64's rounding."


class Matching(NamedTuple):
    row: np.ndarray
    "int64 [matched], ascending"
    column: np.ndarray
    "int64 [matched]"
    similarity: np.ndarray
    "float64 [matched]"
    gap: float
    "by how much the sum of similarities could be larger at most; 0 where that is within rounding"
    method: str
    "dense, or sparse"
    looks: int
    "how often better pairs were looked for: among all, or after the first certificate where prices changed much"
    looked_at: Edges
    "pairs whose similarity is known, among them the most similar of each row and of each column (sparse: in bfloat16)"

    @property
    def total_cost(self) -> float:
        """Sum of 1 - similarity."""
        return float((1 - self.similarity).sum())


def best_matching(
    similarities: Similarities,
    blocks: Blocks,
    *,
    dense: int = DENSE,
    passes: int = PASSES,
    per_row: int = PER_ROW,
    per_column: int = PER_COLUMN,
) -> Matching:
    """Match all latents of the smaller side; one row and one column at least.

    Args:
        dense: up to so many similarities are looked at together.
        per_row, per_column: candidates to begin with.
    """
    rows, columns = similarities.shape
    if rows * columns <= dense:
        table = similarities.exact_tile(np.arange(rows))
        row, column = linear_sum_assignment(table, maximize=True)
        return Matching(row, column, table[row, column], 0.0, "dense", 1, strongest(table))
    if rows > columns:
        other = best_matching(
            similarities.T, blocks, dense=dense, passes=passes, per_row=per_row, per_column=per_column
        )
        order = np.argsort(other.column)
        row, column, similarity = other.column[order], other.row[order], other.similarity[order]
        looked_at = other.looked_at
        turned = Edges(looked_at.column, looked_at.row, looked_at.value)
        return other._replace(row=row, column=column, similarity=similarity, looked_at=turned)
    edges = candidates(similarities, blocks, per_row, per_column)
    rough, looks, bound, unknown, price = passes > 1, 0, np.inf, None, np.zeros(columns)
    if rough:
        price = blocks.once("prices", lambda: {"price": rough_prices(edges, rows, columns)})["price"]
    while True:
        looks += 1
        if not rough or looks > 1:
            solved = blocks.once(f"solution {looks}", lambda: solution(edges, rows, columns, price))  # noqa: B023
            column, similarity, price = solved["column"], solved["similarity"], solved["price"]
        profit = highest_profits(edges, price)
        areas = EVERYWHERE if unknown is None else unknown.not_proved(profit, price)
        name = f"{'better pairs' if rough else 'certificate'} {looks}"
        found = look_over(similarities, blocks, name, areas, profit, price, rough)
        if not rough:
            if areas is EVERYWHERE:
                unknown = Unknown(found["limit"], price)
            bound = min(bound, float(found["greatest"].sum() + price.sum()))
            gap = bound - float(similarity.sum())
            certified = gap <= ROUNDING * max(1.0, float(np.abs(similarity).sum()))
            if certified or looks >= passes:
                gap = 0.0 if certified else gap
                return Matching(np.arange(rows), column, similarity, gap, "sparse", looks, edges)
        rough = rough and int(found["better"][0]) > MANY_BETTER * rows and looks + 1 < passes
        edges = joined(edges, with_values(similarities, found["row"], found["column"], edges))


def highest_profits(edges: Edges, price: np.ndarray) -> np.ndarray:
    """Of each row the highest similarity less price, float64 [rows]."""
    begin = np.flatnonzero(np.diff(edges.row, prepend=-1))
    return np.maximum.reduceat(edges.value - price[edges.column], begin)


def strongest(table: np.ndarray) -> Edges:
    """The PER_ROW highest of each row and the PER_COLUMN highest of each column of similarities float64."""
    kept = np.zeros(table.shape, dtype=bool)
    for axis, count in ((1, PER_ROW), (0, PER_COLUMN)):
        count = min(count, table.shape[axis])
        best = np.take(np.argpartition(-table, count - 1, axis), np.arange(count), axis)
        np.put_along_axis(kept, best, True, axis)
    row, column = np.nonzero(kept)
    return Edges(row, column, table[row, column])


def solution(edges: Edges, rows: int, columns: int, price: np.ndarray) -> Arrays:
    found = assign(edges, rows, columns, price)
    return {"column": edges.column[found.edge], "similarity": edges.value[found.edge], "price": found.price}
