"""Windows on which a latent does not fire: drawn at random, or where a similar latent does fire."""

from __future__ import annotations

from collections.abc import Iterator
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
LATENTS_AT_ONCE = 256
"Bounds the memory for candidates, of which a latent may have thousands; results do not depend on it."


def random_negatives(latents: np.ndarray, n: int, lookup: ActivationLookup, seed: int) -> tuple[Windows, np.ndarray]:
    """Up to n windows for each latent, in its test contexts, on which it is silent.

    Draw number i of a latent is a hash of (seed, latent, i), refused if the latent fires there, if the context is for
    explaining, or if it came before. So new text or another latent never changes a draw, and a new firing at most one.

    Args:
        latents: int64 [count], ascending, whose activations `lookup` holds.

    Returns:
        the windows, sorted by latent, and for each its number within its latent.
    """
    shape = lookup.shape
    parts = [enough_draws(some, n, lookup, seed) for some in few_at_a_time(latents)]
    latent, window = np.concatenate(parts, axis=1)
    rank = rank_in_group(latent)
    latent, window, rank = latent[rank < n], window[rank < n], rank[rank < n]
    start = shape.start(window % shape.places)
    return Windows(latent, window // shape.places, start, np.zeros(len(latent), dtype=np.float32)), rank


def few_at_a_time(latents: np.ndarray) -> Iterator[np.ndarray]:
    return (latents[start : start + LATENTS_AT_ONCE] for start in range(0, len(latents), LATENTS_AT_ONCE))


def enough_draws(latents: np.ndarray, n: int, lookup: ActivationLookup, seed: int) -> np.ndarray:
    """Usable draws, at least n of each latent that has so many: its latent and window, int64 [2, draws]."""
    found: list[np.ndarray] = []
    draws = 3 * n + 8
    while len(latents):
        row, window = usable_draws(latents, draws, lookup, seed)
        # Few latents lack windows, so these simply draw again from number 0.
        done = (np.bincount(row, minlength=len(latents)) >= n) | (draws >= LARGEST_ROUND * n)
        found.append(np.stack([latents[row], window])[:, done[row]])
        latents, draws = latents[~done], 2 * draws + 3 * n + 8
    rows = np.concatenate(found, axis=1)
    return rows[:, np.argsort(rows[0], kind="stable")]


def usable_draws(latents: np.ndarray, draws: int, lookup: ActivationLookup, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the first draws of each latent are not refused: its row in `latents` and its window, in that order."""
    shape = lookup.shape
    total = shape.contexts * shape.places
    drawn = keyed(seed, DRAW_NEGATIVE, latents[:, None], np.arange(draws)[None, :]) % np.uint64(total)
    windows = drawn.astype(np.int64)
    row, number = np.nonzero(~for_explaining(seed, latents[:, None], windows // shape.places))
    window = windows[row, number]
    by_window = order_by(row, aligned_left(window, total))  # ties in the order of draws
    by_window = by_window[~repeats(row[by_window], window[by_window])]
    row, number, window = row[by_window], number[by_window], window[by_window]
    kept = lookup.silent(latents[row], window // shape.places, shape.start(window % shape.places))
    usable = np.zeros(windows.shape, dtype=bool)
    usable[row[kept], number[kept]] = True
    return np.nonzero(usable)[0], windows[usable]


def aligned_left(number: np.ndarray, limit: int) -> np.ndarray:
    """Numbers below a limit as uint64 whose uppermost bits tell them apart, as `order_by` likes them."""
    return number.astype(np.uint64) << np.uint64(64 - limit.bit_length())


def repeats(row: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Whether the same window of the same row stands just before."""
    again = np.zeros(len(row), dtype=bool)
    again[1:] = (row[1:] == row[:-1]) & (window[1:] == window[:-1])
    return again


def nearest_rows(rows: Tensor, count: int = NEIGHBOURS, rows_per_block: int = 1024) -> np.ndarray:
    """The latents with the most similar rows [latents, d] by cosine, nearest first; int64 [latents, count], itself left out.

    Computed in blocks of rows: the similarity of all pairs never exists.
    """
    import torch

    rows = torch.nn.functional.normalize(rows.float(), dim=1)
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
    parts = []
    for some in few_at_a_time(latents):
        theirs = neighbours[some]
        sizes = counts[theirs].ravel()
        row = np.repeat(np.repeat(np.arange(len(some)), theirs.shape[1]), sizes)
        entry = np.repeat(starts[theirs].ravel() - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(row))
        usable = ~for_explaining(seed, some[row], pools.context[entry])
        row, entry = row[usable], entry[usable]
        # Where several neighbours fire on one window it counts once, for the nearest of them, which stands first.
        window = pools.context[entry] * lookup.shape.context_length + pools.start[entry]
        order = order_by(row, aligned_left(window, lookup.shape.contexts * lookup.shape.context_length))
        order = order[~repeats(row[order], window[order])]
        row, entry = row[order], entry[order]
        usable = lookup.silent(some[row], pools.context[entry], pools.start[entry])
        row, entry = row[usable], entry[usable]
        order = order_by(row, keyed(seed, PICK_NEGATIVE, some[row], pools.context[entry], pools.start[entry]))
        rank = rank_in_group(row[order])
        order, rank = order[rank < n], rank[rank < n]
        parts.append(np.stack([some[row[order]], entry[order], rank]))
    latent, entry, rank = np.concatenate(parts, axis=1)
    silent = np.zeros(len(latent), dtype=np.float32)
    return Windows(latent, pools.context[entry], pools.start[entry], silent), pools.latent[entry], rank
