"""How far an assignment is from the best of all, by its prices: one look at every similarity there is.

Tiles are float32 with a known bound on their error. Whatever lies within that bound of a row's profit, or above it, is
computed again in float64; so each row's greatest profit is known in float64, though nearly all were float32. What lies
further below is known to lie there, and when prices change a little, it needs no other look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from interp_assets.alignment.blocks import Arrays, Blocks, digest
from interp_assets.alignment.directions import UNIT_ROUNDOFF, Similarities, column_parts, row_blocks
from interp_assets.examples.draws import rank_in_group

TOLERANCE = 1e-12
"Differences of similarities below this are rounding."
MARGIN = 0.02
"Pairs that are worse by less than this than what their row has become candidates too: when prices move they may be better."
NEAR_PER_ROW = 64
"A row with more columns (or groups of them) within rounding of its profit is computed whole in float64."
GROUP = 16
ROWS_AT_ONCE = 64
WORTH_IT = 0.5
"The share of all pairs that is looked at instead of all."
NONE = np.zeros(0, dtype=np.int64)


Area = tuple[np.ndarray | None, np.ndarray | None]
"Rows and columns, int64; None are all."
EVERYWHERE: Sequence[Area] = [(None, None)]


class Unknown(NamedTuple):
    """What is known of all pairs that are no candidates, from one look in float32: similarity less `price` of the column
    is below `limit` of the row. When prices change, this proves most of the new ones too."""

    limit: np.ndarray
    "float64 [rows]"
    price: np.ndarray
    "float64 [columns]"

    def not_proved(self, profit: np.ndarray, price: np.ndarray) -> Sequence[Area]:
        """Where pairs may be better than `profit`: some rows, and some columns; or EVERYWHERE, where these are many.

        A pair is not better where its column's price fell by no more than its row's profit lies above the limit. So
        every t will do: rows that bear less than t, and columns that fell by more; the t with fewest pairs is taken.
        """
        fall, bears = self.price - price, profit - self.limit
        most, least = np.argsort(-fall, kind="stable"), np.argsort(bears, kind="stable")
        few_rows, few_columns = np.searchsorted(bears[least], fall[most]), np.arange(len(fall))
        pairs = few_rows * len(fall) + few_columns * len(bears)
        best = int(pairs.argmin())
        if pairs[best] > WORTH_IT * len(fall) * len(bears):
            return EVERYWHERE
        return [(np.sort(least[: few_rows[best]]), None), (None, np.sort(most[:best]))]


def look_over(
    similarities: Similarities,
    blocks: Blocks,
    name: str,
    areas: Sequence[Area],
    profit: np.ndarray,
    price: np.ndarray,
    rough: bool,
) -> Arrays:
    """What `look_at` finds in some areas, block by block; `greatest` and `limit` are of all rows."""
    greatest, limit = profit.copy(), np.full(len(profit), np.inf)
    found: list[Arrays] = [{"row": NONE, "column": NONE, "better": np.zeros(1, dtype=np.int64)}]
    for area, (some, columns) in enumerate(areas):
        rows = np.arange(len(profit)) if some is None else some
        costs = price if columns is None else price[columns]
        if not len(rows) or not len(costs):
            continue

        def seen(block: slice) -> Arrays:
            of = rows[block]  # noqa: B023
            return look_at(similarities, of, profit[of], costs, rough, columns)  # noqa: B023

        here = blocks.over(f"{name}.{area}" if area else name, row_blocks(len(rows), 16), seen, digest(profit, price))
        found += here
        if not rough:
            greatest[rows] = np.maximum(greatest[rows], np.concatenate([each["greatest"] for each in here]))
            limit[rows] = np.concatenate([each["limit"] for each in here])
    row, column = (np.concatenate([each[name] for each in found]) for name in ("row", "column"))
    better = np.sum([each["better"] for each in found], axis=0)
    return {"row": row, "column": column, "better": better, "greatest": greatest, "limit": limit}


def look_at(
    similarities: Similarities,
    rows: np.ndarray,
    profit: np.ndarray,
    price: np.ndarray,
    rough: bool = False,
    columns: np.ndarray | None = None,
) -> Arrays:
    """What some rows say of prices.

    Args:
        rows: int64 [rows].
        profit: float64 [rows], similarity less price of the column that each row has, or of the best column that it
            could have as far as is known.
        price: float64 [columns].
        rough: look for better pairs in bfloat16; this finds nearly all of them, and proves nothing.
        columns: int64 [columns], the only ones to look at; None are all.

    Returns:
        `row` and `column` int64, pairs that are better than what their row has, and some that are not much worse;
        `better` int64 [1], how many of them are better. Where not rough, `greatest` float64 [rows], each row's greatest
        profit over these columns, or `profit` if that is greater; and `limit` float64 [rows], below which are the
        profits of all pairs that are not given.
    """
    # Beside the tile's own: of the price, of the difference and of the limit, which are no larger than this near it.
    error = similarities.error + 4 * UNIT_ROUNDOFF * (1 + float(np.abs(price).max()) + float(np.abs(profit).max()))
    margin, parts = MARGIN if rough else max(MARGIN, error), []
    for part in column_parts(len(price)):
        tile = similarities.tile(rows, part if columns is None else columns[part], rough)
        tile -= torch.from_numpy(price[part]).to(tile.device, tile.dtype)
        listed = near_pairs(tile, profit, margin, None if rough else error)
        parts.append(listed._replace(column=listed.column + part.start))
        del tile
    row, column, value = (
        np.concatenate([getattr(each, name) for each in parts]) for name in ("row", "column", "value")
    )
    narrowed, many = (np.logical_or.reduce([getattr(each, name) for each in parts]) for name in ("narrowed", "many"))
    if rough:
        keep = first_of_each(row, value, NEAR_PER_ROW)
        row, column = row[keep], column[keep]
    else:
        crowded = np.bincount(row, minlength=len(rows)) > NEAR_PER_ROW
        narrowed |= crowded
        keep = ~crowded[row] | (value >= profit[row] - error)
        row, column = row[keep], column[keep]
        many |= np.bincount(row, minlength=len(rows)) > NEAR_PER_ROW
        row, column = row[~many[row]], column[~many[row]]
    everywhere = np.arange(similarities.shape[1]) if columns is None else columns
    near = similarities.exact(rows[row], everywhere[column]) - price[column]
    greatest = profit.copy()
    np.maximum.at(greatest, row, near)
    better = int((near > profit[row] + TOLERANCE).sum())
    found_row, found_column = [row], [column]
    whole = np.flatnonzero(many)
    for start in range(0, len(whole), ROWS_AT_ONCE):
        some = whole[start : start + ROWS_AT_ONCE]
        profits = similarities.exact_tile(rows[some])[:, everywhere] - price
        greatest[some] = np.maximum(profit[some], profits.max(1))
        count = min(NEAR_PER_ROW, len(price))
        best = np.argpartition(-profits, count - 1, axis=1)[:, :count]
        violating = np.take_along_axis(profits, best, 1) > profit[some, None] + TOLERANCE
        better += int(violating.sum())
        found_row.append(np.broadcast_to(some[:, None], best.shape)[violating])
        found_column.append(best[violating])
    row, column = rows[np.concatenate(found_row)], everywhere[np.concatenate(found_column)]
    found = {"row": row, "column": column, "better": np.array([better])}
    limit = np.where(many, np.inf, np.where(narrowed, profit, profit - margin + error))
    return found if rough else found | {"greatest": greatest, "limit": limit}


def first_of_each(row: np.ndarray, value: np.ndarray, count: int) -> np.ndarray:
    """Which entries are among the `count` highest of their row; int64."""
    order = np.lexsort((-value, row))
    return order[rank_in_group(row[order]) < count]


class Near(NamedTuple):
    row: np.ndarray
    column: np.ndarray
    value: np.ndarray
    "float32"
    narrowed: np.ndarray
    "bool [rows], of which only what is within `error` is listed"
    many: np.ndarray
    "bool [rows], of which nothing is listed"


def near_pairs(tile: torch.Tensor, profit: np.ndarray, margin: float, error: float | None) -> Near:
    """The numbers of a tile that are at most `margin` below their row's profit.

    Groups are looked at first. Of a row in which more than NEAR_PER_ROW of them reach that far, only what is within
    `error` of its profit is listed, or where there is no error its NEAR_PER_ROW highest groups; of rows in which that is
    too many as well, nothing.
    """
    rows, columns = tile.shape
    groups = columns // GROUP
    limit = torch.from_numpy(profit - margin).to(tile.device, tile.dtype)
    many, narrowed = torch.zeros(2, rows, dtype=torch.bool, device=tile.device)
    found_row, found_column = [], []
    if groups:
        grouped = tile[:, : groups * GROUP].view(rows, GROUP, groups)
        highest = grouped.amax(1)
        reaching = highest >= limit[:, None]
        crowded = (reaching.sum(1) > NEAR_PER_ROW).nonzero()[:, 0]
        if len(crowded) and error is None:
            # By place and not by value: in bfloat16 thousands may be equal.
            reaching[crowded] = False
            reaching[crowded[:, None], highest[crowded].topk(NEAR_PER_ROW, dim=1).indices] = True
        elif len(crowded):
            narrowed[crowded] = True
            limit[crowded] = torch.from_numpy(profit - error).to(tile.device, tile.dtype)[crowded]
            many[crowded] = (highest[crowded] >= limit[crowded, None]).sum(1) > NEAR_PER_ROW
            limit[many] = torch.inf
            reaching[crowded] = highest[crowded] >= limit[crowded, None]
        row, group = torch.nonzero(reaching, as_tuple=True)
        for part in range(GROUP):
            reached = grouped[row, part, group] >= limit[row]
            found_row.append(row[reached])
            found_column.append(group[reached] + part * groups)
    row, column = torch.nonzero(tile[:, groups * GROUP :] >= limit[:, None], as_tuple=True)
    found_row.append(row)
    found_column.append(column + groups * GROUP)
    row, column = torch.cat(found_row), torch.cat(found_column)
    values = tile[row, column].float()
    return Near(*(each.cpu().numpy() for each in (row, column, values, narrowed, many)))
