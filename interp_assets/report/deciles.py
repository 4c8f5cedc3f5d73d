"""Scores by decile of peak activation: does an explanation hold for weak activations too?"""

from __future__ import annotations

import polars as pl

from interp_assets.means import Moments, interval, moments_of
from interp_assets.report.headline import HEADLINE
from interp_assets.tables import BY_DECILE, conform

SUBJECT = ["method", "layer", "explainer", "control", "latent"]
GROUP = ["method", "explainer", "control", "decile", "statistic"]


def by_decile(trials: pl.DataFrame, examples: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.BY_DECILE`: the headline statistic if the positives of one decile were all the positives.

    Negatives are the same for all deciles. The value is the mean over latents with its interval (`interp_assets.means`).
    Methods with another headline than AUROC have no rows.

    Args:
        trials: `tables.TRIALS` with columns layer and method.
        examples: `tables.EXAMPLES` with column layer.
    """
    deciles = examples.filter((pl.col("purpose") == "test") & (pl.col("kind") == "activating"))
    deciles = deciles.select("layer", "latent", "example", "decile", expected=pl.lit(True))
    headline = pl.col("method").replace_strict(HEADLINE, default="auroc", return_dtype=pl.String)
    # A list's answers are ranked as 0 and 1.
    answer = pl.coalesce("probability", pl.col("predicted").cast(pl.Float64))
    answered = trials.filter(pl.col("status") == "ok").with_columns(statistic=headline, probability=answer)
    placed = answered.join(deciles, on=["layer", "latent", "example", "expected"], how="left", maintain_order="left")
    positive, value = pl.col("expected"), pl.col("probability")
    # Of a positive: the share of negatives below it, ties counting half. Ranks count positives too, which are taken off.
    ranked = placed.filter((pl.col("statistic") == "auroc") & value.is_not_null())
    above = value.rank("average").over(SUBJECT) - value.rank("average").over(*SUBJECT, "expected")
    ranked = ranked.with_columns(right=above / (~positive).sum().over(SUBJECT))
    rows = ranked.filter(positive & pl.col("decile").is_not_null() & pl.col("right").is_finite())
    of_latents = rows.group_by(*GROUP, "layer", "latent", maintain_order=True).agg(
        pl.col("right").mean(), n_trials=pl.len()
    )
    # Sums of floats depend on the order of what is summed.
    table = of_latents.group_by(GROUP, maintain_order=True).agg(
        n_trials=pl.col("n_trials").sum(), **moments_of(pl.col("right"))
    )
    low, high = map(pl.Series, interval(Moments.read(table), (0, 1)))
    table = table.select(
        *GROUP, "n_trials", n_latents="n", value="mean", low=low.fill_nan(None), high=high.fill_nan(None)
    )
    return conform(table, BY_DECILE).sort(GROUP)
