"""Fuzzing: are the marked tokens those on which the latent is active?

A wrong trial carries the marks of a right one. Each latent's right patterns of marks are dealt out among its other
activating texts, one to each, so that they fall only on tokens on which the latent is silent. Right and wrong trials
thus show the same patterns, equally often: where the marks stand, or how many there are, tells nothing. With
`marks: matched` what kinds of tokens are marked tells nothing either; `marks` says how.
"""

from __future__ import annotations

from functools import cached_property

from interp_assets.examples.rendering import marks_of
from interp_assets.examples.token_kinds import TokenKinds
from interp_assets.scores.judged import Judged
from interp_assets.scores.marks import Placed, dealt_marks, matched_marks
from interp_assets.scores.trials import TestExample, Trial

NO_ROOM = "no other activating test example is silent at all of these marks"
UNPAIRED = "its marks cannot stand in another text, so they would give this right trial away"
NOTHING_LIKE = "no marks of another activating test example can stand here on silent tokens of the same kinds"
UNMATCHED = (
    "its marks cannot stand in another text on silent tokens of the same kinds, which would give this right trial away"
)


class Fuzzing(Judged):
    name = "fuzzing"
    description = "Whether an LLM that reads the explanation can tell rightly marked tokens from wrongly marked ones."

    @cached_property
    def kinds(self) -> TokenKinds | None:
        """By which wrong marks are matched with right ones; None where they are not."""
        return TokenKinds(self.rendering.word) if self.settings.marks == "matched" else None

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        settings = self.settings
        return trials(latent, examples, settings.non_activating, settings.mark_threshold, self.seed, self.kinds)


def trials(
    latent: int, examples: list[TestExample], wrong: int, threshold: float, seed: int, kinds: TokenKinds | None = None
) -> list[Trial]:
    """Right and wrong trials of one latent from its activating test examples.

    Args:
        wrong: how many wrong trials at most.
        threshold: tokens above this share of an example's strongest activation are marked.
        kinds: by which wrong marks are matched with right ones; only patterns are where None.
    """
    positives = [each for each in examples if each.activating]
    patterns = [marks_of(each.activations, threshold) for each in positives]
    if kinds is None:
        dealt = dealt_marks(latent, positives, patterns, seed)
        placed = {text: Placed(donor, patterns[donor]) for text, donor in dealt.items()}
    else:
        placed = matched_marks(latent, positives, patterns, kinds, seed)
    no_place, no_pair = (NO_ROOM, UNPAIRED) if kinds is None else (NOTHING_LIKE, UNMATCHED)
    donors = {each.donor for each in placed.values()}
    found = []
    for i, (each, marks) in enumerate(zip(positives, patterns, strict=True)):
        found.append(Trial(each.example, True, each.tokens, marks, None if i in donors else no_pair))
    for i, each in enumerate(positives[:wrong]):
        if i in placed:
            found.append(Trial(each.example, False, each.tokens, placed[i].marks))
        else:
            found.append(Trial(each.example, False, each.tokens, None, no_place))
    return found
