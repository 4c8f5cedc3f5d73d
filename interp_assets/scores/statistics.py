"""From trials to scores, each with its interval.

balanced_accuracy: mean of the share of right answers on positives and on negatives. Interval: the two shares' Wilson
intervals combined by the square-and-add rule (Newcombe 1998).
auroc: probability that a positive's value lies above a negative's, ties counting half. Interval: the standard error
of Hanley and McNeil (1982), cut at 0 and 1.
f1: of the positives, no interval.
share: of answered trials, with Wilson's interval.

Latents of which a budget left trials out have no score yet. Failed trials are counted and take part in nothing else; trials left out on purpose are not counted as failed.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from interp_assets.tables import SCORES, conform
from resources.language_models.protocol import NOT_ASKED

Z = 1.959963984540054
KEYS = ["latent", "explainer", "control"]


def scores(trials: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.SCORES`, long form, from a table of trials."""

    def statistics(kept: pl.DataFrame) -> list[pl.DataFrame]:
        values = pl.col("probability")
        ranked = kept.filter(values.is_not_null()).with_columns(rank=values.rank("average").over(KEYS))
        decided = kept.filter(pl.col("predicted").is_not_null())
        found = [auroc(ranked)] if len(ranked) else []
        return found + ([balanced_accuracy(decided), f1(decided)] if len(decided) else [])

    return score_table(trials, statistics, "no answered trial of one of the two kinds")


def score_table(
    trials: pl.DataFrame, statistics: Callable[[pl.DataFrame], list[pl.DataFrame]], why_none: str
) -> pl.DataFrame:
    """The table `tables.SCORES`: each latent's statistics beside how many trials there are, were answered and failed.

    Args:
        statistics: makes of answered trials frames of KEYS, statistic, value and, where there is an interval, low, high.
        why_none: what is said where a statistic has no value.
    """
    answered = pl.col("status") == "ok"
    counts = trials.group_by(KEYS).agg(
        n_trials=(pl.col("status") != "left_out").sum(),
        n_failed=(pl.col("status") == "failed").sum(),
        waiting=(pl.col("status") == "not_asked").any(),
    )
    waiting = pl.col("waiting")
    # A score of the trials that happened to be asked first would stand beside others of all trials.
    kept = trials.filter(answered & ~(pl.col("status") == "not_asked").any().over(KEYS))
    parts = statistics(kept)
    if not parts:
        parts = [counts.select(KEYS).with_columns(statistic=pl.lit("none"), value=pl.lit(None, dtype=pl.Float64))]
    table = pl.concat(parts, how="diagonal").join(counts, on=KEYS, how="full", coalesce=True)
    usable = pl.col("value").is_not_null() & pl.col("value").is_not_nan()
    table = table.with_columns(
        value=pl.when(usable).then(pl.col("value")),
        low=pl.when(usable).then(pl.col("low")) if "low" in table.columns else None,
        high=pl.when(usable).then(pl.col("high")) if "high" in table.columns else None,
        status=pl.when(usable)
        .then(pl.lit("ok"))
        .otherwise(pl.when(waiting).then(pl.lit("not_asked")).otherwise(pl.lit("failed"))),
        reason=pl.when(waiting).then(pl.lit(NOT_ASKED)).when(~usable).then(pl.lit(why_none)),
    )
    return conform(table.drop("waiting"), SCORES).sort(*KEYS, "statistic")


def share(kept: pl.DataFrame, statistic: str) -> pl.DataFrame:
    """The share of answered trials that are `predicted`, with Wilson's interval."""
    table = kept.group_by(KEYS).agg(
        statistic=pl.lit(statistic).first(), value=pl.col("predicted").mean(), count=pl.len().cast(pl.Float64)
    )
    low, high = wilson("value", "count")
    return table.with_columns(low.alias("low"), high.alias("high")).drop("count")


def auroc(ranked: pl.DataFrame) -> pl.DataFrame:
    positive = pl.col("expected")
    table = ranked.group_by(KEYS).agg(
        n1=positive.sum().cast(pl.Float64),
        n0=(~positive).sum().cast(pl.Float64),
        ranks=pl.col("rank").filter(positive).sum(),
    )
    n1, n0, a = pl.col("n1"), pl.col("n0"), pl.col("value")
    table = table.with_columns(value=(pl.col("ranks") - n1 * (n1 + 1) / 2) / (n1 * n0))
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = ((a * (1 - a) + (n1 - 1) * (q1 - a * a) + (n0 - 1) * (q2 - a * a)) / (n1 * n0)).clip(0).sqrt()
    return table.select(
        *KEYS,
        pl.lit("auroc").alias("statistic"),
        "value",
        low=(a - Z * error).clip(0, 1),
        high=(a + Z * error).clip(0, 1),
    )


def balanced_accuracy(decided: pl.DataFrame) -> pl.DataFrame:
    positive, right = pl.col("expected"), pl.col("expected") == pl.col("predicted")
    table = decided.group_by(KEYS).agg(
        n1=positive.sum(), n0=(~positive).sum(), hits=(right & positive).sum(), passes=(right & ~positive).sum()
    )
    table = table.with_columns(p1=pl.col("hits") / pl.col("n1"), p0=pl.col("passes") / pl.col("n0"))
    table = table.with_columns(*wilson("p1", "n1"), *wilson("p0", "n0"), value=(pl.col("p1") + pl.col("p0")) / 2)
    below = ((pl.col("p1") - pl.col("p1_low")) ** 2 + (pl.col("p0") - pl.col("p0_low")) ** 2).sqrt() / 2
    above = ((pl.col("p1_high") - pl.col("p1")) ** 2 + (pl.col("p0_high") - pl.col("p0")) ** 2).sqrt() / 2
    return table.select(
        *KEYS,
        pl.lit("balanced_accuracy").alias("statistic"),
        "value",
        low=pl.col("value") - below,
        high=pl.col("value") + above,
    )


def wilson(share: str, count: str) -> list[pl.Expr]:
    p, n = pl.col(share), pl.col(count)
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = (Z / (1 + Z**2 / n)) * (p * (1 - p) / n + Z**2 / (4 * n**2)).sqrt()
    return [(middle - half).alias(f"{share}_low"), (middle + half).alias(f"{share}_high")]


def f1(decided: pl.DataFrame) -> pl.DataFrame:
    positive, predicted = pl.col("expected"), pl.col("predicted")
    hits, wrong = (positive & predicted).sum(), (positive != predicted).sum()
    return decided.group_by(KEYS).agg(statistic=pl.lit("f1").first(), value=2 * hits / (2 * hits + wrong))
