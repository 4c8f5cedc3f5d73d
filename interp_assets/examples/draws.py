"""Draws by key: what is drawn for a latent depends on that latent and the seed, on nothing else.

A candidate's priority is a hash of (seed, purpose, its own names), and the lowest n are taken. So the result depends
neither on order nor on shards nor on threads, and one more candidate displaces at most one.
"""

from __future__ import annotations

import numpy as np

# What a draw is for; one candidate has independent priorities for each purpose.
PICK_WINDOW, SPLIT_CONTEXT, PLACE_PEAK, DRAW_NEGATIVE, PICK_LATENT, SHUFFLE, PICK_NEGATIVE, PAIR_MARKS = range(8)


def keyed(seed: int, purpose: int, *names: np.ndarray | int) -> np.ndarray:
    """A uniform uint64 for each combination of names (arrays of non-negative integers that broadcast).

    The mixing function is splitmix64's (Steele, Lea, Flood 2014), applied name by name.
    """
    state = _mix(np.uint64((seed * 2 + 1) & 0xFFFFFFFFFFFFFFFF))
    with np.errstate(over="ignore"):
        state = _mix(state ^ np.uint64(purpose + 1))
        for name in names:
            state = _mix(state ^ _mix(np.asarray(name).astype(np.uint64)))
    return state


def _mix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def order_by(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices that sort by (group, value), ties in the order given; group < 2^24, value uint64.

    One sort of packed 64-bit keys, many times faster than a lexicographic sort; where the packing makes two keys
    equal, the lexicographic sort decides.
    """
    keys = (group.astype(np.uint64) << np.uint64(40)) | (value >> np.uint64(24))
    order = np.argsort(keys)
    sorted_keys = keys[order]
    if len(keys) and (sorted_keys[1:] == sorted_keys[:-1]).any():
        return np.lexsort((value, group))
    return order


def rank_in_group(sorted_group: np.ndarray) -> np.ndarray:
    """Position of each element within its group, for groups that stand together; int64."""
    if not len(sorted_group):
        return np.zeros(0, dtype=np.int64)
    new = np.ones(len(sorted_group), dtype=bool)
    new[1:] = sorted_group[1:] != sorted_group[:-1]
    starts = np.flatnonzero(new)
    return np.arange(len(sorted_group)) - np.repeat(starts, np.diff(np.append(starts, len(sorted_group))))
