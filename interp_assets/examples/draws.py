"""Draws by key: what is drawn for a latent depends on that latent and the seed, on nothing else.

A candidate's priority is a hash of (seed, purpose, its own names), and the lowest n are taken. So the result depends
neither on order nor on shards nor on threads, and one more candidate displaces at most one.
"""

from __future__ import annotations

import numpy as np

from resources.content_hash import mixed

# What a draw is for; one candidate has independent priorities for each purpose.
PICK_WINDOW, SPLIT_CONTEXT, PLACE_PEAK, DRAW_NEGATIVE, PICK_LATENT, SHUFFLE, PICK_NEGATIVE, PAIR_MARKS, CALIBRATE = (
    range(9)
)
PICK_PROMPT, WRITE_ON, INDEX_WINDOW, INTRUDE, INTRUDER_PLACE = range(9, 14)
MATCH_AT_RANDOM, REFERENCE_WINDOW = 101, 102
KEEP_TEXT, PICK_SLOT = 201, 202


def keyed(seed: int, purpose: int, *names: np.ndarray | int) -> np.ndarray:
    """A uniform uint64 for each combination of names (arrays of non-negative integers that broadcast).

    The mixing function is applied name by name.
    """
    with np.errstate(over="ignore"):
        state = mixed(np.asarray((seed * 2 + 1) & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))
        state = mixed(state ^ np.uint64(purpose + 1))
        for name in names:
            state = _name_mixed_in(state, np.asarray(name))
    return state


def _name_mixed_in(state: np.ndarray, name: np.ndarray) -> np.ndarray:
    largest = int(name.max(initial=0))
    if largest >= name.size:
        return mixed(state ^ mixed(name.astype(np.uint64)))
    # Most names are small numbers that occur often: each number is mixed once, then looked up.
    table = mixed(np.arange(largest + 1, dtype=np.uint64))
    return mixed(state ^ table)[name] if state.ndim == 0 else mixed(state ^ table[name])


def first_latents(seed: int, latents: list[int], count: int | None) -> list[int]:
    """So many latents, the first in a keyed order which every stage takes them in; by number. All where count is None."""
    if count is None:
        return latents
    order = np.argsort(keyed(seed, PICK_LATENT, np.array(latents, dtype=np.int64)), kind="stable")
    return sorted(latents[i] for i in order[:count])


def order_by(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices int64 that sort by (group, value), ties in the order given; group < 2^32, value uint64.

    One sort of 64-bit keys that hold the group, the upper bits of the value and the index: many times faster than a
    lexicographic sort, which is left to those few whose values agree in all bits that fit.
    """
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    group_bits, index_bits = int(group.max()).bit_length(), len(group).bit_length()
    value_bits = 64 - group_bits - index_bits
    keys = group.astype(np.uint64)
    keys <<= np.uint64(value_bits)
    keys |= value >> np.uint64(64 - value_bits)
    keys <<= np.uint64(index_bits)
    keys |= np.arange(len(group), dtype=np.uint64)
    keys.sort()
    order = (keys & np.uint64((1 << index_bits) - 1)).view(np.int64)
    keys >>= np.uint64(index_bits)
    same = keys[1:] == keys[:-1]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        among = order[tied]
        order[tied] = among[np.lexsort((among, value[among], group[among]))]
    return order


def in_order_of(value: np.ndarray) -> np.ndarray:
    """uint64 that are ordered as these float32 >= 0 are: the bits of such floats order as integers do."""
    return value.view(np.uint32).astype(np.uint64) << np.uint64(33)


def rank_in_group(sorted_group: np.ndarray) -> np.ndarray:
    """Position of each element within its group, for groups that stand together; int64."""
    if not len(sorted_group):
        return np.zeros(0, dtype=np.int64)
    new = np.ones(len(sorted_group), dtype=bool)
    new[1:] = sorted_group[1:] != sorted_group[:-1]
    starts = np.flatnonzero(new)
    return np.arange(len(sorted_group)) - np.repeat(starts, np.diff(np.append(starts, len(sorted_group))))
