"""Where the marks of wrong fuzzing trials stand: as patterns of right ones, dealt out among a latent's other texts.

`pattern`: a right example's marks, where they are. The positions and the number of marks then tell nothing, but what is
marked does: a latent that fires on commas has its right marks on commas, and its wrong ones on whatever stands there.
`matched`: a right example's marks, moved together by at most FURTHEST tokens (or over the window's end) to where they stand on tokens of the same kinds
(`examples.token_kinds`) and of about the same rank. Where not even that many as LIKE of the marks can be, neither the right
trial with these marks nor a wrong one is asked, so that right and wrong trials show the same kinds equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from interp_assets.examples.draws import PAIR_MARKS, keyed
from interp_assets.examples.rendering import HIDDEN
from interp_assets.examples.token_kinds import TokenKinds, log_rank
from interp_assets.scores.trials import TestExample

FURTHEST = 8
"Tokens by which a pattern may be moved. Over so few, where marks stand stays as it was (`benchmarks.marks`)."
LIKE = 0.75
"The least share of a pattern's marks that must stand on tokens of their kind."
RANKS = 8.0
"Powers of two by which ranks may differ before it makes no more difference."
IMPOSSIBLE, UNLIKE, BY_KIND, BY_RANK, BY_TOKEN, BY_SIDE, BY_CHANCE = 1e6, 10.0, 2.0, 0.3, 0.01, 1e-6, 0.05
"""What a pair of text and pattern costs where it clashes, or is unlike; by the share of marks unlike, by rank, by tokens moved,
by the side to which, by a draw."""


class Placed(NamedTuple):
    """The marks that a text gets in its wrong trial."""

    donor: int
    "Whose pattern it is: a place among the examples."
    marks: list[bool]


def dealt_marks(latent: int, positives: list[TestExample], patterns: list[list[bool]], seed: int) -> dict[int, int]:
    """Which example's marks each example gets: as many pairs as there can be, each pattern used at most once.

    No mark stands on what is not shown, or on a token on which the latent fires.
    """
    if not positives:
        return {}
    clash = (taken(positives)[:, None, :] & np.array(patterns)[None, :, :]).any(2)  # [text, pattern]
    pairs = assigned(keys_of(latent, positives, seed) + clash * IMPOSSIBLE)
    return {text: pattern for text, pattern in pairs if not clash[text, pattern]}


def matched_marks(
    latent: int, positives: list[TestExample], patterns: list[list[bool]], kinds: TokenKinds, seed: int
) -> dict[int, Placed]:
    """As `dealt_marks`, with patterns moved to tokens of the kinds that they mark in their own text; unlike pairs are left out."""
    if not positives:
        return {}
    tokens, marks = np.array([each.tokens for each in positives]), np.array(patterns)
    shifts, distance = moves(marks.shape[1])
    kind, rank, blocked = kinds.of(tokens), log_rank(tokens), taken(positives)
    count, length = marks.shape
    unlike, far = np.zeros((2, count, count, len(shifts)))  # [text, pattern, shift]
    clash = np.zeros(unlike.shape, dtype=bool)
    sizes = marks.sum(1)
    places = np.argsort(~marks, axis=1, kind="stable")  # those of the marks first
    for nth in range(int(sizes.max())):
        some = np.flatnonzero(sizes > nth)
        own = places[some, nth]
        there = own[:, None] + shifts
        outside, inside = (there < 0) | (there >= length), np.clip(there, 0, length - 1)
        unlike[:, some] += kind[:, inside] != kind[some, own][:, None]
        far[:, some] += np.minimum(np.abs(rank[:, inside] - rank[some, own][:, None]), RANKS)
        clash[:, some] |= blocked[:, inside] | outside
    unlike, far = (each / sizes[:, None] for each in (unlike, far))
    cost = (unlike > 1 - LIKE) * UNLIKE + unlike * BY_KIND + far * BY_RANK + distance * BY_TOKEN
    keys = keys_of(latent, positives, seed)
    # As near to the left as to the right: which is taken the draw says.
    cost += np.where(keys < 0.5, 1, -1)[:, :, None] * shifts * BY_SIDE
    cost = np.where(clash, IMPOSSIBLE, cost)
    best = cost.argmin(2)
    least = cost.min(2)
    pairs = assigned(least + keys * BY_CHANCE)
    return {
        text: Placed(pattern, moved(patterns[pattern], int(shifts[best[text, pattern]])))
        for text, pattern in pairs
        if least[text, pattern] < UNLIKE
    }


def moves(length: int) -> tuple[np.ndarray, np.ndarray]:
    """By how many tokens a pattern may be moved, int64, and how far that is if a window's end were followed by its beginning.

    So near to an end patterns may go to the other: if all stayed on their side, there would be fewer marks at both ends.
    """
    shifts = np.arange(1 - length, length)
    distance = np.minimum(np.abs(shifts), length - np.abs(shifts))
    near = distance <= FURTHEST
    return shifts[near], distance[near]


def taken(positives: list[TestExample]) -> np.ndarray:
    """Where no wrong mark may stand, bool [texts, tokens]: on what is not shown, or where the latent fires."""
    fires = np.array([each.activations for each in positives]) > 0
    return np.asarray(fires | (np.array([each.tokens for each in positives]) == HIDDEN))


def keys_of(latent: int, positives: list[TestExample], seed: int) -> np.ndarray:
    """A number in [0, 1) for each pair of text and pattern, float64 [texts, patterns]."""
    number = np.array([each.example for each in positives])
    drawn: np.ndarray = keyed(seed, PAIR_MARKS, latent, number[:, None], number[None, :])
    return drawn.astype(np.float64) / 2**64


def assigned(cost: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of rows and columns of least total cost, one to one."""
    from scipy.optimize import linear_sum_assignment  # loading it takes longer than what else a plan imports

    rows, columns = linear_sum_assignment(cost)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def moved(marks: Sequence[bool], by: int) -> list[bool]:
    """Marks that stay inside the window when all are moved by so many tokens."""
    return [0 <= place - by < len(marks) and bool(marks[place - by]) for place in range(len(marks))]
