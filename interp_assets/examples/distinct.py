"""Negatives beside a latent's test windows: where each may stand, and that no place and no text is shown twice.

What a latent's windows have in common must be what it fires on, and each window counts as one trial. So

- the negative of number r stands where in its context the activating test window of number r stands in its own (where
  there are fewer of those, they are gone through again): a window's place in its context tells nothing;
- no two windows of a latent overlap, of whatever kind: none is the same place as another, not even in part;
- no two have the same text, as `repeats` has it, explain windows included.

A kind of negative offers contexts for these places in its order of preference, of which `fill` takes what it may; or it
names windows that it likes, for which `place` finds such places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from interp_assets.examples.draws import PICK_SLOT, keyed, order_by
from interp_assets.examples.repeats import Pieces, RepeatedText
from interp_assets.examples.windows import ActivationLookup, changes

TRIES = 2
"Slots for which each window that a kind likes is considered, of all those at which it could stand."
ROUNDS = 4
"After one, windows that are left are considered for slots that are."
OFFERS_AT_ONCE = 4
"Offers for a slot that are looked at before the next slots' turn."


class Slots(NamedTuple):
    """Where negatives of one kind are wanted: parallel arrays, sorted by latent and number."""

    latent: np.ndarray
    "int64"
    number: np.ndarray
    "int64, 0, 1, 2, ... within the latent"
    start: np.ndarray
    "int64, first position of the window in its context"

    def take(self, which: np.ndarray) -> Slots:
        return Slots(*(column[which] for column in self))


def slots_beside(latent: np.ndarray, start: np.ndarray, n: int) -> Slots:
    """n slots for each latent, at the starts of its activating test windows.

    Args:
        latent, start: of those windows, sorted by latent and number.
    """
    first = changes(latent)
    counts = np.diff(np.append(first, len(latent)))
    row, number = np.divmod(np.arange(len(first) * n), max(n, 1))
    return Slots(latent[first[row]].astype(np.int64), number, start[first[row] + number % counts[row]].astype(np.int64))


class Shown:
    """The windows that latents have been given so far."""

    def __init__(self, texts: RepeatedText) -> None:
        self.texts = texts
        self.places = np.zeros(0, dtype=np.int64)
        self.lows, self.highs = self.places, self.places

    def add(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray) -> None:
        # A stable sort merges what is sorted already.
        new = np.sort(self._place(latent, context, start))
        self.places = np.sort(np.concatenate([self.places, new]), kind="stable")
        _, lows, highs = self._pieces(latent, context, start)
        # How many pieces overlap another is told by both ends, each in its own order.
        self.lows = np.sort(np.concatenate([self.lows, lows]), kind="stable")
        self.highs = np.sort(np.concatenate([self.highs, highs]), kind="stable")

    def clash(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Whether each window overlaps one that its latent was given, or has the same text; bool."""
        place = self._place(latent, context, start)
        before = np.searchsorted(self.places, place - self.texts.window, side="right")
        clash = np.zeros(len(place), dtype=bool)
        if len(self.places):
            clash = (before < len(self.places)) & (self.places.take(before, mode="clip") < place + self.texts.window)
        window, low, high = self._pieces(latent, context, start)
        clash[window[np.searchsorted(self.highs, low) < np.searchsorted(self.lows, high, side="right")]] = True
        return clash

    def apart(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Indices of windows that clash with none before them in the order given, ascending."""
        place = self._place(latent, context, start)
        order = np.argsort(place, kind="stable")
        while (near := np.flatnonzero(np.diff(place[order]) < self.texts.window)).size:
            order = np.delete(order, np.where(order[near] > order[near + 1], near, near + 1))
        kept = np.sort(order)
        turn = np.arange(len(kept), dtype=np.uint64) << np.uint64(64 - len(kept).bit_length())
        return np.delete(kept, self.texts.repeats(latent[kept], context[kept], start[kept], turn))

    def _place(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Numbers less than a window apart for windows of one latent that overlap, and only for those."""
        return (latent * self.texts.contexts + context) * self.texts.context_length + start

    def _pieces(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray) -> Pieces:
        """What the windows hold of repeated text, sorted."""
        at = self.texts.may_recur(context, start)
        window, low, high = self.texts.pieces(latent[at], context[at], start[at])
        return Pieces(at[window], low, high)


def fill(slots: Slots, slot: np.ndarray, context: np.ndarray, lookup: ActivationLookup, shown: Shown) -> np.ndarray:
    """Give each slot the first window offered for it that is silent and clashes with nothing; they are added to `shown`.

    Args:
        slot: int64 [offers], for which slot each offer is; ascending, the preferred offers of a slot first.
        context: int64 [offers], whose window at the slot's start is offered.
        lookup: the activations of the slots' latents.

    Returns:
        indices of the offers taken, ascending; one of each slot at most.
    """
    at = changes(slot)
    end = np.append(at[1:], len(slot))
    taken = [at[:0]]
    while len(at):
        row, step = np.nonzero(at[:, None] + np.arange(OFFERS_AT_ONCE) < end[:, None])
        offer = at[row] + step
        latent, where, start = slots.latent[slot[offer]], context[offer], slots.start[slot[offer]]
        free = np.flatnonzero(lookup.silent(latent, where, start))
        free = free[~shown.clash(latent[free], where[free], start[free])]
        first = free[changes(row[free])]
        won = first[shown.apart(latent[first], where[first], start[first])]
        shown.add(latent[won], where[won], start[won])
        taken.append(offer[won])
        at = at + OFFERS_AT_ONCE
        at[row[first]] = offer[first] + 1
        waiting = at < end
        waiting[row[won]] = False
        at, end = at[waiting], end[waiting]
    return np.sort(np.concatenate(taken))


def place(
    slots: Slots,
    latent: np.ndarray,
    context: np.ndarray,
    position: np.ndarray,
    preference: np.ndarray,
    lookup: ActivationLookup,
    shown: Shown,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Give slots what a kind of negative likes, as `fill` does.

    Args:
        latent, context, position: int64 [liked]; the window given to a slot holds this position of this context.
        preference: uint64 [liked], smaller goes first, equals in the order given.

    Returns:
        the slots that were filled, and what of the liked each was given; int64 [filled], by slot.
    """
    empty, liked = np.arange(len(slots.latent)), np.arange(len(latent))
    filled, given = [empty[:0]], [liked[:0]]
    for _ in range(ROUNDS):
        waiting = slots.take(empty)
        slot, which = offers(waiting, latent[liked], context[liked], position[liked], shown.texts, seed)
        which = liked[which]
        order = order_by(slot, preference[which])
        slot, which = slot[order], which[order]
        taken = fill(waiting, slot, context[which], lookup, shown)
        filled.append(empty[slot[taken]])
        given.append(which[taken])
        empty = np.delete(empty, slot[taken])
        if not len(empty) or not len(taken):
            break
        liked = liked[np.isin(latent[liked], slots.latent[empty])]
    all_filled = np.concatenate(filled)
    order = np.argsort(all_filled)
    return all_filled[order], np.concatenate(given)[order]


def offers(
    slots: Slots, latent: np.ndarray, context: np.ndarray, position: np.ndarray, texts: RepeatedText, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """For which slots windows are considered that a kind likes: keyed draws among those that then hold a given position.

    Args:
        latent, context, position: int64 [liked]; the window given to a slot must hold this position of this context.

    Returns:
        slots and indices of what is liked, in the order of the latter; none for what fits no slot.
    """
    length = texts.context_length
    by_start = np.lexsort((slots.start, slots.latent))
    keys = slots.latent[by_start] * length + slots.start[by_start]
    low = np.searchsorted(keys, latent * length + np.maximum(position - texts.window + 1, 0))
    choice = np.searchsorted(keys, latent * length + position, side="right") - low
    fits = np.flatnonzero(choice)
    low, choice = low[fits], choice[fits]
    draws = keyed(seed, PICK_SLOT, latent[fits], context[fits], position[fits])
    tries = draws[:, None] >> np.uint64(64 // TRIES) * np.arange(TRIES, dtype=np.uint64)
    slot = low[:, None] + (tries % choice[:, None].astype(np.uint64)).astype(np.int64)
    return by_start[slot.ravel()], np.repeat(fits, TRIES)
