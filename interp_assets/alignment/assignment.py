"""The one-to-one assignment of greatest sum on a sparse graph, with dual prices. Float64 throughout.

Every row i gets a column of its own, so that the sum of values s is greatest; columns may be left over. Prices p prove
it (linear programming duality): whatever assignment there is, its sum is at most

    sum_i max_j (s_ij - p_j) + sum_j p_j        for p >= 0 that is 0 on every column left over (any p if none is)

and the assignment reaches this where each row has a column of greatest profit s_ij - p_j.

Three steps. The *auction* (Bertsekas 1988; epsilon scaling: Bertsekas and Castanon 1991), all unassigned rows bidding
at once and the last few one by one, gives nearly all rows a column, within epsilon each of the best. Where few columns are wanted by many, prices
rise by epsilon only; such a price war is broken off and its last rows wait. `improve` makes what is assigned the best
assignment of those rows: prices rise along edges until every row is content, which is Bellman and Ford's algorithm on
the residual graph; where it runs in a circle, that circle is a change for the better (Klein 1967), and is made.
`augment` assigns the rows that waited one by one along shortest paths (Edmonds and Karp 1972), which keeps it the best.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from interp_assets.alignment.auction import auction, without_leftovers
from interp_assets.alignment.sparse_graph import NOBODY, Edges, Graph, last_of_each, owners

LARGEST_EPSILON, ROUGH_EPSILON, SMALLEST_EPSILON, STEP = 0.1, 1e-3, 1e-5, 5.0
ROUNDS_BETWEEN_LOOKS = 10
CENTRINGS = 10
FREE = -2


class Assignment(NamedTuple):
    edge: np.ndarray
    "int64 [rows], which edge each row uses"
    price: np.ndarray
    "float64 [columns]"


def assign(edges: Edges, rows: int, columns: int, price: np.ndarray | None = None) -> Assignment:
    """The best assignment of all rows, of which there must be one.

    Args:
        price: float64 [columns], of an auction or an assignment on some of the edges, to start from.
    """
    graph = Graph(edges, rows, columns)
    edge, price = narrowed(graph, price, SMALLEST_EPSILON)
    return centred(graph, augment(graph, improve(graph, edge, price)))


def rough_prices(edges: Edges, rows: int, columns: int) -> np.ndarray:
    """Prices near those that prove an assignment, float64 [columns]: what an auction alone makes of it."""
    return narrowed(Graph(edges, rows, columns), None, ROUGH_EPSILON)[1]


def narrowed(graph: Graph, price: np.ndarray | None, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """Auctions with ever smaller epsilon; the edge of each row (or NOBODY) and prices after the last.

    They begin wide even where prices are nearly right: narrow bids make a price war out of each new edge.
    """
    price = np.zeros(graph.columns) if price is None else price.copy()
    epsilon = LARGEST_EPSILON
    while True:
        edge = np.full(graph.rows, NOBODY)
        auction(graph, edge, price, np.arange(graph.rows), epsilon * graph.spread)
        last = epsilon <= smallest
        if graph.rows < graph.columns:
            edge = without_leftovers(graph, edge, price, epsilon * graph.spread, last)
        if last:
            return edge, price
        epsilon /= STEP


def improve(graph: Graph, edge: np.ndarray, price: np.ndarray) -> Assignment:
    """Change an assignment until it is the best of the rows that it assigns, and find the prices that prove it."""
    edge, price, tolerance = edge.copy(), price.copy(), graph.tolerance
    owner, assigned = owners(graph, edge), np.flatnonzero(edge != NOBODY)
    raised_by, raised_from = np.full(graph.columns, NOBODY), np.arange(graph.columns)
    looking, rounds = assigned, 0
    while True:
        dearest = dearest_free(owner, price)
        if dearest is not None:
            # Columns left over stand for rows that take any column at value 0: all of them must cost the same, and
            # none may cost less.
            cheap = np.flatnonzero(price < price[dearest] - tolerance)
            price[cheap] = price[dearest]
            raised_by[cheap], raised_from[cheap] = FREE, dearest
            looking = np.union1d(looking, owner[cheap][owner[cheap] != NOBODY])
        if len(looking):
            edges, _, degree = graph.edges_of(looking)
            profit = graph.value[edge[looking]] - price[graph.column[edge[looking]]]
            fair = graph.value[edges] - np.repeat(profit, degree)
            column = graph.column[edges]
            more = fair > price[column] + tolerance
            edges, column, fair = edges[more], column[more], fair[more]
            order = np.lexsort((fair, column))
            order = order[last_of_each(column[order])]
            column = column[order]
            price[column] = fair[order]
            raised_by[column], raised_from[column] = edges[order], graph.column[edge[graph.row[edges[order]]]]
            looking = owner[column][owner[column] != NOBODY]
        rounds += 1
        if (len(looking) or dearest_free(owner, price) != dearest) and rounds % ROUNDS_BETWEEN_LOOKS:
            continue
        circle = on_circles(raised_by, raised_from)
        if len(circle):
            by = raised_by[circle]
            taken = by != FREE
            taker = graph.row[by[taken]]
            edge[taker] = by[taken]
            owner[circle] = NOBODY
            owner[circle[taken]] = taker
            raised_by[:], raised_from[:] = NOBODY, np.arange(graph.columns)
            looking = assigned
        elif not len(looking) and dearest_free(owner, price) == dearest:
            break
    if dearest is not None:
        price = np.maximum(price - price[dearest], 0.0)
        price[owner == NOBODY] = 0.0
    return Assignment(edge, price)


def augment(graph: Graph, found: Assignment) -> Assignment:
    """Assign the rows that have no column yet, each along the shortest path to a free column, by Dijkstra's algorithm.

    Raises:
        ValueError: there is no assignment of all rows.
    """
    edge, price = found.edge.copy(), found.price.copy()
    owner = owners(graph, edge)
    for start in np.flatnonzero(edge == NOBODY):
        distance: dict[int, float] = {}
        by: dict[int, int] = {}  # the edge along which a column is reached
        waiting: list[tuple[float, int]] = []
        settled: list[int] = []
        row, so_far = int(start), 0.0
        while True:
            edges = np.arange(graph.begin[row], graph.begin[row] + graph.degree[row])
            profit = graph.value[edges] - price[graph.column[edges]]
            own = profit.max() if row == start else graph.value[edge[row]] - price[graph.column[edge[row]]]
            away = so_far + np.maximum(own - profit, 0.0)
            for number, column, length in zip(edges.tolist(), graph.column[edges].tolist(), away.tolist(), strict=True):
                if length < distance.get(column, np.inf):
                    distance[column], by[column] = length, number
                    heapq.heappush(waiting, (length, column))
            while waiting and waiting[0][0] > distance[waiting[0][1]]:
                heapq.heappop(waiting)
            if not waiting:
                raise ValueError("not all rows can be assigned at once")
            so_far, column = heapq.heappop(waiting)
            if owner[column] == NOBODY:
                break
            settled.append(column)
            row = int(owner[column])
        price[settled] += so_far - np.array([distance[each] for each in settled])
        while True:
            number = by[column]
            row = int(graph.row[number])
            before, edge[row], owner[column] = edge[row], number, row
            if row == start:
                break
            column = int(graph.column[before])
    return Assignment(edge, price)


def centred(graph: Graph, found: Assignment) -> Assignment:
    """Other prices that prove the same assignment, away from the limits within which they do.

    Each price goes to the middle between what its row would still pay and what another row would offer, all at once: a
    pair's slack loses at most half of itself to its row and half to its column, so it stays positive. Prices at a limit
    would be upset by every pair that is no candidate yet; these hardly ever are.
    """
    edge, price = found.edge, found.price.copy()
    order = np.argsort(graph.column, kind="stable")
    first = np.flatnonzero(np.diff(graph.column[order], prepend=-1))
    used = graph.column[edge]
    for _ in range(CENTRINGS):
        profit = graph.value[edge] - price[used]
        slack = profit[graph.row] + price[graph.column] - graph.value
        slack[edge] = np.inf
        up = np.minimum.reduceat(slack, graph.begin)
        down = np.full(graph.columns, np.inf)
        down[graph.column[order[first]]] = np.minimum.reduceat(slack[order], first)
        down = down[used]
        if graph.rows < graph.columns:
            down = np.minimum(down, 2 * price[used])
        up[np.isinf(up)], down[np.isinf(down)] = 0.0, 0.0
        price[used] += (np.maximum(up, 0.0) - np.maximum(down, 0.0)) / 2
    return Assignment(edge, price)


def dearest_free(owner: np.ndarray, price: np.ndarray) -> int | None:
    free = np.flatnonzero(owner == NOBODY)
    return int(free[price[free].argmax()]) if len(free) else None


def on_circles(raised_by: np.ndarray, raised_from: np.ndarray) -> np.ndarray:
    """Columns whose price was raised from one another in a circle."""
    far = raised_from
    for _ in range(len(far).bit_length()):
        far = far[far]
    reached = np.unique(far)
    return reached[raised_by[reached] != NOBODY]
