"""Fuzzing: are the marked tokens those on which the latent is active?

A wrong trial carries the marks of a right one. Each latent's right patterns of marks are dealt out among its other
activating texts, one to each, so that they fall only on tokens on which the latent is silent. Right and wrong trials
thus show the very same patterns, equally often: where the marks stand, or how many there are, tells nothing.
"""

from __future__ import annotations

import numpy as np

from interp_assets.examples.draws import PAIR_MARKS, keyed
from interp_assets.examples.rendering import HIDDEN, marks_of
from interp_assets.scores.judged import Judged
from interp_assets.scores.trials import TestExample, Trial

NO_ROOM = "no other activating test example is silent at all of these marks"
UNPAIRED = "its marks cannot stand in another text, so they would give this right trial away"


class Fuzzing(Judged):
    name = "fuzzing"
    description = "Whether an LLM that reads the explanation can tell rightly marked tokens from wrongly marked ones."

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        settings = self.settings
        return trials(latent, examples, settings.non_activating, settings.mark_threshold, self.seed)


def trials(latent: int, examples: list[TestExample], wrong: int, threshold: float, seed: int) -> list[Trial]:
    """Right and wrong trials of one latent from its activating test examples.

    Args:
        wrong: how many wrong trials at most.
    """
    positives = [each for each in examples if each.activating]
    patterns = [marks_of(each.activations, threshold) for each in positives]
    donor = dealt_marks(latent, positives, patterns, seed)
    donors = set(donor.values())
    found = []
    for i, (each, marks) in enumerate(zip(positives, patterns, strict=True)):
        found.append(Trial(each.example, True, each.tokens, marks, None if i in donors else UNPAIRED))
    for i, each in enumerate(positives[:wrong]):
        if i in donor:
            found.append(Trial(each.example, False, each.tokens, patterns[donor[i]]))
        else:
            found.append(Trial(each.example, False, each.tokens, None, NO_ROOM))
    return found


def dealt_marks(latent: int, positives: list[TestExample], patterns: list[list[bool]], seed: int) -> dict[int, int]:
    """Which example's marks each example gets: as many pairs as there can be, each pattern used at most once.

    No mark stands on what is not shown, or on a token on which the latent fires.
    """
    if not positives:
        return {}
    from scipy.optimize import linear_sum_assignment  # loading it takes longer than what else a plan imports

    taken = np.array([each.activations for each in positives]) > 0
    taken |= np.array([each.tokens for each in positives]) == HIDDEN
    marks = np.array(patterns)
    clash = (taken[:, None, :] & marks[None, :, :]).any(2)  # [text, pattern]
    number = np.array([each.example for each in positives])
    draw = keyed(seed, PAIR_MARKS, latent, number[:, None], number[None, :]).astype(np.float64) / 2**64
    texts, chosen = linear_sum_assignment(draw + clash * 1e6)
    return {int(text): int(pattern) for text, pattern in zip(texts, chosen, strict=True) if not clash[text, pattern]}
