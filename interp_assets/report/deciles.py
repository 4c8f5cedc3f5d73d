"""Scores by decile of peak activation, and by kind of negative.

Does an explanation hold for weak activations too, and against windows that are hard to tell?
"""

from __future__ import annotations

import polars as pl

from interp_assets.means import Moments, interval, moments_of
from interp_assets.report.headline import HEADLINE
from interp_assets.scores.population import NEGATIVES_ACTIVATE
from interp_assets.tables import BY_DECILE, BY_NEGATIVES, conform

SUBJECT = ["method", "layer", "explainer", "control", "latent"]
PLACE = ["layer", "latent", "example", "expected"]


def by_decile(trials: pl.DataFrame, examples: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.BY_DECILE`: the headline statistic if the positives of one decile were all the positives.

    Negatives are the same for all deciles. The value is the mean over latents with its interval (`interp_assets.means`).
    Methods with another headline than AUROC have no rows.

    Args:
        trials: `tables.TRIALS` with columns layer and method.
        examples: `tables.EXAMPLES` with column layer.
    """
    tests = examples.filter((pl.col("purpose") == "test") & (pl.col("kind") == "activating"))
    deciles = tests.select("layer", "latent", "example", "decile", expected=pl.lit(True))
    return conform(by_part(trials, deciles, "decile"), BY_DECILE)


def by_negatives(trials: pl.DataFrame, examples: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.BY_NEGATIVES`: the headline statistic if the negatives of one kind were all the negatives.

    As `by_decile`, with positives the same for all kinds. Methods whose negatives are activating windows have no rows.
    """
    tests = examples.filter((pl.col("purpose") == "test") & (pl.col("kind") != "activating"))
    kinds = tests.select("layer", "latent", "example", "kind", expected=pl.lit(False))
    windows = trials.filter(~pl.col("method").is_in(NEGATIVES_ACTIVATE))
    return conform(by_part(windows, kinds, "kind"), BY_NEGATIVES)


def by_part(trials: pl.DataFrame, parts: pl.DataFrame, part: str) -> pl.DataFrame:
    """The headline statistic if the trials of one part were all of their side, positives or negatives.

    Args:
        parts: PLACE and the column `part`; of one side only.
    """
    headline = pl.col("method").replace_strict(HEADLINE, default="auroc", return_dtype=pl.String)
    # A list's answers are ranked as 0 and 1.
    answer = pl.coalesce("probability", pl.col("predicted").cast(pl.Float64))
    answered = trials.filter(pl.col("status") == "ok").with_columns(statistic=headline, probability=answer)
    placed = answered.join(parts, on=PLACE, how="left", maintain_order="left")
    positive, value = pl.col("expected"), pl.col("probability")
    group = ["method", "explainer", "control", part, "statistic"]
    # The share of the other side's trials below it, ties counting half. Ranks count its own side too, which is taken off.
    ranked = placed.filter((pl.col("statistic") == "auroc") & value.is_not_null())
    below = value.rank("average").over(SUBJECT) - value.rank("average").over(*SUBJECT, "expected")
    below = below / (pl.len().over(SUBJECT) - pl.len().over(*SUBJECT, "expected"))
    ranked = ranked.with_columns(right=pl.when(positive).then(below).otherwise(1 - below))
    rows = ranked.filter(pl.col(part).is_not_null() & pl.col("right").is_finite())
    of_latents = rows.group_by(*group, "layer", "latent", maintain_order=True).agg(
        pl.col("right").mean(), n_trials=pl.len()
    )
    # Sums of floats depend on the order of what is summed.
    table = of_latents.group_by(group, maintain_order=True).agg(
        n_trials=pl.col("n_trials").sum(), **moments_of(pl.col("right"))
    )
    low, high = map(pl.Series, interval(Moments.read(table), (0, 1)))
    return table.select(
        *group, "n_trials", n_latents="n", value="mean", low=low.fill_nan(None), high=high.fill_nan(None)
    ).sort(group)
