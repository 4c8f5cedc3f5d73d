"""The strength of a change that moves the model's next token just so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

LOWEST, HIGHEST = -3.0, 4.0
"Limits of log10 of the strength."
MOST_STEPS = 10
TOLERANCE = 0.1
"Share of the target by which the KL found may miss it."
WIDEST_STEP = 2.0
"Powers of ten, where the target lies beyond all that was tried."
SMALLEST_KL = 1e-12
"What rounding makes 0 or less counts as this much."


@dataclass
class StrengthSearch:
    """Finds a strength for each target, the smallest target first; what is learnt for one serves the next.

    For small changes the KL grows with the square of the strength, so between two strengths tried its logarithm is
    taken as linear in theirs; every third step halves the bracket instead, which ends the search also elsewhere.
    """

    targets: Sequence[float]
    "nats"
    begin_at: float
    "The strength tried first."
    tried: dict[float, float] = field(default_factory=dict)
    "log10 of strength -> KL"
    found: dict[float, float] = field(default_factory=dict)
    "target -> strength"
    failed: dict[float, str] = field(default_factory=dict)
    "target -> why it has none"
    steps: int = 0
    "Taken for the target that is searched for now."

    def __post_init__(self) -> None:
        self._left = sorted(self.targets)
        self._asked = min(HIGHEST, max(LOWEST, math.log10(max(self.begin_at, 10**LOWEST))))

    @property
    def strength(self) -> float | None:
        """The strength whose KL is to be told next; None once every target is found or given up."""
        return 10**self._asked if self._left else None

    def tell(self, kl: float) -> list[float]:
        """Take the KL of `strength` and go on to the next; the targets that this strength reaches."""
        self.tried[self._asked] = max(kl, SMALLEST_KL)
        self.steps += 1
        reached = []
        while self._left:
            target = self._left[0]
            if abs(kl - target) <= TOLERANCE * target:
                self.found[target] = 10**self._asked
                reached.append(target)
            elif (reason := self._hopeless(target, kl)) is not None:
                self.failed[target] = reason
            else:
                self._asked = self._next(target)
                break
            self._left.pop(0)
            self.steps = 0
        return reached

    def _hopeless(self, target: float, kl: float) -> str | None:
        below, above = self._bracket(target)
        if above is None and below == HIGHEST:
            return f"a KL of {target:g} is not reached: it is {self.tried[HIGHEST]:.3g} at strength 1e{HIGHEST:g}"
        if below is None and above == LOWEST:
            return f"the KL is {self.tried[LOWEST]:.3g} already at strength 1e{LOWEST:g}, more than {target:g}"
        if self.steps >= MOST_STEPS:
            return f"after {MOST_STEPS} steps of the search the KL is {kl:.3g}, not within 10 % of {target:g}"
        return None

    def _bracket(self, target: float) -> tuple[float | None, float | None]:
        """The smallest strength tried that does too much, and the next below it that does too little."""
        above = min((x for x, kl in self.tried.items() if kl >= target), default=None)
        below = max((x for x, kl in self.tried.items() if kl < target and (above is None or x < above)), default=None)
        return below, above

    def _next(self, target: float) -> float:
        below, above = self._bracket(target)
        wanted = math.log(target)
        if below is not None and above is not None:
            low, high = math.log(self.tried[below]), math.log(self.tried[above])
            share = (wanted - low) / (high - low)
            share = 0.5 if self.steps % 3 == 2 else min(0.95, max(0.05, share))
            return below + share * (above - below)
        known = above if below is None else below
        assert known is not None
        step = (wanted - math.log(self.tried[known])) / math.log(100)
        # Where the target stays out of sight, the estimate is doubled each time, so that a limit is reached.
        step = math.copysign(min(WIDEST_STEP, max(0.05, abs(step)) * 2 ** (self.steps - 1)), step)
        return min(HIGHEST, max(LOWEST, known + step))
