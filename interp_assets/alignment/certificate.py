"""How far an assignment is from the best of all, by its prices: one look at every similarity there is.

Tiles are float32 with a known bound on their error. Whatever lies within that bound of a row's profit, or above it, is
computed again in float64; so each row's greatest profit is known in float64, though nearly all were float32.
"""

from __future__ import annotations

import numpy as np
import torch

from interp_assets.alignment.blocks import Arrays
from interp_assets.alignment.directions import UNIT_ROUNDOFF, Similarities
from interp_assets.examples.draws import rank_in_group

TOLERANCE = 1e-12
"Differences of similarities below this are rounding."
MARGIN = 0.02
"Pairs that are worse by less than this than what their row has become candidates too: when prices move they may be better."
NEAR_PER_ROW = 64
"A row with more columns (or groups of them) within rounding of its profit is computed whole in float64."
GROUP = 16
ROWS_AT_ONCE = 64


def look(
    similarities: Similarities, block: slice, profit: np.ndarray, price: np.ndarray, rough: bool = False
) -> Arrays:
    """What one block of rows says of prices.

    Args:
        profit: float64 [rows of the block], similarity less price of the column that each row has, or of the best column
            that it could have as far as is known.
        price: float64 [columns].
        rough: look for better pairs in bfloat16; this finds nearly all of them, and proves nothing.

    Returns:
        `greatest` float64 [rows of the block], each row's greatest profit over all columns, where not rough; `row` and
        `column` int64, pairs that are better than what their row has, and some that are not much worse; `better`
        int64 [1], how many of them are better.
    """
    error = similarities.error + 4 * UNIT_ROUNDOFF * (1 + float(np.abs(price).max()))
    tile = similarities.tile(block, rough=rough)
    tile -= torch.from_numpy(price).to(tile.device, tile.dtype)
    row, column, value, many = near_pairs(
        tile, profit, MARGIN if rough else max(MARGIN, error), None if rough else error
    )
    del tile
    if rough:
        keep = first_of_each(row, value, NEAR_PER_ROW)
        row, column = row[keep], column[keep]
    else:
        crowded = np.bincount(row, minlength=len(profit)) > NEAR_PER_ROW
        keep = ~crowded[row] | (value >= profit[row] - error)
        row, column = row[keep], column[keep]
        many |= np.bincount(row, minlength=len(profit)) > NEAR_PER_ROW
        row, column = row[~many[row]], column[~many[row]]
    near = similarities.exact(row + block.start, column) - price[column]
    greatest = profit.copy()
    np.maximum.at(greatest, row, near)
    better = int((near > profit[row] + TOLERANCE).sum())
    rows, columns = [row], [column]
    whole = np.flatnonzero(many)
    for start in range(0, len(whole), ROWS_AT_ONCE):
        some = whole[start : start + ROWS_AT_ONCE]
        profits = similarities.exact_tile(some + block.start) - price
        greatest[some] = np.maximum(profit[some], profits.max(1))
        count = min(NEAR_PER_ROW, len(price))
        best = np.argpartition(-profits, count - 1, axis=1)[:, :count]
        violating = np.take_along_axis(profits, best, 1) > profit[some, None] + TOLERANCE
        better += int(violating.sum())
        rows.append(np.broadcast_to(some[:, None], best.shape)[violating])
        columns.append(best[violating])
    found = {"row": np.concatenate(rows) + block.start, "column": np.concatenate(columns), "better": np.array([better])}
    return found if rough else found | {"greatest": greatest}


def first_of_each(row: np.ndarray, value: np.ndarray, count: int) -> np.ndarray:
    """Which entries are among the `count` highest of their row; int64."""
    order = np.lexsort((-value, row))
    return order[rank_in_group(row[order]) < count]


def near_pairs(
    tile: torch.Tensor, profit: np.ndarray, margin: float, error: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of a tile that are at most `margin` below their row's profit: rows and columns int64, values float32.

    Groups are looked at first. Of a row in which more than NEAR_PER_ROW of them reach that far, only what is within
    `error` of its profit is listed, or where there is no error its NEAR_PER_ROW highest groups. Rows in which that is
    too many as well are not listed, but marked: bool [rows].
    """
    rows, columns = tile.shape
    groups = columns // GROUP
    limit = torch.from_numpy(profit - margin).to(tile.device, tile.dtype)
    many = torch.zeros(rows, dtype=torch.bool, device=tile.device)
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
    return row.cpu().numpy(), column.cpu().numpy(), values.cpu().numpy(), many.cpu().numpy()
