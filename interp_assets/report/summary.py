"""The numbers of the report: one row for each layer, method, explainer, control and statistic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from interp_assets.tables import NO_EXPLAINER, SCORE_REPORT, conform

Z = 1.959963984540054
HEADLINE = {
    "embedding": "auroc",
    "detection": "balanced_accuracy",
    "fuzzing": "balanced_accuracy",
    "simulation": "pearson",
    "generation": "generation_rate",
    "intervention": "nats",
    "intruder": "accuracy",
}
"The statistic by which a method is shown."


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.SCORE_REPORT`; the mean's interval is +- 1.96 standard errors over latents.

    Args:
        scores: `tables.SCORES` of all layers and methods with columns `layer` and `method`.
    """
    value = pl.col("value")
    error = Z * value.std() / value.count().sqrt()
    table = (
        scores.filter(value.is_not_null())
        .group_by("layer", "method", "explainer", "control", "statistic", "condition", maintain_order=True)
        .agg(
            n_latents=value.count(),
            n_failed_trials=pl.col("n_failed").sum(),
            mean=value.mean(),
            mean_low=value.mean() - error,
            mean_high=value.mean() + error,
            median=value.median(),
            lower_quartile=value.quantile(0.25, "linear"),
            upper_quartile=value.quantile(0.75, "linear"),
        )
    )
    return conform(table, SCORE_REPORT)


class Difference(NamedTuple):
    """How far explanations score above their shuffled control, latent by latent."""

    layer: str
    method: str
    explainer: str
    statistic: str
    n_latents: int
    mean: float
    low: float
    high: float

    @property
    def above_control(self) -> bool:
        return self.low > 0

    def sentence(self) -> str:
        name = f"{scored(self.method, self.explainer)} on {self.layer}"
        numbers = f"{self.mean:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f}, {self.n_latents} latents)"
        if self.n_latents < 2:
            return f"{name}: too few latents to compare with the shuffled control."
        if self.above_control:
            return f"{name}: above the shuffled control by {numbers}."
        return f"{name} is not above its shuffled control: the difference is {numbers}. It shows nothing about these explanations."


def scored(method: str, explainer: str) -> str:
    """What a method scored, in words."""
    return f"{method} without explanation" if explainer == NO_EXPLAINER else f"{method} of {explainer} explanations"


def against_control(scores: pl.DataFrame) -> list[Difference]:
    """The headline statistic of each layer, method and explainer, minus that of the shuffled explanations."""
    found = []
    keys = ["layer", "method", "explainer"]
    for (layer, method, explainer), group in scores.group_by(keys, maintain_order=True):
        statistic = HEADLINE.get(str(method), "auroc")
        mine = group.filter((pl.col("statistic") == statistic) & pl.col("value").is_not_null())
        wide = mine.pivot(on="control", index=["latent", "condition"], values="value")
        if not {"none", "shuffled"} <= set(wide.columns):
            continue
        apart = wide.select("latent", apart=pl.col("none") - pl.col("shuffled")).drop_nulls()
        # What was measured of a latent under several conditions hangs together: its mean counts once.
        difference = apart.group_by("latent", maintain_order=True).mean()["apart"].to_numpy()
        if not len(difference):
            continue
        error = Z * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.nan
        mean = float(difference.mean())
        found.append(
            Difference(
                str(layer), str(method), str(explainer), statistic, len(difference), mean, mean - error, mean + error
            )
        )
    return found


def counts(
    statistics: pl.DataFrame | None, examples: pl.DataFrame | None, explanations: pl.DataFrame | None
) -> dict[str, int]:
    """How many latents of a layer came how far."""
    found: dict[str, int] = {}
    if statistics is not None:
        found["latents"] = len(statistics)
    if examples is not None:
        per_status = dict(examples.unique("latent")["status"].value_counts().iter_rows())
        found["with examples"] = per_status.get("ok", 0)
        found["too few examples"] = per_status.get("too_few_examples", 0)
        found["dead"] = per_status.get("dead", 0)
    if explanations is not None:
        for (explainer,), group in explanations.group_by("explainer", maintain_order=True):
            found[f"explained by {explainer}"] = int((group["status"] == "ok").sum())
            found[f"failed by {explainer}"] = int((group["status"] == "failed").sum())
    return found
