"""An auction that gives rows of a sparse graph columns, each within epsilon of the best (Bertsekas 1988)."""

from __future__ import annotations

import numpy as np

from interp_assets.alignment.sparse_graph import NOBODY, Graph, last_of_each, owners

FEW = 6
"Up to so many rows bid one after the other, which is several times as fast as a round of all of them together."
ROUNDS, ROUNDS_PER_ROW, WORK = 500, 0.25, 10
"It is broken off after so many rounds (or bids of few), or after WORK looks at each edge."


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
    bids = Bids(graph, edge, price, epsilon, alone)
    rounds, work = ROUNDS + ROUNDS_PER_ROW * graph.rows, WORK * len(graph.value)
    while len(bidding) > FEW and rounds > 0 and work > 0:
        rounds, work = rounds - 1, work - int(graph.degree[bidding].sum())
        bidding = bids.together(bidding)
    waiting = bidding.tolist() if len(bidding) <= FEW else []
    while waiting and rounds > 0:
        rounds -= 1
        displaced = bids.one(waiting.pop())
        if displaced != NOBODY:
            waiting.append(displaced)


class Bids:
    """What rows bid for the column of greatest profit: as much as leaves them epsilon less than the second best would."""

    def __init__(self, graph: Graph, edge: np.ndarray, price: np.ndarray, epsilon: float, alone: float) -> None:
        self.graph, self.edge, self.price, self.epsilon, self.alone = graph, edge, price, epsilon, alone
        self.owner = owners(graph, edge)
        # Rows that are alike would all want the same column, round after round.
        self.value = graph.value + epsilon * graph.noise

    def together(self, bidding: np.ndarray) -> np.ndarray:
        """All rows bid at once, and the highest bid for each column holds; int64, the rows that have none after it."""
        edges, offset, degree = self.graph.edges_of(bidding)
        profit = self.value[edges] - self.price[self.graph.column[edges]]
        best = np.maximum.reduceat(profit, offset)
        at_best = np.flatnonzero(profit == np.repeat(best, degree))
        at_best = at_best[np.searchsorted(at_best, offset)]
        profit[at_best] = -np.inf
        second = np.maximum.reduceat(profit, offset)
        second[degree == 1] = best[degree == 1] - self.graph.spread
        stays = best > self.alone
        bidding, at_best, best, second = bidding[stays], at_best[stays], best[stays], second[stays]
        wanted = self.graph.column[edges[at_best]]
        bid = self.price[wanted] + best - np.maximum(second, self.alone) + self.epsilon
        order = np.lexsort((bid, wanted))
        highest = order[last_of_each(wanted[order])]
        sold = wanted[highest]
        displaced = self.owner[sold]
        displaced = displaced[displaced != NOBODY]
        self.edge[displaced] = NOBODY
        self.price[sold] = bid[highest]
        self.owner[sold] = bidding[highest]
        self.edge[bidding[highest]] = edges[at_best[highest]]
        lost = np.ones(len(bidding), dtype=bool)
        lost[highest] = False
        return np.concatenate([bidding[lost], displaced])

    def one(self, row: int) -> int:
        """One row bids; the row whose column it takes, or NOBODY."""
        first, last = self.graph.begin[row], self.graph.begin[row] + self.graph.degree[row]
        column = self.graph.column[first:last]
        profit = self.value[first:last] - self.price[column]
        number = int(profit.argmax())
        best = profit[number]
        if best <= self.alone:
            return NOBODY
        profit[number] = -np.inf
        second = profit.max() if last - first > 1 else best - self.graph.spread
        wanted = column[number]
        self.price[wanted] += best - max(second, self.alone) + self.epsilon
        displaced = int(self.owner[wanted])
        self.owner[wanted], self.edge[row] = row, first + number
        if displaced != NOBODY:
            self.edge[displaced] = NOBODY
        return displaced


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
