"""What is written down of a matching: the matches, who is left over and why, and the next best of every latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from interp_assets.alignment.blocks import Blocks
from interp_assets.alignment.candidates import SMALL
from interp_assets.alignment.directions import Similarities
from interp_assets.alignment.matching import Matching
from interp_assets.alignment.ranks import ranks
from interp_assets.alignment.sparse_graph import Edges, greedy
from interp_assets.examples.draws import rank_in_group
from interp_assets.tables import GREEDY_MATCHING, LAYER_MATCHING, LEFT_OVER, NEXT_BEST, conform

KEPT = 4
"Most similar latents of the other side that are written down of each latent."
MORE_HERE = "this side has more latents than the other"
NOTHING_THERE = "the other side has no latents to match"


@dataclass(frozen=True)
class Side:
    """The latents of one layer."""

    layer: str
    latents: np.ndarray
    "int64, those that are matched, ascending"
    left_out: dict[str, np.ndarray]
    "int64 latents that are not, by reason"


def tables_of(
    similarities: Similarities, matching: Matching | None, sides: tuple[Side, Side], blocks: Blocks
) -> dict[str, pl.DataFrame]:
    """The tables `matching` (`tables.LAYER_MATCHING`), `left_over` (`tables.LEFT_OVER`), `greedy`
    (`tables.GREEDY_MATCHING`) and `next_best` (`tables.NEXT_BEST`).

    Args:
        similarities: of the latents of the sides.
        matching: None where a side has no latents.
    """
    a, b = sides
    if matching is None:
        empty = {"matching": LAYER_MATCHING, "greedy": GREEDY_MATCHING, "next_best": NEXT_BEST}
        return {name: pl.DataFrame(schema=schema) for name, schema in empty.items()} | {
            "left_over": pl.concat(
                [left_over(name, side, NOTHING_THERE) for name, side in zip("ab", sides, strict=True)]
            )
        }
    rank, nearest = ranks(similarities, matching.row, matching.column, blocks)
    table = {
        "latent_a": a.latents[matching.row],
        "latent_b": b.latents[matching.column],
        "similarity": matching.similarity,
        "mutual_nearest": nearest,
        "rank": rank,
    }
    unmatched = (np.delete(a.latents, matching.row), np.delete(b.latents, matching.column))
    left = [left_over(n, s, MORE_HERE, more) for n, s, more in zip("ab", sides, unmatched, strict=True)]
    row, column, value = matching.looked_at
    best = [
        next_best("a", a.latents[row], b.latents[column], value),
        next_best("b", b.latents[column], a.latents[row], value),
    ]
    return {
        "matching": conform(pl.DataFrame(table), LAYER_MATCHING),
        "left_over": pl.concat(left),
        "greedy": greedily(a, b, similarities, matching),
        "next_best": pl.concat(best),
    }


def greedily(a: Side, b: Side, similarities: Similarities, matching: Matching) -> pl.DataFrame:
    """The table `tables.GREEDY_MATCHING`: among the pairs whose similarity is known, then among what these leave over."""
    edges = matching.looked_at
    order = np.lexsort((edges.column, edges.row))
    edges = Edges(edges.row[order], edges.column[order], edges.value[order])
    taken = greedy(edges, *similarities.shape)
    row, column, value = (part[taken] for part in edges)
    free = np.setdiff1d(np.arange(len(a.latents)), row), np.setdiff1d(np.arange(len(b.latents)), column)
    if 0 < len(free[0]) * len(free[1]) <= SMALL:
        table = similarities.subset(*free).exact_tile(np.arange(len(free[0])))
        across, down = np.indices(table.shape).reshape(2, -1)
        left = Edges(across, down, table.ravel())
        more = greedy(left, *table.shape)
        row, column = np.append(row, free[0][left.row[more]]), np.append(column, free[1][left.column[more]])
        value = np.append(value, left.value[more])
    found = {"latent_a": a.latents[row], "latent_b": b.latents[column], "similarity": value}
    return conform(pl.DataFrame(found), GREEDY_MATCHING).sort("latent_a")


def left_over(name: str, side: Side, reason: str, latents: np.ndarray | None = None) -> pl.DataFrame:
    """
    Args:
        latents: int64, those without a match for a reason; all that were to be matched where None.
    """
    reasons = side.left_out | {reason: side.latents if latents is None else latents}
    parts = [
        pl.DataFrame({"latent": found}).with_columns(side=pl.lit(name), reason=pl.lit(why))
        for why, found in reasons.items()
    ]
    return pl.concat([conform(part, LEFT_OVER) for part in parts]).sort("latent")


def next_best(name: str, latent: np.ndarray, other: np.ndarray, value: np.ndarray) -> pl.DataFrame:
    order = np.lexsort((other, -value, latent))
    place = rank_in_group(latent[order])
    order = order[place < KEPT]
    found = {
        "latent": latent[order],
        "place": place[place < KEPT] + 1,
        "other": other[order],
        "similarity": value[order],
    }
    return conform(pl.DataFrame(found).with_columns(side=pl.lit(name)), NEXT_BEST)
