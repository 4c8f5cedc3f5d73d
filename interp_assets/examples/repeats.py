"""Text that stands in the corpus more than once, and which windows of a latent have it in common.

Two windows have the same text if they share a run of half a window of consecutive tokens (`shared_run`). So however two
copies of a document are shifted against each other, every window of one has the text of a window of the other, and so
have two windows that differ in one token anywhere. Repeats as exact runs: Lee et al. 2022, arXiv 2107.06499.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from interp_assets.examples.draws import KEEP_TEXT, keyed, order_by
from interp_assets.examples.windows import Windows, changes
from resources.content_hash import mixed

SHORTEST_RUN = 8
"Tokens; shorter runs recur in any text. Windows shorter than this have the same text if they are equal."
CONTEXTS_AT_ONCE = 4096
"Bounds the memory for look-ups; results do not depend on it."


def shared_run(window: int) -> int:
    """How many consecutive tokens two windows must share to have the same text."""
    return min(window, max(window // 2, SHORTEST_RUN))


class Pieces(NamedTuple):
    """What windows hold of repeated text: ranges of runs, each run named by where in the corpus it stands first."""

    window: np.ndarray
    "int64, index of the window"
    low: np.ndarray
    "int64, the first run"
    high: np.ndarray
    "int64, the last"

    def take(self, which: np.ndarray) -> Pieces:
        return Pieces(*(column[which] for column in self))


class RepeatedText:
    """The runs of tokens that stand in a corpus more than once. Equal hashes of 64 bits are taken for equal runs.

    They are kept as segments: runs that follow one another, as do the places where these stand first. A window that
    was copied as a whole lies in one.

    Args:
        tokens: uint32 [contexts, context_length].
        window: tokens in one.
    """

    def __init__(self, tokens: np.ndarray, window: int) -> None:
        self.window, self.run = window, shared_run(window)
        self.contexts, self.context_length = tokens.shape
        self.size = tokens.size
        hashes = run_hashes(tokens, self.run)
        repeated = twice_or_more(hashes)
        starts = self.context_length - window + 1
        self.somewhere = np.zeros((self.contexts, starts), dtype=bool)
        "bool [contexts, context_length - window + 1]: whether the window that starts there holds a run that recurs"
        places, runs = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for begin in range(0, self.contexts if len(repeated) else 0, CONTEXTS_AT_ONCE):
            part = slice(begin, begin + CONTEXTS_AT_ONCE)
            at = np.searchsorted(repeated, hashes[part])
            recurs = repeated.take(at, mode="clip") == hashes[part]
            ends = np.pad(np.cumsum(recurs, axis=1), ((0, 0), (1, 0)))
            self.somewhere[part] = ends[:, window - self.run + 1 :] > ends[:, :starts]
            context, position = np.nonzero(recurs)
            places.append((begin + context) * self.context_length + position)
            runs.append(at[recurs])
        place, run = np.concatenate(places), np.concatenate(runs)
        first = np.zeros(len(repeated), dtype=np.int64)
        first[run[::-1]] = place[::-1]  # of several values the last is kept
        begins = changes(place - np.arange(len(place)), first[run] - place)
        self.first = place[begins]
        "int64 [segments], ascending: the place (context * context_length + position) at which a segment begins"
        self.last = place[np.append(begins[1:], len(place))[: len(begins)] - 1]
        "int64 [segments], the place of its last run"
        self.shift = first[run[begins]] - self.first
        "int64 [segments], from a run's place to where it stands first"

    def may_recur(self, context: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Which windows have any text that stands elsewhere too; the others need no closer look. Indices."""
        return np.flatnonzero(self.somewhere.ravel().take(context * self.somewhere.shape[1] + start))

    def pieces(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray) -> Pieces:
        """What each window holds of repeated text, sorted; runs are told apart by latent. Those of a window are disjoint."""
        begin = context * self.context_length + start
        end = begin + self.window - self.run
        low, high = np.searchsorted(self.last, begin), np.searchsorted(self.first, end, side="right")
        counts = high - low
        window = np.repeat(np.arange(len(begin)), counts)
        segment = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(len(window))
        name = self.shift[segment] + latent[window] * self.size
        low, high = (
            np.maximum(self.first[segment], begin[window]) + name,
            np.minimum(self.last[segment], end[window]) + name,
        )
        order = np.lexsort((window, low))
        found = Pieces(window[order], low[order], high[order])
        while len(
            again := np.flatnonzero((found.window[1:] == found.window[:-1]) & (found.low[1:] <= found.high[:-1]))
        ):
            # Text that repeats itself within a window: of pieces that overlap the first takes in the next.
            again = again[changes(again - np.arange(len(again)))]
            found.high[again] = np.maximum(found.high[again], found.high[again + 1])
            found = Pieces(*(np.delete(column, again + 1) for column in found))
        return found

    def repeats(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Windows without which no two of a latent share text, each sharing some with one of an earlier turn. Indices.

        Args:
            turn: uint64, smaller comes first; windows of equal turns come in the order given.
        """
        at = self.may_recur(context, start)
        if len(at) < 2:
            return at[:0]
        at = at[order_by(latent[at] - int(latent[at].min()), turn[at])]
        left = self.pieces(latent[at], context[at], start[at])
        gone = np.zeros(len(at), dtype=bool)
        # As pieces are sorted and those of one window apart, neighbours overlap wherever any two do.
        while len(near := np.flatnonzero(left.low[1:] <= left.high[:-1])):
            gone[np.maximum(left.window[near], left.window[near + 1])] = True
            left = left.take(~gone[left.window])
        return at[gone]

    def distinct(self, windows: Windows, seed: int) -> Windows:
        """The windows without those whose text another window of their latent has: a keyed draw decides which stays."""
        at = self.may_recur(windows.context, windows.start)
        latent, context, start = (column[at] for column in windows[:3])
        gone = at[self.repeats(latent, context, start, keyed(seed, KEEP_TEXT, latent, context, start))]
        if not len(gone):
            return windows
        kept = np.ones(len(windows.latent), dtype=bool)
        kept[gone] = False
        return windows.take(kept)


def twice_or_more(values: np.ndarray) -> np.ndarray:
    """The values that occur more than once, ascending."""
    ordered = np.sort(values, axis=None)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return again[changes(again)]


def run_hashes(tokens: np.ndarray, run: int) -> np.ndarray:
    """A hash of the run of tokens that begins at each place, uint64 [contexts, context_length - run + 1]."""
    hashes, length = mixed(tokens.astype(np.uint64)), 1
    while length < run:
        step = min(length, run - length)
        hashes = mixed(hashes[:, :-step] * np.uint64(step * 2 + 1) + hashes[:, step:])
        length += step
    return hashes
