"""How far an assignment is from the best of all, by its prices: one look at every similarity there is.

Tiles are float32 with a known bound on their error. Whatever lies within that bound of a row's profit, or above it, is
computed again in float64; so each row's greatest profit is known in float64, though nearly all were float32.
"""

from __future__ import annotations

import numpy as np
import torch

from interp_assets.alignment.assignment import TOLERANCE
from interp_assets.alignment.blocks import Arrays
from interp_assets.alignment.directions import UNIT_ROUNDOFF, Similarities
from interp_assets.examples.draws import rank_in_group

MARGIN = 0.02
"Pairs that are worse by less than this than what their row has become candidates too: when prices move they may be better."
NEAR_PER_ROW = 64
"A row with more columns within rounding of its profit is computed whole in float64."
GROUP = 16
ROWS_AT_ONCE = 64


def look(
    similarities: Similarities, block: slice, profit: np.ndarray, price: np.ndarray, rough: bool = False
) -> Arrays:
    """What one block of rows says of prices.

    Args:
        profit: float64 [rows of the block], similarity less price of the column that each row has.
        price: float64 [columns].
        rough: look for better pairs in bfloat16; this finds nearly all of them, and proves nothing.

    Returns:
        `greatest` float64 [rows of the block], each row's greatest profit over all columns, where not rough; `row` and
        `column` int64, pairs that are better than what their row has, or not much worse; `better` int64 [1], how many
        are better.
    """
    error = similarities.error + 4 * UNIT_ROUNDOFF * (1 + float(np.abs(price).max()))
    tile = similarities.tile(block, rough=rough)
    tile -= torch.from_numpy(price).to(tile.device, tile.dtype)
    row, column, value = at_least(tile, torch.from_numpy(profit - MARGIN).to(tile.device, tile.dtype))
    del tile
    many = np.bincount(row, minlength=len(profit)) > NEAR_PER_ROW
    if rough and many.any():
        keep = first_of_each(row, value, NEAR_PER_ROW)
        row, column = row[keep], column[keep]
        many[:] = False
    elif many.any():
        keep = ~many[row] | (value >= profit[row] - error)
        row, column = row[keep], column[keep]
        many = np.bincount(row, minlength=len(profit)) > NEAR_PER_ROW
    few = ~many[row]
    row, column = row[few], column[few]
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


def at_least(tile: torch.Tensor, limit: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns, int64, and values float32 of the numbers that reach their row's limit; groups are looked at first."""
    rows, columns = tile.shape
    groups = columns // GROUP
    found_row, found_column = [], []
    if groups:
        grouped = tile[:, : groups * GROUP].view(rows, GROUP, groups)
        row, group = torch.nonzero(grouped.amax(1) >= limit[:, None], as_tuple=True)
        for part in range(GROUP):
            reached = grouped[row, part, group] >= limit[row]
            found_row.append(row[reached])
            found_column.append(group[reached] + part * groups)
    row, column = torch.nonzero(tile[:, groups * GROUP :] >= limit[:, None], as_tuple=True)
    found_row.append(row)
    found_column.append(column + groups * GROUP)
    row, column = torch.cat(found_row), torch.cat(found_column)
    return row.cpu().numpy(), column.cpu().numpy(), tile[row, column].float().cpu().numpy()
