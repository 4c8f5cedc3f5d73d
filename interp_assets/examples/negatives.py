"""Windows on which a latent does not fire: drawn at random, or where a similar latent does fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from interp_assets.examples.draws import DRAW_NEGATIVE, PICK_NEGATIVE, keyed, order_by, rank_in_group
from interp_assets.examples.windows import ActivationLookup, Windows, for_explaining

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_ROUND = 64
"Draws per wanted window after which a latent that fires nearly everywhere goes without."
NEIGHBOURS = 10
POOL = 64
"Windows of each neighbour that are considered: those of lowest priority."


def random_negatives(latents: np.ndarray, n: int, lookup: ActivationLookup, seed: int) -> tuple[Windows, np.ndarray]:
    """Up to n windows for each latent, in its test contexts, on which it is silent.

    Draw number i of a latent is a hash of (seed, latent, i), refused if the latent fires there, if the context is for
    explaining, or if it came before. So new text or another latent never changes a draw, and a new firing at most one.

    Args:
        latents: int64 [count], whose activations `lookup` holds.

    Returns:
        the windows, and for each its number within its latent.
    """
    shape = lookup.shape
    total = np.uint64(shape.contexts * shape.places)
    kept: list[np.ndarray] = []  # rows of (latent, window)
    short, first, width = latents, 0, 3 * n + 8
    while len(short) and first < LARGEST_ROUND * n:
        number = np.arange(first, first + width)
        drawn = (keyed(seed, DRAW_NEGATIVE, short[:, None], number[None, :]) % total).astype(np.int64)
        latent, window = np.repeat(short, width), drawn.ravel()
        context, start = window // shape.places, shape.start(window % shape.places)
        low, high = lookup.bounds(latent, context, start)
        usable = (low == high) & ~for_explaining(seed, latent, context)
        kept.append(np.stack([latent[usable], window[usable]], axis=1))
        short = lacking(kept, short, n)
        first, width = first + width, width * 2
    rows = in_order_of_draw(kept)
    rank = rank_in_group(rows[:, 0])
    rows, rank = rows[rank < n], rank[rank < n]
    context, place = rows[:, 1] // shape.places, rows[:, 1] % shape.places
    return Windows(rows[:, 0], context, shape.start(place), np.zeros(len(rows), dtype=np.float32)), rank


def lacking(kept: list[np.ndarray], asked: np.ndarray, n: int) -> np.ndarray:
    """Which of the latents just asked still have fewer than n distinct windows."""
    rows = in_order_of_draw(kept)
    low = int(asked.min())
    mine = rows[np.isin(rows[:, 0], asked), 0] - low
    counts = np.bincount(mine, minlength=int(asked.max()) - low + 1)
    return asked[counts[asked - low] < n]


def in_order_of_draw(kept: list[np.ndarray]) -> np.ndarray:
    """Rows (latent, window) of all rounds, the first draw of each kept, sorted by latent, then by draw."""
    rows = np.concatenate(kept)
    order = np.argsort(rows[:, 0], kind="stable")
    rows = rows[order]
    by_window = np.lexsort((np.arange(len(rows)), rows[:, 1], rows[:, 0]))
    again = np.zeros(len(rows), dtype=bool)
    same = (rows[by_window[1:]] == rows[by_window[:-1]]).all(axis=1)
    again[by_window[1:][same]] = True
    return rows[~again]


def decoder_neighbours(W_dec: Tensor, count: int = NEIGHBOURS, rows_per_block: int = 1024) -> np.ndarray:
    """The latents with the most similar decoder rows by cosine, nearest first; int64 [latents, count], itself left out.

    Computed in blocks of rows: the similarity of all pairs never exists.
    """
    import torch

    rows = torch.nn.functional.normalize(W_dec.float(), dim=1)
    found = []
    for start in range(0, len(rows), rows_per_block):
        similar = rows[start : start + rows_per_block] @ rows.T
        own = torch.arange(len(similar))
        similar[own, own + start] = -torch.inf
        found.append(similar.topk(min(count, len(rows) - 1), dim=1).indices)
    return torch.cat(found).cpu().numpy()


def neighbour_negatives(
    latents: np.ndarray, n: int, neighbours: np.ndarray, pools: Windows, lookup: ActivationLookup, seed: int
) -> tuple[Windows, np.ndarray, np.ndarray]:
    """Up to n windows for each latent, in its test contexts, on which a neighbour fires and it does not.

    Args:
        neighbours: int64 [all latents, count], nearest first.
        pools: the windows considered of each latent, sorted by latent.

    Returns:
        the windows, which neighbour fires on each, and for each its number within its latent.
    """
    counts = np.bincount(pools.latent, minlength=len(neighbours))
    starts = np.cumsum(counts) - counts
    theirs = neighbours[latents]
    sizes = counts[theirs].ravel()
    latent = np.repeat(np.repeat(latents, theirs.shape[1]), sizes)
    row = np.repeat(starts[theirs].ravel() - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(latent))
    context, start, neighbour = pools.context[row], pools.start[row], pools.latent[row]
    low, high = lookup.bounds(latent, context, start)
    usable = (low == high) & ~for_explaining(seed, latent, context)
    latent, context, start, neighbour = (column[usable] for column in (latent, context, start, neighbour))
    # Where several neighbours fire on one window it counts once, for the nearest of them, which stands first.
    nearest = np.sort(np.unique(lookup.key(latent, context, start), return_index=True)[1])
    latent, context, start, neighbour = (column[nearest] for column in (latent, context, start, neighbour))
    base = int(latents.min()) if len(latents) else 0
    order = order_by(latent - base, keyed(seed, PICK_NEGATIVE, latent, context, start))
    rank = rank_in_group(latent[order])
    order, rank = order[rank < n], rank[rank < n]
    silent = np.zeros(len(order), dtype=np.float32)
    return Windows(latent[order], context[order], start[order], silent), neighbour[order], rank
