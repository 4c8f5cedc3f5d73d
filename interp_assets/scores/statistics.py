"""From trials to scores, each with its interval.

auroc, auprc: see `ranking`. A list's answers are ranked as 0 and 1, which makes auroc its balanced accuracy.
balanced_accuracy: mean of the shares of right answers on positives and on negatives.
share_yes: of answers, how many would be Yes if both kinds were as frequent: the mean of the shares of Yes on positives and
    on negatives. Far from one half the judge is biased, and balanced accuracy falls behind what auroc shows it can tell.
f1: harmonic mean of precision and recall on the trials as they are.
precision_at_rate: precision if positives were as frequent among windows as the latent's firing makes them:
    r p1 / (r p1 + (1 - r) (1 - p0)), r the latent's `rate`, p1 and p0 the shares of right answers. 0 where no answer is
    Yes. It sees explanations that are too broad, which balanced accuracy and AUROC hardly do.
..._weighted: the same with each decile of peak activation weighted by its share of the latent's windows, so what
    windows drawn at random from all would have given. Deciles without an answered trial leave theirs to the others.
    precision_at_rate is weighted in this way where deciles are known.

Intervals are 95 % and take trials from one context as belonging together (`intervals`): square-and-add for figures
made of two shares, Newcombe's fifth method for auroc, Wilson's for auprc.

Latents of which a budget left trials out have no score yet. Failed trials are counted and take part in nothing else;
trials left out on purpose are not counted as failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import polars as pl

from interp_assets.scores.intervals import Bounds, Clusters, Figure, Share, over, per, square_and_add, wilson
from interp_assets.scores.population import NOWHERE, Population, weights
from interp_assets.scores.ranking import Ranking
from interp_assets.scores.trials import KEYS
from interp_assets.tables import SCORES, conform
from resources.language_models.protocol import NOT_ASKED

SUBJECTS_PER_BLOCK, THREADS = 512, 2
Result = tuple[str, np.ndarray, Bounds]
"A statistic's name, value float64 [subjects] and interval."


def scores(trials: pl.DataFrame, population: Population = NOWHERE) -> pl.DataFrame:
    """The table `tables.SCORES`, long form, from a table of trials.

    Args:
        population: where the trials' examples come from. Without it every trial counts as from a context of its own,
            and there is nothing weighted and nothing at the true rate.
    """

    def statistics(kept: pl.DataFrame) -> list[pl.DataFrame]:
        # In one order, so that sums come out the same to the last bit.
        kept = population.place(kept).sort(*KEYS, "expected", "example")
        with ThreadPoolExecutor(THREADS) as pool:
            return [table for tables in pool.map(of_block, blocks(kept)) for table in tables]

    def of_block(kept: pl.DataFrame) -> list[pl.DataFrame]:
        parts = []
        answer = pl.coalesce("probability", pl.col("predicted").cast(pl.Float64))
        if len(ranked := kept.with_columns(probability=answer).filter(pl.col("probability").is_not_null())):
            parts += of_ranking(ranked, population.known)
        if len(decided := kept.filter(pl.col("predicted").is_not_null())):
            parts += of_decisions(decided, population.known)
        return parts

    return score_table(trials, statistics, "no answered trial of one of the two kinds")


def blocks(trials: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Trials that are sorted by KEYS, so many subjects at a time that their arrays stay in a processor's cache."""
    starts = trials.select(first_of_subject()).to_series().arg_true().to_list()[::SUBJECTS_PER_BLOCK]
    for start, end in pairwise([*starts, len(trials)]):
        yield trials[start:end]


def first_of_subject() -> pl.Expr:
    """Whether a row is the first of its subject, where rows are sorted by KEYS."""
    return pl.any_horizontal(pl.col(key) != pl.col(key).shift(1) for key in KEYS).fill_null(True)


def score_table(
    trials: pl.DataFrame, statistics: Callable[[pl.DataFrame], list[pl.DataFrame]], why_none: str
) -> pl.DataFrame:
    """The table `tables.SCORES`: each subject's statistics beside how many trials there are and how many failed.

    Args:
        statistics: makes of answered trials frames of KEYS, statistic, value, low and high.
        why_none: what is said where a statistic has no value.
    """
    counts = trials.group_by(KEYS).agg(
        n_trials=(pl.col("status") != "left_out").sum(),
        n_failed=(pl.col("status") == "failed").sum(),
        waiting=(pl.col("status") == "not_asked").any(),
    )
    waiting = pl.col("waiting")
    # A score of the trials that happened to be asked first would stand beside others of all trials.
    parts = statistics(trials.filter((pl.col("status") == "ok") & ~(pl.col("status") == "not_asked").any().over(KEYS)))
    if not parts:
        parts = [counts.select(KEYS).with_columns(statistic=pl.lit("none"), value=None, low=None, high=None)]
    table = pl.concat(parts, how="vertical_relaxed").join(counts, on=KEYS, how="full", coalesce=True)
    usable = pl.col("value").is_not_null() & pl.col("value").is_not_nan()
    table = table.with_columns(
        value=pl.when(usable).then(pl.col("value")),
        low=pl.when(usable).then(pl.col("low")).fill_nan(None),
        high=pl.when(usable).then(pl.col("high")).fill_nan(None),
        status=pl.when(usable)
        .then(pl.lit("ok"))
        .otherwise(pl.when(waiting).then(pl.lit("not_asked")).otherwise(pl.lit("failed"))),
        reason=pl.when(waiting).then(pl.lit(NOT_ASKED)).otherwise(pl.when(~usable).then(pl.lit(why_none))),
    )
    return conform(table.drop("waiting"), SCORES).sort(*KEYS, "statistic")


def share(kept: pl.DataFrame, statistic: str) -> pl.DataFrame:
    """The share of answered trials that are `predicted`, with Wilson's interval."""
    table = kept.group_by(KEYS, maintain_order=True).agg(value=pl.col("predicted").mean(), n=pl.len())
    low, high = wilson(table["value"].to_numpy(), table["n"].to_numpy())
    return table.select(*KEYS, statistic=pl.lit(statistic), value="value", low=pl.Series(low), high=pl.Series(high))


class Answered:
    """Answered trials as arrays, those of one subject together."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """
        Args:
            frame: sorted by KEYS, with the columns that `Population.place` adds.
        """
        new = frame.select(first_of_subject()).to_series().to_numpy()
        self.subjects = frame.filter(new).select(KEYS)
        self.group = np.cumsum(new) - 1
        self.positive = frame["expected"].to_numpy()
        self.alike = np.ones(len(frame))
        self.by_decile = weights(frame, self.group)
        self.rate = frame.filter(new)["rate"].to_numpy()
        unknown = -1 - np.arange(len(frame))
        context = frame["context"].to_numpy().astype(float)
        self.within = Clusters.of(
            self.group, np.where(np.isnan(context), unknown, context).astype(np.int64), len(self.subjects)
        )

    def tables(self, results: list[Result]) -> list[pl.DataFrame]:
        return [
            self.subjects.with_columns(statistic=pl.lit(name), value=value, low=low, high=high)
            for name, value, (low, high) in results
        ]


def of_ranking(frame: pl.DataFrame, weighted: bool) -> list[pl.DataFrame]:
    trials, values = Answered(frame), frame["probability"].to_numpy()
    results: list[Result] = []
    for suffix, weight in (("", trials.alike), ("_weighted", trials.by_decile))[: 1 + weighted]:
        ranking = Ranking.of(trials.positive, values, weight, trials.group, trials.within)
        results += [(f"auroc{suffix}", *ranking.auroc()), (f"auprc{suffix}", *ranking.auprc())]
    return trials.tables(results)


def of_decisions(frame: pl.DataFrame, weighted: bool) -> list[pl.DataFrame]:
    trials = Answered(frame)
    positive, group, within = trials.positive, trials.group, trials.within
    right = frame["predicted"].to_numpy() == positive
    n1, n0 = (per(group, kind.astype(float), within.n) for kind in (positive, ~positive))
    results: list[Result] = []
    for suffix, weight in (("", trials.alike), ("_weighted", trials.by_decile))[: 1 + weighted]:
        hits, passes = (Share.of(right, kind, weight, group, within) for kind in (positive, ~positive))
        figures = {f"balanced_accuracy{suffix}": balanced_accuracy, f"f1{suffix}": f1_of(n1, n0)}
        if not suffix:
            figures["share_yes"] = share_yes
        elif not np.isnan(trials.rate).any():
            figures["precision_at_rate"] = precision_at(trials.rate)
        for name, figure in figures.items():
            results.append((name, figure(hits.value, passes.value), square_and_add(figure, hits, passes, within)))
    return trials.tables(results)


def balanced_accuracy(p1: np.ndarray, p0: np.ndarray) -> np.ndarray:
    return (p1 + p0) / 2


def share_yes(p1: np.ndarray, p0: np.ndarray) -> np.ndarray:
    return (p1 + 1 - p0) / 2


def f1_of(n1: np.ndarray, n0: np.ndarray) -> Figure:
    """F1 of so many positives and negatives."""

    def figure(p1: np.ndarray, p0: np.ndarray) -> np.ndarray:
        hits, wrong = np.nan_to_num(n1 * p1), np.nan_to_num(n0 * (1 - p0))
        return over(2 * hits, hits + wrong + n1)

    return figure


def precision_at(rate: np.ndarray) -> Figure:
    """Precision where this share of windows are positives."""

    def figure(p1: np.ndarray, p0: np.ndarray) -> np.ndarray:
        hits, wrong = rate * p1, (1 - rate) * (1 - p0)
        return np.where(np.isnan(hits + wrong), np.nan, over(hits, hits + wrong, 0.0))

    return figure
