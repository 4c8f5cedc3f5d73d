"""Text that stands in the corpus more than once, and which windows of a latent have it in common.

Two windows have the same text if they share a run of half a window of consecutive tokens (`shared_run`). So however two
copies of a document are shifted against each other, every window of one has the text of a window of the other, and so
have two windows that differ in one token anywhere. Repeats as exact runs: Lee et al. 2022, arXiv 2107.06499.
"""

from __future__ import annotations

import numpy as np

from interp_assets.examples.draws import KEEP_TEXT, keyed, order_by
from interp_assets.examples.windows import Windows, changes
from resources.content_hash import mixed

SHORTEST_RUN = 8
"Tokens; shorter runs recur in any text. Windows shorter than this have the same text if they are equal."


def shared_run(window: int) -> int:
    """How many consecutive tokens two windows must share to have the same text."""
    return min(window, max(window // 2, SHORTEST_RUN))


CONTEXTS_AT_ONCE = 4096
"Bounds the memory for look-ups; results do not depend on it."


class RepeatedText:
    """The runs of tokens that stand in a corpus more than once. Equal hashes of 64 bits are taken for equal runs.

    Args:
        tokens: uint32 [contexts, context_length].
        window: tokens in one.
    """

    def __init__(self, tokens: np.ndarray, window: int) -> None:
        self.window, self.run = window, shared_run(window)
        self.contexts, self.context_length = tokens.shape
        hashes = run_hashes(tokens, self.run)
        repeated = twice_or_more(hashes)
        self.count = len(repeated)
        starts = self.context_length - window + 1
        self.number = np.full(hashes.shape, -1, dtype=np.int32)
        "int32 [contexts, context_length - run + 1]: equal for equal runs that begin there, -1 where a run stands once"
        self.somewhere = np.zeros((self.contexts, starts), dtype=bool)
        "bool [contexts, context_length - window + 1]: whether the window that starts there holds a run that recurs"
        for first in range(0, self.contexts if self.count else 0, CONTEXTS_AT_ONCE):
            part = slice(first, first + CONTEXTS_AT_ONCE)
            at = np.searchsorted(repeated, hashes[part])
            recurs = repeated.take(at, mode="clip") == hashes[part]
            np.copyto(self.number[part], at, where=recurs, casting="same_kind")
            ends = np.pad(np.cumsum(recurs, axis=1), ((0, 0), (1, 0)))
            self.somewhere[part] = ends[:, window - self.run + 1 :] > ends[:, :starts]

    def may_recur(self, context: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Which windows have any text that stands elsewhere too; the others need no closer look. Indices."""
        return np.flatnonzero(self.somewhere.ravel().take(context * self.somewhere.shape[1] + start))

    def runs_in(self, context: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The repeated runs in each window: the window's index, and the run's number."""
        runs = np.lib.stride_tricks.sliding_window_view(self.number, self.window - self.run + 1, axis=1)
        found = runs[context, start]
        window, place = np.nonzero(found >= 0)
        return window, found[window, place]

    def repeats(self, latent: np.ndarray, context: np.ndarray, start: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Which windows share text with another window of their latent that has an earlier turn. Indices.

        Args:
            turn: uint64, smaller comes first; windows of equal turns come in the order given.
        """
        at = self.may_recur(context, start)
        if len(at) < 2:
            return at[:0]
        at = at[order_by(latent[at] - int(latent[at].min()), turn[at])]
        window, run = self.runs_in(context[at], start[at])
        bits = np.uint64(len(at).bit_length())
        keys = np.sort(run.astype(np.uint64) << bits | window.astype(np.uint64))
        run, window = keys >> bits, (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        owner = latent[at][window]
        later = (run[1:] == run[:-1]) & (owner[1:] == owner[:-1]) & (window[1:] != window[:-1])
        return at[np.unique(window[1:][later])]

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
