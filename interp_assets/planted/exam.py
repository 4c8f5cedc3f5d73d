"""How good a judge is where the answers are known: AUROC, calibration and bias to Yes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from interp_assets.planted.concepts import concepts, examples_of
from interp_assets.scores.trials import Subject, TestExample, Trial

BINS = 5
"Of probabilities, of equal width."


class Bin(NamedTuple):
    trials: int
    said: float
    "Mean probability of Yes."
    were: float
    "Share of the trials on which Yes was right."


class Mean(NamedTuple):
    """Of one number for each concept, with its 95 % interval by Student's t; within 0 and 1 where that holds of the numbers."""

    value: float
    low: float
    high: float


class Exam(NamedTuple):
    trials: int
    failed: int
    per_concept: np.ndarray
    "AUROC of each concept, float64 [concepts]; NaN where a kind has no answer."
    auroc: Mean
    balanced_accuracy: float
    share_yes: float
    brier: float
    "Mean squared difference of the probability of Yes from 1 where Yes is right and 0 where it is not; NaN of lists."
    calibration_error: float
    "Expected calibration error over `BINS` bins: mean |said - were|, weighted by trials; NaN of lists."
    bins: tuple[Bin, ...]
    "Those that hold trials."


def subjects(trials_of: Callable[[int, list[TestExample]], list[Trial]], texts: int) -> list[Subject]:
    """The planted concepts as what a judge is asked about, under their own explanations.

    Args:
        trials_of: a method's `trials`.
        texts: of each concept that carry it, and as many that do not.
    """
    return [
        Subject(number, "planted", "none", concept.explanation, trials_of(number, examples_of(number, texts)))
        for number, concept in enumerate(concepts())
    ]


def graded(asked: Sequence[Subject]) -> Exam:
    """What the answers that are recorded on subjects are worth."""
    rows: list[dict[str, Any]] = [row for subject in asked for row in subject.rows if row["status"] != "left_out"]
    answered = [row for row in rows if row["status"] == "ok"]
    right = np.array([row["expected"] for row in answered], dtype=bool)
    predicted = np.array([row["predicted"] for row in answered], dtype=bool)
    with_probability = all(row.get("probability") is not None for row in answered)
    said = np.array([row["probability"] for row in answered] if with_probability else predicted, dtype=np.float64)
    concept = np.array([row["latent"] for row in answered], dtype=np.int64)
    kinds = [(said[(concept == number) & right], said[(concept == number) & ~right]) for number in range(len(asked))]
    per_concept = np.array([auroc(positives, negatives) for positives, negatives in kinds])
    bins = reliability(said, right) if with_probability else ()
    return Exam(
        trials=len(rows),
        failed=len(rows) - len(answered),
        per_concept=per_concept,
        auroc=mean_of(per_concept, (0, 1)),
        balanced_accuracy=(share(predicted[right]) + share(~predicted[~right])) / 2,
        share_yes=share(predicted),
        brier=share((said - right) ** 2) if with_probability else math.nan,
        calibration_error=sum(each.trials * abs(each.said - each.were) for each in bins) / max(1, len(answered))
        if with_probability
        else math.nan,
        bins=bins,
    )


def auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """The probability that a positive lies above a negative, ties counting half; NaN without one of the two."""
    return share(np.sign(positives[:, None] - negatives[None, :]) / 2 + 0.5)


def share(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def reliability(said: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    place = np.minimum((said * BINS).astype(int), BINS - 1)
    there = ((said[place == each], right[place == each]) for each in range(BINS))
    return tuple(Bin(len(p), share(p), share(y)) for p, y in there if len(p))


def mean_of(values: np.ndarray, limits: tuple[float, float] | None = None) -> Mean:
    """
    Args:
        values: NaN stands for none.
    """
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return Mean(share(known), math.nan, math.nan)
    mean, error = known.mean(), stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known))
    low, high = (mean - error, mean + error) if limits is None else np.clip([mean - error, mean + error], *limits)
    return Mean(float(mean), float(low), float(high))
