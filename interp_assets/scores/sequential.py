"""Scoring that stops: a subject is asked in rounds, until the interval of its balanced accuracy is narrow enough.

Each round asks as many positives as negatives, in an order that only the latent and the seed decide. The k-th answered
positive and the k-th answered negative make one observation, the mean of right (1) and wrong (0) of the two, whose
expectation is the balanced accuracy; `confidence_sequence` makes of them an interval that holds whenever one looks.
Which trials are asked thus follows from the replies and the seed alone: a run that is begun again finds its replies
in the log, stops where it stopped, and goes on where it was cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import polars as pl

from interp_assets.examples.rendering import Rendering
from interp_assets.scores.confidence_sequence import interval
from interp_assets.scores.judging import ask_single, in_keyed_order, record_left_out
from interp_assets.scores.trials import KEYS, Subject, Trial
from interp_assets.scores.wording import Wording
from interp_assets.settings import JudgeScorer, Sequential
from interp_assets.tables import F64, SCORES, Schema
from resources.language_models.protocol import LanguageModel

SUBJECTS_AT_ONCE = 512
"""How many are in their rounds together: so many that a round keeps an engine's queue full, and so few that their
explanations stay in its prefix cache. Changes no answer."""

NO_SCORES = pl.DataFrame(schema=SCORES)
Rounds = list[list[Trial]]


def judge_in_rounds(
    subjects: list[Subject],
    wording: Wording,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> None:
    """Ask the subjects' trials, of each until enough is known; answers, and what was not asked, are recorded on them."""
    limits = settings.sequential
    assert limits is not None
    record_left_out(subjects)
    coming = ((subject, rounds(subject, limits.pairs_per_round, seed)) for subject in subjects)
    under_way: list[tuple[Subject, Rounds]] = []
    # Whoever is done makes room for the next, so that late rounds are as full as early ones.
    while under_way := under_way + list(islice(coming, SUBJECTS_AT_ONCE - len(under_way))):
        # Subjects of one round that record their answers on the whole ones.
        now = [replace(subject, trials=left.pop(0)) for subject, left in under_way if left]
        ask_single(now, wording, settings, model, rendering, seed, advance)
        under_way = [(subject, left) for subject, left in under_way if not done(subject, left, limits, advance)]


def rounds(subject: Subject, pairs: int, seed: int) -> Rounds:
    """The trials that may be asked, so many positives and negatives at a time, as long as there are any."""
    trials = in_keyed_order(subject, seed)
    kinds = [[trial for trial in trials if trial.expected == kind] for kind in (True, False)]
    longest = max(map(len, kinds))
    return [[trial for kind in kinds for trial in kind[i : i + pairs]] for i in range(0, longest, pairs)]


def done(subject: Subject, left: Rounds, limits: Sequential, advance: Callable[[int], None]) -> bool:
    """Whether nothing more is asked; what is left then is recorded as left out."""
    if not left:
        return True
    low, high = interval(observations(subject))
    # What a budget left out may still be asked: only replies decide what is not.
    if (high - low) / 2 > limits.half_width or any(row["status"] == "not_asked" for row in subject.rows):
        return False
    asked = sum(row["status"] != "left_out" for row in subject.rows)
    for trial in (trial for part in left for trial in part):
        subject.record(trial, status="left_out", reason=f"the interval was narrow enough after {asked} trials")
        advance(1)
    return True


def observations(subject: Subject) -> np.ndarray:
    """(right on a positive + right on a negative) / 2 of the answered trials in the order asked, float64 [pairs]."""
    answered = [row for row in subject.rows if row["status"] == "ok"]
    right = [[row["predicted"] == kind for row in answered if row["expected"] == kind] for kind in (True, False)]
    pairs = min(map(len, right))
    return np.array([side[:pairs] for side in right], dtype=np.float64).mean(0)


def anytime(scores: pl.DataFrame, subjects: list[Subject], kept: pl.DataFrame = NO_SCORES) -> pl.DataFrame:
    """Scores of trials that were asked in rounds, with what may be said of them.

    Args:
        subjects: those that were asked now.
        kept: the scores of all others, from when they were asked.

    Balanced accuracy gets the interval that holds although its own width decided when to stop. Intervals of other
    statistics, which are made for a number of trials that was fixed before, are taken away.
    """
    rows = [(each.latent, each.explainer, each.control, *interval(observations(each))) for each in subjects]
    schema: Schema = {name: SCORES[name] for name in KEYS} | {"anytime_low": F64, "anytime_high": F64}
    before = kept.filter(statistic="balanced_accuracy").select(*KEYS, anytime_low="low", anytime_high="high")
    found = pl.concat([pl.DataFrame(rows, schema=schema, orient="row"), before])
    holds = (pl.col("statistic") == "balanced_accuracy") & pl.col("value").is_not_null()
    joined = scores.join(found, on=KEYS, how="left", maintain_order="left")
    return joined.with_columns(
        condition=pl.lit("sequential"),
        low=pl.when(holds).then("anytime_low"),
        high=pl.when(holds).then("anytime_high"),
    ).drop("anytime_low", "anytime_high")
