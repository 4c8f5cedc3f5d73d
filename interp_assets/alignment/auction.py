"""An auction that gives rows of a sparse graph columns, each within epsilon of the best (Bertsekas 1988)."""

from __future__ import annotations

import numpy as np

from interp_assets.alignment.sparse_graph import NOBODY, Graph, last_of_each, owners

ROUNDS, ROUNDS_PER_ROW, WORK = 500, 0.125, 30
"It is broken off after so many rounds, or after WORK looks at each edge."


def auction(
    graph: Graph, edge: np.ndarray, price: np.ndarray, bidding: np.ndarray, epsilon: float, alone: float = -np.inf
) -> None:
    """Assign rows so that each has a column within two epsilon of its greatest profit; changes `edge` and `price`.

    Args:
        edge: int64 [rows], which edge each row has, or NOBODY.
        price: float64 [columns], which rise.
        bidding: int64, rows without an edge that want one.
        alone: the profit of a row that has no column; it takes none that gives less.
    """
    owner = owners(graph, edge)
    # Rows that are alike would all want the same column, round after round.
    value = graph.value + epsilon * np.random.default_rng(0).random(len(graph.value))
    rounds, work = ROUNDS + ROUNDS_PER_ROW * graph.rows, WORK * len(value)
    while len(bidding) and rounds > 0 and work > 0:
        edges, offset, degree = graph.edges_of(bidding)
        rounds, work = rounds - 1, work - len(edges)
        profit = value[edges] - price[graph.column[edges]]
        best = np.maximum.reduceat(profit, offset)
        at_best = np.flatnonzero(profit == np.repeat(best, degree))
        at_best = at_best[np.searchsorted(at_best, offset)]
        profit[at_best] = -np.inf
        second = np.maximum.reduceat(profit, offset)
        second[degree == 1] = best[degree == 1] - graph.spread
        stays = best > alone
        bidding, at_best, best, second = bidding[stays], at_best[stays], best[stays], second[stays]
        wanted = graph.column[edges[at_best]]
        bid = price[wanted] + best - np.maximum(second, alone) + epsilon
        order = np.lexsort((bid, wanted))
        highest = order[last_of_each(wanted[order])]
        sold = wanted[highest]
        displaced = owner[sold]
        displaced = displaced[displaced != NOBODY]
        edge[displaced] = NOBODY
        price[sold] = bid[highest]
        owner[sold] = bidding[highest]
        edge[bidding[highest]] = edges[at_best[highest]]
        lost = np.ones(len(bidding), dtype=bool)
        lost[highest] = False
        bidding = np.concatenate([bidding[lost], displaced])


def without_leftovers(graph: Graph, edge: np.ndarray, price: np.ndarray, epsilon: float, last: bool) -> np.ndarray:
    """A column left over costs nothing; prices of such columns that were bid up go down. Changes `price`.

    Before the last phase they are set to 0, and the next phase makes use of it. After it such columns bid for rows in
    their turn, as long as they gain more than nothing: a reverse auction (Bertsekas and Castanon 1992).

    Returns:
        int64 [rows], the edge of each row.
    """
    left_over = owners(graph, edge) == NOBODY
    if not last:
        price[left_over] = 0.0
        return edge
    back, order = graph.transposed()
    profit = np.maximum.reduceat(graph.value - price[graph.column], graph.begin)
    assigned = np.flatnonzero(edge != NOBODY)
    profit[assigned] = graph.value[edge[assigned]] - price[graph.column[edge[assigned]]]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    of_column = np.full(graph.columns, NOBODY)
    of_column[graph.column[edge[assigned]]] = place[edge[assigned]]
    auction(back, of_column, profit, np.flatnonzero(left_over & (price > 0) & (back.degree > 0)), epsilon, alone=0.0)
    price[:] = 0.0
    has = np.flatnonzero(of_column != NOBODY)
    edge = np.full(graph.rows, NOBODY)
    edge[back.column[of_column[has]]] = order[of_column[has]]
    price[has] = np.maximum(back.value[of_column[has]] - profit[back.column[of_column[has]]], 0.0)
    return edge
