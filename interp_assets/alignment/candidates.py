"""Which pairs of latents may be matched at all: for each latent the most similar ones of the other side."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from interp_assets.alignment.blocks import Arrays, Blocks
from interp_assets.alignment.directions import Similarities, column_parts, row_blocks
from interp_assets.alignment.sparse_graph import Edges, greedy, last_of_each

PER_ROW, PER_COLUMN = 32, 8
GROUP = 16
ASKED_AT_ONCE = 512
"The number of columns that are asked for is rounded up to a multiple of this."
SMALL = 2**20
"So many similarities are looked at all together."


def candidates(
    similarities: Similarities, blocks: Blocks, per_row: int, per_column: int, search_again: bool = True
) -> Edges:
    """The `per_row` best columns of each row, the `per_column` best rows of each column, and as many more as it takes
    that all rows can be assigned at once. Found in bfloat16; values are float64.

    Args:
        similarities: with no more rows than columns.
        search_again: what cannot be assigned gets candidates of its own, not just any.
    """
    rows, columns = similarities.shape
    parts = row_blocks(rows)
    found = blocks.over("candidates of rows", parts, lambda block: of_rows(similarities, block, per_row))
    row = [np.repeat(np.arange(rows), min(per_row, columns))]
    column = [np.concatenate([each["column"] for each in found]).ravel()]
    highest = torch.from_numpy(np.stack([each["highest"] for each in found])).view(torch.bfloat16)
    chosen = highest.topk(min(per_column, len(parts)), dim=0)
    number, least = chosen.indices.numpy(), chosen.values[-1].float().numpy() if len(parts) >= per_column else None

    def of_columns(block: slice) -> Arrays:
        asked = np.unique(np.flatnonzero((number == parts.index(block)).any(0)))
        return best_rows(similarities, block, asked, per_column, least)

    for each in blocks.over("candidates of columns", parts, of_columns):
        row.append(each["row"])
        column.append(each["column"])
    edges = with_values(similarities, np.concatenate(row), np.concatenate(column).astype(np.int64))
    return joined(edges, completing(similarities, edges, blocks, search_again))


def of_rows(similarities: Similarities, block: slice, count: int) -> Arrays:
    """The best columns of each row, int32 [rows, count], and the highest similarity of each column: bfloat16 as int16."""
    column, value, highest = [], [], []
    for part in column_parts(similarities.shape[1]):
        tile = similarities.tile(block, part, rough=True)
        best = top_of_rows(tile, min(count, tile.shape[1]))
        column.append(best + part.start)
        value.append(tile.gather(1, best))
        highest.append(tile.amax(0))
    found = torch.cat(column, 1)
    if len(column) > 1:
        found = found.gather(1, torch.cat(value, 1).topk(min(count, found.shape[1]), dim=1).indices)
    return {
        "column": found.to(torch.int32).cpu().numpy(),
        "highest": torch.cat(highest).to(torch.bfloat16).view(torch.int16).cpu().numpy(),
    }


def top_of_rows(tile: Tensor, count: int) -> Tensor:
    """The columns of the highest numbers of each row, int64 [rows, count].

    The highest of all are among the groups with the highest maxima, and there are fewer groups than columns: several
    times as fast as to look through all columns.
    """
    rows, columns = tile.shape
    groups = columns // GROUP
    if groups <= count:
        return tile.topk(count, dim=1).indices
    whole = groups * GROUP
    best = tile[:, :whole].view(rows, GROUP, groups).amax(1).topk(count, dim=1).indices
    within = (best[:, None, :] + groups * torch.arange(GROUP, device=tile.device)[None, :, None]).flatten(1)
    rest = torch.arange(whole, columns, device=tile.device).expand(rows, -1)
    within = torch.cat([within, rest], 1)
    return within.gather(1, tile.gather(1, within).topk(count, dim=1).indices)


def best_rows(
    similarities: Similarities, block: slice, asked: np.ndarray, count: int, least: np.ndarray | None
) -> Arrays:
    """The rows of a block that are among the best of the columns asked for; int64 rows and columns.

    Args:
        asked: int64, columns.
        least: float32 [all columns], below which no row is; not known where None.
    """
    if not len(asked):
        return {"row": np.zeros(0, dtype=np.int64), "column": np.zeros(0, dtype=np.int64)}
    # A product of another shape is another kernel, compiled first: some of the columns are asked for twice instead.
    asked = np.pad(asked, (0, -len(asked) % ASKED_AT_ONCE), "edge")
    tile = similarities.tile(block, asked, rough=True).T.contiguous()
    row = top_of_rows(tile, min(count, tile.shape[1]))
    wanted = torch.ones(row.shape, dtype=torch.bool, device=tile.device)
    if least is not None:
        wanted = tile.gather(1, row) >= torch.from_numpy(least[asked, None]).to(tile.device, tile.dtype)
    wanted, row = wanted.cpu(), row.cpu()
    column = np.broadcast_to(asked[:, None], row.shape)[wanted.numpy()]
    return {"row": row[wanted].numpy() + block.start, "column": column}


def with_values(similarities: Similarities, row: np.ndarray, column: np.ndarray, known: Edges | None = None) -> Edges:
    """Edges, each once and in order, with their similarities; those that are known are left out."""
    key = np.sort(row.astype(np.int64) * similarities.shape[1] + column)  # many times as fast as np.unique
    key = key[last_of_each(key)]
    if known is not None:
        there = known.row * similarities.shape[1] + known.column
        key = key[there[np.minimum(np.searchsorted(there, key), len(there) - 1)] != key]
    row, column = np.divmod(key, similarities.shape[1])
    return Edges(row, column, similarities.exact(row, column))


def joined(one: Edges, other: Edges) -> Edges:
    """Both together; an edge that is in both, once."""
    row, column, value = (np.concatenate(both) for both in zip(one, other, strict=True))
    key = row * (column.max(initial=0) + 1) + column
    order = np.argsort(key, kind="stable")  # which merges what is sorted already
    order = order[last_of_each(key[order])]
    return Edges(row[order], column[order], value[order])


def completing(similarities: Similarities, edges: Edges, blocks: Blocks, search_again: bool) -> Edges:
    """More edges, with which all rows can be assigned: what the greedy assignment leaves over gets candidates among
    itself, once. Many latents that are alike have the same candidates, and what these leave over is paired as it comes:
    better pairs are found when all are looked at."""
    rows, columns = similarities.shape
    taken = greedy(edges, rows, columns)
    free_rows = np.setdiff1d(np.arange(rows), edges.row[taken])
    free_columns = np.setdiff1d(np.arange(columns), edges.column[taken])
    if not len(free_rows):
        return Edges(*(part[:0] for part in edges))
    left = similarities.subset(free_rows, free_columns)
    if len(free_rows) * len(free_columns) <= SMALL:
        row, column = linear_sum_assignment(left.exact_tile(np.arange(len(free_rows))), maximize=True)
        return with_values(similarities, free_rows[row], free_columns[column])
    if not search_again:
        return with_values(similarities, free_rows, free_columns[: len(free_rows)])
    more = candidates(left, blocks.part("left over"), PER_ROW, PER_COLUMN, search_again=False)
    return Edges(free_rows[more.row], free_columns[more.column], more.value)
