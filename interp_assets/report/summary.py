"""The numbers of the report: one row for each layer, method, explainer, control and statistic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from interp_assets.report.headline import HEADLINE, OF_A_CONTROL, headlines
from interp_assets.scores.intervals import Z
from interp_assets.tables import NO_EXPLAINER, SCORE_REPORT, conform


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.SCORE_REPORT`.

    Every row of a group is another latent, so latents are what varies: the mean's interval is +- 1.96 standard errors
    over latents, the median's lies between two order statistics (Conover 1999, section 3.2), whatever the distribution.

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
            median_low=order_statistic(value, -Z),
            median_high=order_statistic(value, Z),
            lower_quartile=value.quantile(0.25, "linear"),
            upper_quartile=value.quantile(0.75, "linear"),
        )
    )
    return conform(table, SCORE_REPORT)


def order_statistic(value: pl.Expr, z: float) -> pl.Expr:
    """The value of rank n / 2 + z sqrt(n) / 2, rounded away from the median and kept within what there is."""
    rank = value.count() / 2 + z * value.count().sqrt() / 2
    place = (rank.floor() - 1) if z < 0 else rank.ceil()
    return value.drop_nulls().sort().gather(place.clip(0, value.count() - 1).cast(pl.UInt32)).first()


class Difference(NamedTuple):
    """How far explanations score above a control: their shuffled selves latent by latent, or another layer's."""

    layer: str
    control: str
    "shuffled, or the layer of a control subject"
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
        control = "shuffled control" if self.control == "shuffled" else f"control {self.control}"
        if self.n_latents < 2:
            return f"{name}: too few latents to compare with the {control}."
        if self.above_control:
            return f"{name}: above the {control} by {numbers}."
        return f"{name} is not above its {control}: the difference is {numbers}. It shows nothing about these explanations."


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
        mean, names = float(difference.mean()), (str(layer), "shuffled", str(method), str(explainer), statistic)
        found.append(Difference(*names, len(difference), mean, mean - error, mean + error))
    return found


def against_layers(scores: pl.DataFrame) -> list[Difference]:
    """The headline statistic of each layer `X` minus that of the same place's control subjects, `X@random` and such.

    The interval is Welch's, with the degrees of freedom of the smaller group alone.

    Their latents are different ones, so means are compared; what a latent scored under several conditions is averaged.
    """
    keys = ["method", "explainer", "statistic"]
    latents = (
        headlines(scores)
        .filter(control="none")
        .group_by(*keys, "layer", "latent", maintain_order=True)
        .agg(pl.mean("value"))
    )
    parts = latents.group_by(*keys, "layer", maintain_order=True).agg(
        n=pl.len(), mean=pl.mean("value"), variance=pl.col("value").var() / pl.len()
    )
    controls = parts.filter(OF_A_CONTROL).with_columns(
        layer_of_control="layer", layer=pl.col("layer").str.split("@").list.first()
    )
    both = parts.join(controls, on=[*keys, "layer"], suffix="_control", maintain_order="left_right")
    found = []
    for row in both.iter_rows(named=True):
        n, mean = min(row["n"], row["n_control"]), row["mean"] - row["mean_control"]
        error = stats.t.ppf(0.975, n - 1) * np.sqrt(row["variance"] + row["variance_control"]) if n > 1 else np.nan
        names = (row["layer"], row["layer_of_control"], row["method"], row["explainer"], row["statistic"])
        found.append(Difference(*names, n, mean, mean - error, mean + error))
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
