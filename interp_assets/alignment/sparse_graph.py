"""A sparse bipartite graph of rows and columns with a value on each edge, and what has which edge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NOBODY = -1
TOLERANCE = 1e-12
"Differences below this, in units of the spread of values, are rounding."


class Edges(NamedTuple):
    """Edges that may be used, sorted by row, then column; every row has one."""

    row: np.ndarray
    "int64 [edges]"
    column: np.ndarray
    "int64 [edges]"
    value: np.ndarray
    "float64 [edges]"


class Graph:
    """Edges with the places where the rows begin."""

    def __init__(self, edges: Edges, rows: int, columns: int) -> None:
        self.row, self.column, self.value = edges
        self.rows, self.columns = rows, columns
        begin = np.searchsorted(self.row, np.arange(rows + 1))
        self.begin, self.degree = begin[:-1], np.diff(begin)
        self.spread = float(np.ptp(self.value)) or 1.0
        # Where all values are nearly equal, it is their own rounding that counts.
        rounding = 8 * np.finfo(float).eps * float(np.abs(self.value).max())
        self.tolerance = max(TOLERANCE * self.spread, rounding)
        self.noise = np.random.default_rng(0).random(len(self.value))

    def edges_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The edges of some rows one row behind the other, where each row begins among them, how many it has."""
        degree = self.degree[rows]
        offset = np.cumsum(degree) - degree
        return np.repeat(self.begin[rows] - offset, degree) + np.arange(degree.sum()), offset, degree

    def transposed(self) -> tuple[Graph, np.ndarray]:
        """Columns as rows, and which edge of this graph each edge of that one is."""
        order = np.lexsort((self.row, self.column))
        turned = Edges(self.column[order], self.row[order], self.value[order])
        return Graph(turned, self.columns, self.rows), order


def owners(graph: Graph, edge: np.ndarray) -> np.ndarray:
    """Which row has each column, int64 [columns], or NOBODY."""
    owner, assigned = np.full(graph.columns, NOBODY), np.flatnonzero(edge != NOBODY)
    owner[graph.column[edge[assigned]]] = assigned
    return owner


def last_of_each(ordered: np.ndarray) -> np.ndarray:
    """Where in an ordered array the last of equal numbers stand, bool."""
    last = np.ones(len(ordered), dtype=bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return last


def greedy(edges: Edges, rows: int, columns: int) -> np.ndarray:
    """The edges of the greedy assignment: the greatest value first, of those whose row and column are still there; of
    equal values the one of the lower row, then column.

    Edges that are the best of their row and of their column are taken together, round by round: the same result.

    Returns:
        int64, numbers of edges; rows without any edge left have none.
    """
    order = np.argsort(-edges.value, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    left, taken = np.arange(len(order)), []
    while len(left):
        row, column, place = edges.row[left], edges.column[left], rank[left]
        first_of_row, first_of_column = (np.full(n, len(order)) for n in (rows, columns))
        np.minimum.at(first_of_row, row, place)
        np.minimum.at(first_of_column, column, place)
        both = (first_of_row[row] == place) & (first_of_column[column] == place)
        taken.append(left[both])
        gone_row, gone_column = np.zeros(rows, dtype=bool), np.zeros(columns, dtype=bool)
        gone_row[row[both]] = True
        gone_column[column[both]] = True
        left = left[~gone_row[row] & ~gone_column[column]]
    return np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
