"""Windows on which a latent does not fire: drawn at random, or where a similar latent does fire.

Each kind offers windows for the places of `distinct`, which lets in what was not shown yet.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples.distinct import Shown, Slots, fill, place
from interp_assets.examples.draws import DRAW_NEGATIVE, PICK_NEGATIVE, keyed
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.samplers import first_of_each
from interp_assets.examples.windows import (
    ActivationLookup,
    Windows,
    WindowShape,
    active_windows,
    for_explaining,
    priorities,
)

if TYPE_CHECKING:
    from torch import Tensor

DRAWS_AT_FIRST = 4
LARGEST_ROUND = 64
"Draws for each slot after which it stays empty: the latent fires nearly everywhere."
NEIGHBOURS = 10
POOL = 64
"Windows of each neighbour that are considered: those of lowest priority."
LATENTS_AT_ONCE = 256
"Bounds the memory for candidates, of which a latent may have thousands; results do not depend on it."


class Negatives(NamedTuple):
    windows: Windows
    number: np.ndarray
    "int64, of the slot within its latent"
    neighbour: np.ndarray | None = None
    "int64, which latent fires there"


def random_negatives(slots: Slots, lookup: ActivationLookup, shown: Shown, seed: int) -> Negatives:
    """For each slot a window of a test context of its latent, on which that is silent.

    Draw number i for a slot is a context: a hash of (seed, latent, number of the slot, i). So another latent never
    changes a draw, and a new firing those alone beside whose slots other test windows stand now.

    Args:
        slots: of latents whose activations `lookup` holds.
    """
    return by_parts(slots, lambda some: first_free_draws(some, lookup, shown, seed))


def by_parts(slots: Slots, negatives_of: Callable[[Slots], Negatives]) -> Negatives:
    """A few latents at a time."""
    latents = np.unique(slots.latent)[::LATENTS_AT_ONCE]
    bounds = np.searchsorted(slots.latent, latents[1:])
    parts = [negatives_of(Slots(*columns)) for columns in zip(*(np.split(each, bounds) for each in slots), strict=True)]
    windows = Windows(*(np.concatenate(columns) for columns in zip(*(each.windows for each in parts), strict=True)))
    neighbours = [each.neighbour for each in parts if each.neighbour is not None]
    return Negatives(
        windows, np.concatenate([each.number for each in parts]), np.concatenate(neighbours) if neighbours else None
    )


def first_free_draws(slots: Slots, lookup: ActivationLookup, shown: Shown, seed: int) -> Negatives:
    empty, drawn, draws = np.arange(len(slots.latent)), 0, DRAWS_AT_FIRST
    filled, where = [empty[:0]], [empty[:0]]
    while len(empty) and drawn < LARGEST_ROUND:
        open_slots = slots.take(empty)
        latent, numbers = open_slots.latent[:, None], np.arange(drawn, drawn + draws)
        drawn_contexts = keyed(seed, DRAW_NEGATIVE, latent, open_slots.number[:, None], numbers)
        contexts = (drawn_contexts % np.uint64(lookup.shape.contexts)).astype(np.int64)
        slot, number = np.nonzero(~for_explaining(seed, latent, contexts))
        context = contexts[slot, number]
        taken = fill(open_slots, slot, context, lookup, shown)
        filled.append(empty[slot[taken]])
        where.append(context[taken])
        empty = np.delete(empty, slot[taken])
        drawn, draws = drawn + draws, min(2 * draws, LARGEST_ROUND - drawn - draws)
    return in_order(slots, np.concatenate(filled), np.concatenate(where))


def in_order(slots: Slots, slot: np.ndarray, context: np.ndarray, neighbour: np.ndarray | None = None) -> Negatives:
    """What fills each slot, in the order of slots."""
    order = np.argsort(slot)
    of = slots.take(slot[order])
    silent = np.zeros(len(order), dtype=np.float32)
    windows = Windows(of.latent, context[order], of.start, silent)
    return Negatives(windows, of.number, None if neighbour is None else neighbour[order])


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


class Pools(NamedTuple):
    """The windows considered of each latent that is somebody's neighbour: parallel arrays, sorted by latent."""

    latent: np.ndarray
    "int64"
    context: np.ndarray
    "int64"
    position: np.ndarray
    "int64, one in its context that the window must hold: where the latent fires most, unless windows are aligned"


def window_pools(
    cache: CacheReader,
    shape: WindowShape,
    texts: RepeatedText,
    seed: int,
    near: np.ndarray,
    pool: ThreadPoolExecutor,
) -> Pools:
    """The POOL windows of lowest priority of every latent that is somebody's neighbour."""

    def lowest(number: int) -> Pools:
        latents, entries = cache.part(number, near)
        windows = texts.distinct(active_windows(entries, shape, seed), seed)
        picked, _ = first_of_each(np.searchsorted(latents, windows.latent), priorities(seed, windows), POOL)
        windows = windows.take(picked)
        if shape.placement == "aligned":  # no other window there holds any of its positions
            return Pools(windows.latent, windows.context, windows.start)
        peak = ActivationLookup(entries, shape).within(windows).argmax(axis=1)
        return Pools(windows.latent, windows.context, windows.start + peak)

    pools = list(pool.map(lowest, cache.blocks_of(near)))
    return Pools(*(np.concatenate(columns) for columns in zip(*pools, strict=True))) if pools else NO_POOLS


NO_POOLS = Pools(*np.zeros((3, 0), dtype=np.int64))


def neighbour_negatives(
    slots: Slots, neighbours: np.ndarray, pools: Pools, lookup: ActivationLookup, shown: Shown, seed: int
) -> Negatives:
    """For each slot a window of a test context of its latent, on which a neighbour fires and that is silent.

    Args:
        slots: of latents whose activations `lookup` holds.
        neighbours: int64 [all latents, count], nearest first.
    """
    counts = np.bincount(pools.latent, minlength=len(neighbours))
    starts = np.cumsum(counts) - counts

    def drawn(some: Slots) -> Negatives:
        latents = np.unique(some.latent)
        theirs = neighbours[latents]
        sizes = counts[theirs].ravel()
        latent = np.repeat(np.repeat(latents, theirs.shape[1]), sizes)
        entry = np.repeat(starts[theirs].ravel() - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(latent))
        usable = ~for_explaining(seed, latent, pools.context[entry])
        latent, entry = latent[usable], entry[usable]
        context, position = pools.context[entry], pools.position[entry]
        # Where several neighbours fire in a context the nearest of them goes first, which stands first.
        preference = keyed(seed, PICK_NEGATIVE, latent, context)
        slot, taken = place(some, latent, context, position, preference, lookup, shown, seed)
        return in_order(some, slot, context[taken], pools.latent[entry[taken]])

    return by_parts(slots, drawn)
