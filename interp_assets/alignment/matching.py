"""The one-to-one matching of two sides whose similarities add up to most, and how far it is from the best of all.

Where all similarities are few they are looked at together, by scipy's `linear_sum_assignment`. Otherwise: candidates,
prices that an auction makes of them, a look at all similarities for better pairs, which become candidates too; then the
best assignment of the candidates and another look, until one of them proves it the best of all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from interp_assets.alignment.assignment import assign, rough_prices
from interp_assets.alignment.blocks import Arrays, Blocks, digest
from interp_assets.alignment.candidates import PER_COLUMN, PER_ROW, candidates, joined, with_values
from interp_assets.alignment.certificate import look
from interp_assets.alignment.directions import Similarities, row_blocks
from interp_assets.alignment.sparse_graph import Edges

DENSE = 2_560**2
"With up to so many similarities the dense method is the faster one: `python -m benchmarks.assignment --small`."
PASSES = 8
"How often all similarities are looked at, at most, after the candidates are found."
MANY_BETTER = 0.05
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
    "how often all similarities were looked at, the search for candidates left out"
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
    edges, bound, price = candidates(similarities, blocks, per_row, per_column), np.inf, None
    parts, rough, looks = row_blocks(rows, columns), passes > 1, 0
    while True:
        looks += 1
        if rough and looks == 1:
            price = blocks.once("prices", lambda: {"price": rough_prices(edges, rows, columns)})["price"]  # noqa: B023
            begin = np.searchsorted(edges.row, np.arange(rows))
            profit = np.maximum.reduceat(edges.value - price[edges.column], begin)
        else:
            solved = blocks.once(f"solution {looks}", lambda: solution(edges, rows, columns, price))  # noqa: B023
            column, similarity, price = solved["column"], solved["similarity"], solved["price"]
            profit = similarity - price[column]

        def seen(block: slice) -> Arrays:
            return look(similarities, block, profit[block], price, rough)  # noqa: B023

        found = blocks.over(
            f"{'better pairs' if rough else 'certificate'} {looks} {digest(profit, price)}", parts, seen
        )
        if not rough:
            bound = min(bound, float(np.concatenate([each["greatest"] for each in found]).sum() + price.sum()))
            gap = bound - float(similarity.sum())
            certified = gap <= ROUNDING * max(1.0, float(np.abs(similarity).sum()))
            if certified or looks >= passes:
                gap = 0.0 if certified else gap
                return Matching(np.arange(rows), column, similarity, gap, "sparse", looks, edges)
        better = sum(int(each["better"][0]) for each in found)
        rough = rough and better > MANY_BETTER * rows and looks + 1 < passes
        row, more = (np.concatenate([each[name] for each in found]) for name in ("row", "column"))
        edges = joined(edges, with_values(similarities, row, more, edges))


def strongest(table: np.ndarray) -> Edges:
    """The PER_ROW highest of each row and the PER_COLUMN highest of each column of similarities float64."""
    kept = np.zeros(table.shape, dtype=bool)
    for axis, count in ((1, PER_ROW), (0, PER_COLUMN)):
        count = min(count, table.shape[axis])
        best = np.take(np.argpartition(-table, count - 1, axis), np.arange(count), axis)
        np.put_along_axis(kept, best, True, axis)
    row, column = np.nonzero(kept)
    return Edges(row, column, table[row, column])


def solution(edges: Edges, rows: int, columns: int, price: np.ndarray | None) -> Arrays:
    found = assign(edges, rows, columns, price)
    return {"column": edges.column[found.edge], "similarity": edges.value[found.edge], "price": found.price}
