"""The windows on which latents fire, and the activations within a window; vectorised over a block of latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from interp_assets.activations.cache_file import Entries
from interp_assets.examples.draws import PICK_WINDOW, PLACE_PEAK, SPLIT_CONTEXT, in_order_of, keyed, order_by
from interp_assets.tables import DECILES

EXPLAIN_SHARE = 2**63
"A context is for explaining with a latent if its keyed hash lies below this: one half."


@dataclass(frozen=True)
class WindowShape:
    window: int
    placement: str
    contexts: int
    context_length: int

    @property
    def places(self) -> int:
        """How many aligned windows there are in a context."""
        return self.context_length // self.window


class Windows(NamedTuple):
    """Active windows of a block of latents, parallel arrays sorted by latent, context, start."""

    latent: np.ndarray
    "int64, latent number"
    context: np.ndarray
    "int64"
    start: np.ndarray
    "int64, first position"
    peak: np.ndarray
    "float32, strongest activation within"

    def take(self, which: np.ndarray) -> Windows:
        return Windows(*(column[which] for column in self))


class ActivationLookup:
    """Finds the activations of (latent, context, positions) in a block of the cache."""

    def __init__(self, entries: Entries, shape: WindowShape) -> None:
        self.entries, self.shape = entries, shape
        self.keys = self.key(entries.latent, entries.context, entries.position)

    def key(self, latent: np.ndarray, context: np.ndarray, position: np.ndarray) -> np.ndarray:
        per_latent = self.shape.contexts * self.shape.context_length
        return latent.astype(np.int64) * per_latent + context.astype(np.int64) * self.shape.context_length + position

    def silent(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Whether the latent fires nowhere in each window. Fast where windows come sorted, as all lookups here are."""
        first = self.key(latent, context, start)
        following = np.searchsorted(self.keys, first)
        return (following == len(self.keys)) | (self.keys.take(following, mode="clip") >= first + self.shape.window)

    def within(self, windows: Windows) -> np.ndarray:
        """Dense activations float32 [windows, window]."""
        dense = np.zeros((len(windows.latent), self.shape.window), dtype=np.float32)
        active = np.flatnonzero(windows.peak)
        first = self.key(windows.latent[active], windows.context[active], windows.start[active])
        low, high = np.searchsorted(self.keys, first), np.searchsorted(self.keys, first + self.shape.window)
        counts = high - low
        row = np.repeat(active, counts)
        entry = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(len(row))
        dense[row, self.entries.position[entry] - windows.start[row]] = self.entries.activation[entry]
        return dense


def active_windows(entries: Entries, shape: WindowShape, seed: int) -> Windows:
    """All windows on which each latent fires.

    aligned: contexts are cut into windows from their start; what is left of a context at its end is not used.
    centred: one window a context, around the latent's strongest activation there: for explaining the peak stands at
    three quarters of the window, for testing at a keyed random place, since a fixed one would give away, where tokens
    are marked, which marks are right. A window that would leave its context is shifted to fit.
    """
    latent, context, position, activation = entries
    if shape.placement == "aligned":
        place = position // shape.window
        inside = place < shape.places
        if not inside.all():
            latent, context, position, place, activation = (
                column[inside] for column in (latent, context, position, place, activation)
            )
        first = changes(latent, context, place)
        peak = np.maximum.reduceat(activation, first) if len(first) else activation
        start = place[first].astype(np.int64) * shape.window
        return Windows(latent[first].astype(np.int64), context[first].astype(np.int64), start, peak)
    first = changes(latent, context)
    peak = np.maximum.reduceat(activation, first) if len(first) else activation
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(latent))))
    at_peak = np.flatnonzero(activation == peak[group])
    at_peak = at_peak[changes(group[at_peak])]
    latent, context = latent[first].astype(np.int64), context[first].astype(np.int64)
    before = np.where(
        for_explaining(seed, latent, context),
        shape.window * 3 // 4,
        (keyed(seed, PLACE_PEAK, latent, context) % np.uint64(shape.window)).astype(np.int64),
    )
    start = np.clip(position[at_peak].astype(np.int64) - before, 0, shape.context_length - shape.window)
    return Windows(latent, context, start, peak)


def changes(*columns: np.ndarray) -> np.ndarray:
    """Where any column differs from the element before; indices, the first element included."""
    new = np.zeros(len(columns[0]), dtype=bool)
    if len(new):
        new[0] = True
        for column in columns:
            new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(new)


def for_explaining(seed: int, latent: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Whether a latent's context is for explaining; the others are for testing. Never both, whatever is drawn."""
    return keyed(seed, SPLIT_CONTEXT, latent, context) < np.uint64(EXPLAIN_SHARE)


def deciles(windows: Windows) -> np.ndarray:
    """The decile 0..9 of each window's peak among all windows of its latent: rank * 10 // count; int8."""
    low = int(windows.latent.min()) if len(windows.latent) else 0
    group = windows.latent - low
    counts = np.bincount(group)
    # Decile d begins at rank ceil(count * d / 10).
    begins = -(-counts[:, None] * np.arange(DECILES + 1) // DECILES)
    in_order = np.repeat(np.tile(np.arange(DECILES, dtype=np.int8), len(counts)), np.diff(begins, axis=1).ravel())
    result = np.empty(len(group), dtype=np.int8)
    result[order_by(group, in_order_of(windows.peak))] = in_order
    return result


def priorities(seed: int, windows: Windows) -> np.ndarray:
    return keyed(seed, PICK_WINDOW, windows.latent, windows.context, windows.start)
