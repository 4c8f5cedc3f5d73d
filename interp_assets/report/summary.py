"""The numbers of the report: one row for each layer, method, explainer, control and statistic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from interp_assets.layers import stands_beside
from interp_assets.report.headline import HEADLINE, headlines
from interp_assets.scores.intervals import Z
from interp_assets.settings import NO_EXPLAINER
from interp_assets.settings.scorers import ZERO_ABLATION
from interp_assets.tables import SCORE_REPORT, conform


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.SCORE_REPORT`.

    Every row of a group is another latent, so latents are what varies: the mean's interval is +- 1.96 standard errors
    over latents; those of the median and the quartiles lie between two order statistics (Conover 1999, section 3.2),
    whatever the distribution.

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
            **quantile_columns("lower_quartile", value, 0.25),
            **quantile_columns("median", value, 0.5),
            **quantile_columns("upper_quartile", value, 0.75),
        )
    )
    return conform(table, SCORE_REPORT)


def quantile_columns(name: str, value: pl.Expr, q: float) -> dict[str, pl.Expr]:
    """A quantile and the ends of its interval."""
    return {
        name: value.quantile(q, "linear"),
        f"{name}_low": order_statistic(value, q, -Z),
        f"{name}_high": order_statistic(value, q, Z),
    }


def order_statistic(value: pl.Expr, q: float, z: float) -> pl.Expr:
    """The value of rank n q + z sqrt(n q (1 - q)), rounded away from the quantile and kept within what there is."""
    rank = value.count() * q + z * (value.count() * q * (1 - q)).sqrt()
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
    condition: str | None
    "At which it is compared; None where there is one, or where all are averaged."
    n_latents: int
    mean: float
    low: float
    high: float

    @property
    def comparable(self) -> bool:
        """Whether it has an interval."""
        return self.n_latents > 1

    @property
    def above_control(self) -> bool:
        return self.low > 0

    @property
    def verdict(self) -> str:
        """In few words."""
        if not self.comparable:
            return "too few latents to compare"
        if self.above_control:
            return "above it"
        return "below it" if self.high < 0 else "not shown to be above it"

    @property
    def against(self) -> str:
        """What it is compared with, in words."""
        return ("shuffled explanations" if self.control == "shuffled" else self.control) + at_condition(self.condition)

    def sentence(self) -> str:
        name = f"{scored(self.method, self.explainer)} on {self.layer}{at_condition(self.condition)}"
        numbers = f"{self.mean:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f}, {self.n_latents} latents)"
        control = "shuffled control" if self.control == "shuffled" else f"control {self.control}"
        if not self.comparable:
            return f"{name}: too few latents to compare with the {control}."
        if self.above_control:
            return f"{name}: above the {control} by {numbers}."
        return f"{name} is not above its {control}: the difference is {numbers}. It shows nothing about these explanations."


def scored(method: str, explainer: str) -> str:
    """What a method scored, in words."""
    return f"{method} without explanation" if explainer == NO_EXPLAINER else f"{method} of {explainer} explanations"


def at_condition(condition: str | None) -> str:
    """The condition of an intervention, in words."""
    if condition is None:
        return ""
    return " where the latent is taken away" if condition == ZERO_ABLATION else f" at a KL of {condition} nats"


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
        found.append(Difference(*names, None, len(difference), mean, mean - error, mean + error))
    return found


def against_layers(scores: pl.DataFrame) -> list[Difference]:
    """The headline statistic of each layer minus that of the control subjects beside it, `X@random` and such.

    Interventions are compared at equal KL, condition by condition. Latents are different ones on both sides, so means
    are compared; the interval is Welch's, with the degrees of freedom of the smaller group alone.
    """
    parts = (
        headlines(scores)
        .filter(control="none")
        .with_columns(condition=pl.when(pl.col("condition") != "sequential").then("condition"))
        .group_by("method", "explainer", "statistic", "condition", "layer", maintain_order=True)
        .agg(n=pl.len(), mean=pl.mean("value"), variance=pl.col("value").var() / pl.len())
    )
    found = []
    for row in parts.iter_rows(named=True):
        for other in parts.iter_rows(named=True):
            same = all(row[name] == other[name] for name in ("method", "explainer", "statistic", "condition"))
            if not same or not stands_beside(other["layer"], row["layer"]):
                continue
            n, mean = min(row["n"], other["n"]), row["mean"] - other["mean"]
            error = stats.t.ppf(0.975, n - 1) * np.sqrt(row["variance"] + other["variance"]) if n > 1 else np.nan
            names = (row["layer"], other["layer"], row["method"], row["explainer"], row["statistic"], row["condition"])
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
