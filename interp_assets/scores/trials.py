"""What the scorers have in common: test examples, explanations and their shuffled control, trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from interp_assets.examples.draws import SHUFFLE, keyed
from interp_assets.examples.rendering import as_shown

if TYPE_CHECKING:
    from interp_assets.job import Inputs

Key = tuple[int, str, str]
KEYS = ["latent", "explainer", "control"]
"What names a subject."
SUBJECTS_PER_CALL = 64
"How many explanations' trials are handed to the engine at once; bounds memory, changes no answer."


@dataclass(frozen=True)
class TestExample:
    __test__ = False  # not a pytest class

    example: int
    tokens: list[int]
    "As they are shown: `rendering.as_shown`."
    activations: list[float]
    activating: bool


@dataclass(frozen=True)
class Trial:
    """One question: does this text (with these marks) fit the explanation?"""

    example: int
    expected: bool
    tokens: list[int]
    marked: list[bool] | None = None
    left_out: str | None = None
    "Why this trial is not asked."


class Tested(NamedTuple):
    """What is put to the test on a latent's examples."""

    explanation: str = ""
    "Empty where none is read."
    query: Sequence[Sequence[int]] = ()
    "Tokens of the windows that stand for the latent instead."
    also: tuple[Any, ...] = ()
    "What else decides its score: plain JSON values and bytes."


@dataclass
class Subject:
    """One explanation under test, on the trials of one latent."""

    latent: int
    explainer: str
    control: str
    explanation: str
    trials: list[Trial]
    rows: list[dict[str, Any]] = field(default_factory=list)
    query: Sequence[Sequence[int]] = ()
    "Tokens of the windows that stand for the latent where no explanation does."

    @property
    def group(self) -> str:
        return f"{self.latent}/{self.explainer}/{self.control}"

    def record(self, trial: Trial, **answer: Any) -> None:
        self.rows.append(
            {
                "latent": self.latent,
                "explainer": self.explainer,
                "control": self.control,
                "example": trial.example,
                "expected": trial.expected,
                "marked": trial.marked,
                **answer,
            }
        )


def test_examples(tests: pl.DataFrame, bos: bool) -> dict[int, list[TestExample]]:
    """Rows of the examples table, by latent, in their order.

    Args:
        bos: contexts begin with a BOS.
    """
    found: dict[int, list[TestExample]] = {}
    columns = ["latent", "example", "tokens", "start", "activations", "kind"]
    for latent, example, tokens, start, activations, kind in tests.select(columns).iter_rows():
        shown = as_shown(tokens, start, bos)
        found.setdefault(latent, []).append(TestExample(example, shown, activations, kind == "activating"))
    return found


test_examples.__test__ = False  # type: ignore[attr-defined]


def whole_texts(examples: list[TestExample]) -> list[Trial]:
    """A trial of each example, nothing marked."""
    return [Trial(each.example, each.activating, each.tokens) for each in examples]


def explanations_under_test(
    inputs: Inputs, explainers: Sequence[str], shuffled_control: bool, seed: int
) -> Iterator[tuple[int, str, str, str]]:
    """(latent, explainer, control, explanation) of every explanation, each with a shuffled one beside it."""
    table = inputs.input("explanations").read("explanations", ["latent", "explainer", "explanation", "status"])
    for explainer in sorted(explainers):
        mine = table.filter((pl.col("explainer") == explainer) & (pl.col("status") == "ok")).sort("latent")
        texts = dict(mine.select("latent", "explanation").iter_rows())
        partners = shuffled(list(texts), seed) if shuffled_control else {}
        for latent, text in texts.items():
            yield latent, explainer, "none", text
            if latent in partners:
                yield latent, explainer, "shuffled", texts[partners[latent]]


def shuffled(latents: list[int], seed: int) -> dict[int, int]:
    """For each latent another one, whose explanation is its control.

    Latents stand on a ring at keyed places; each takes the first behind a keyed point of its own. So a latent that
    comes or goes changes the partner of the few that had it or get it, not of all.
    """
    if len(latents) < 2:
        return {}
    numbers = np.array(latents, dtype=np.int64)
    places = keyed(seed, SHUFFLE, numbers, 0)
    ring = np.argsort(places, kind="stable")
    points = keyed(seed, SHUFFLE, numbers, 1)
    found = np.searchsorted(places[ring], points) % len(ring)
    own = ring[found] == np.arange(len(numbers))
    found[own] = (found[own] + 1) % len(ring)
    return {int(latent): int(numbers[ring[place]]) for latent, place in zip(numbers, found, strict=True)}


def in_parts(subjects: list[Subject]) -> Iterator[list[Subject]]:
    for start in range(0, len(subjects), SUBJECTS_PER_CALL):
        yield subjects[start : start + SUBJECTS_PER_CALL]
