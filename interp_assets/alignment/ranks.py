"""Where a match stands among all that could have been: its rank in its row, and whether both are each other's nearest."""

from __future__ import annotations

import numpy as np
import torch

from interp_assets.alignment.blocks import Arrays, Blocks, digest
from interp_assets.alignment.certificate import NEAR_PER_ROW, TOLERANCE
from interp_assets.alignment.directions import Similarities, column_parts, row_blocks

ROWS_AT_ONCE = 64


def ranks(
    similarities: Similarities, row: np.ndarray, column: np.ndarray, blocks: Blocks
) -> tuple[np.ndarray, np.ndarray]:
    """How many columns are more similar to each row than its match, plus 1, int64 [matched]; and bool [matched], whether
    none is, and no row is more similar to the column.

    Counted in float32; what lies within its error of the match is looked at in float64.

    Args:
        row, column: int64 [matched], the pairs, each row and column at most once.
    """
    own = similarities.exact(row, column)
    of_row, of_column = (np.full(n, np.nan) for n in similarities.shape)
    of_row[row], of_column[column] = own, own
    matched_to = np.full(similarities.shape[0], -1)
    matched_to[row] = column

    def of_block(block: slice) -> Arrays:
        return count(similarities, block, of_row[block], matched_to[block], of_column)

    found = blocks.over("ranks", row_blocks(similarities.shape[0]), of_block, digest(row, column))
    rank = np.concatenate([each["rank"] for each in found])[row]
    reaching, above = (sum(each[name][column].astype(int) for each in found) for name in ("reaching", "above"))
    nearest = (rank == 1) & (above == 0)
    unsure = np.flatnonzero(nearest & (reaching > 1))
    for start in range(0, len(unsure), ROWS_AT_ONCE):
        some = unsure[start : start + ROWS_AT_ONCE]
        nearest[some] = similarities.T.exact_tile(column[some]).max(1) <= own[some] + TOLERANCE
    return rank, nearest


def count(
    similarities: Similarities, block: slice, of_row: np.ndarray, matched_to: np.ndarray, of_column: np.ndarray
) -> Arrays:
    """Of a block of rows: the rank of each row's match (0 of rows without), int64; and for each column whether a row is
    certainly above its match, bool, and how many may reach it, counted up to 2, uint8.

    Args:
        of_row, of_column: float64, similarities of the matches; nan where there is none.
    """
    error, height = similarities.error, len(of_row)
    limit = torch.from_numpy(np.nan_to_num(of_row, nan=np.inf))
    rank, near = np.ones(height, dtype=np.int64), np.zeros(height, dtype=np.int64)
    pairs, above, reaching = [], [], []
    for part in column_parts(len(of_column)):
        tile = similarities.tile(block, part)
        high, low = (limit.to(tile.device, tile.dtype)[:, None] + way * 2 * error for way in (1, -1))
        higher = counted(tile > high)
        own = (matched_to >= part.start) & (matched_to < part.stop)
        here = counted(tile >= low) - higher - own
        rank += higher
        near += here
        some = np.flatnonzero((here > 0) & (near <= NEAR_PER_ROW))
        if len(some):
            values = tile[some]
            places = torch.nonzero((values >= low[some]) & (values <= high[some])).cpu().numpy()
            pairs.append((some[places[:, 0]], places[:, 1] + part.start))
        best = torch.from_numpy(np.nan_to_num(of_column[part], nan=np.inf)).to(tile.device, tile.dtype)
        highest = tile.amax(0)
        few = torch.nonzero(highest >= best - 2 * error)[:, 0]
        reached = torch.zeros(len(best), dtype=torch.uint8, device=tile.device)
        reached[few] = (tile[:, few] >= best[few] - 2 * error).sum(0).clamp(max=2).to(torch.uint8)
        above.append((highest > best + 2 * error).cpu().numpy())
        reaching.append(reached.cpu().numpy())
    crowded = near > NEAR_PER_ROW
    if pairs:
        row, column = (np.concatenate(each) for each in zip(*pairs, strict=True))
        unsure = ~crowded[row] & (column != matched_to[row])
        row, column = row[unsure], column[unsure]
        np.add.at(rank, row[similarities.exact(row + block.start, column) > of_row[row]], 1)
    whole = np.flatnonzero(crowded)
    for start in range(0, len(whole), ROWS_AT_ONCE):
        some = whole[start : start + ROWS_AT_ONCE]
        rank[some] = (similarities.exact_tile(some + block.start) > of_row[some, None] + TOLERANCE).sum(1) + 1
    rank[np.isnan(of_row)] = 0
    return {"rank": rank, "above": np.concatenate(above), "reaching": np.concatenate(reaching)}


def counted(mask: torch.Tensor) -> np.ndarray:
    """How many of each row are true, int64 [rows]. On a CPU numpy is several times as fast at this as torch."""
    return np.count_nonzero(mask.numpy(), axis=1) if mask.device.type == "cpu" else mask.sum(1).cpu().numpy()
