"""The numbers of the report: one row for each layer, method, explainer, control and statistic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from interp_assets.layers import stands_beside
from interp_assets.means import (
    ALPHA,
    EQUAL,
    FEWEST,
    Bounds,
    Moments,
    difference_interval,
    holm,
    interval,
    moments_of,
    of_differences,
    p_of_difference,
    p_of_mean,
)
from interp_assets.report.headline import HEADLINE, headlines, limits_of
from interp_assets.settings import NO_EXPLAINER
from interp_assets.settings.scorers import ZERO_ABLATION
from interp_assets.tables import SCORE_REPORT, conform

GROUP = ["layer", "method", "explainer", "control", "statistic", "condition"]
QUANTILES = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.SCORE_REPORT`.

    Every row of a group is another latent, so latents are what varies: for the mean's interval see `interp_assets.means`;
    those of the median and the quartiles lie between two order statistics (Conover 1999, section 3.2), whatever the
    distribution. There are none of fewer than FEWEST latents.

    Args:
        scores: `tables.SCORES` of all layers and methods with columns `layer` and `method`.
    """
    value = pl.col("value")
    table = (
        scores.filter(value.is_not_null())
        .group_by(GROUP, maintain_order=True)
        .agg(
            n_failed_trials=pl.col("n_failed").sum(),
            values=value.sort(),
            **moments_of(value),
            **{name: value.quantile(q, "linear") for name, q in QUANTILES.items()},
        )
    )
    limits = limits_by_row(table["statistic"])
    ends = {"mean": interval(Moments.read(table), limits)}
    ends |= {name: order_statistics(table["values"], q, limits) for name, q in QUANTILES.items()}
    columns = {
        f"{name}_{side}": pl.Series(end) for name, both in ends.items() for side, end in zip(SIDES, both, strict=True)
    }
    table = table.with_columns(**columns).with_columns(pl.col(list(columns)).fill_nan(None))
    return conform(table.rename({"n": "n_latents"}).drop("values", "deviation", "skewness"), SCORE_REPORT)


SIDES = ("low", "high")


def limits_by_row(statistics: pl.Series) -> Bounds:
    """The limits of each row's statistic, float64."""
    limits = np.array([limits_of(each) for each in statistics], dtype=np.float64).reshape(-1, 2)
    return limits[:, 0], limits[:, 1]


def order_statistics(values: pl.Series, q: float, limits: Bounds) -> Bounds:
    """The ends of the 95 % interval of a quantile: the values of those ranks between which it lies at least so often.

    Where even the least or the largest value is not far enough out, the end is the statistic's limit; nan where it has none.

    Args:
        values: list<f64>, sorted.
    """
    n = values.list.len().to_numpy()
    # Of values below the quantile there are so many as a binomial variable says.
    ranks = (stats.binom.ppf(ALPHA / 2, n, q), stats.binom.ppf(1 - ALPHA / 2, n, q) + 1)
    ends = []
    for rank, limit in zip(ranks, limits, strict=True):
        there = (rank >= 1) & (rank <= n)
        place = pl.Series(np.where(there, rank - 1, 0).astype(np.int64))
        end = np.where(there, values.list.get(place).to_numpy(), limit)
        ends.append(np.where((n >= FEWEST) & np.isfinite(end), end, np.nan))
    return ends[0], ends[1]


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
    "Of the plain 95 % interval; nan where nothing is said of the difference."
    p_value: float
    p_corrected: float = np.nan
    "For the number of verdicts in the report; see `corrected`."

    @property
    def comparable(self) -> bool:
        """Whether it has an interval."""
        return not np.isnan(self.low)

    @property
    def above_control(self) -> bool:
        return self.p_corrected <= ALPHA and self.low > 0

    @property
    def below_control(self) -> bool:
        return self.p_corrected <= ALPHA and self.high < 0

    @property
    def verdict(self) -> str:
        """In few words."""
        if not self.comparable:
            return self.why_none
        if self.above_control:
            return "above it"
        if self.below_control:
            return "below it"
        return "not shown to be above it" + (" once corrected" if self.low > 0 else "")

    @property
    def why_none(self) -> str:
        """Why nothing is said of it."""
        few = self.n_latents < FEWEST
        return f"too few latents to compare (fewer than {FEWEST})" if few else "all differences are the same"

    @property
    def against(self) -> str:
        """What it is compared with, in words."""
        return ("shuffled explanations" if self.control == "shuffled" else self.control) + at_condition(self.condition)

    def sentence(self) -> str:
        name = f"{scored(self.method, self.explainer)} on {self.layer}{at_condition(self.condition)}"
        numbers = f"{self.mean:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f}, {self.n_latents} latents)"
        control = "shuffled control" if self.control == "shuffled" else f"control {self.control}"
        if not self.comparable:
            return f"{name}, beside the {control}: {self.why_none}."
        if self.above_control:
            return f"{name}: above the {control} by {numbers}."
        once = " once corrected for the number of comparisons" if self.low > 0 else ""
        return f"{name} is not above its {control}{once}: the difference is {numbers}. It shows nothing about these explanations."


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The differences of one report with their p values corrected for how many verdicts it has (Holm).

    Holm's method rather than Benjamini and Hochberg's: a reader looks at single verdicts, not at their whole, and it holds
    however they hang together, as those of one layer's latents by several methods do.
    """
    found = holm([each.p_value for each in differences])
    return [each._replace(p_corrected=p) for each, p in zip(differences, found, strict=True)]


def how_many(differences: Sequence[Difference]) -> str:
    """How many verdicts there are and how they are corrected, in words; empty where nothing is compared."""
    judged = sum(each.comparable for each in differences)
    if not differences:
        return ""
    left = len(differences) - judged
    few = f"; of {left} nothing is said, as a verdict takes at least {FEWEST} latents that differ" if left else ""
    return (
        f"{len(differences)} comparisons with a control, {judged} verdicts{few}. Verdicts are corrected for their number "
        f"(Holm), so that the chance of even one false verdict in this report is at most {ALPHA:.0%}; intervals are not."
    )


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
    names, apart, limits = [], [], []
    keys = ["layer", "method", "explainer"]
    for (layer, method, explainer), group in scores.group_by(keys, maintain_order=True):
        statistic = HEADLINE.get(str(method), "auroc")
        mine = group.filter((pl.col("statistic") == statistic) & pl.col("value").is_not_null())
        wide = mine.pivot(on="control", index=["latent", "condition"], values="value")
        if not {"none", "shuffled"} <= set(wide.columns):
            continue
        pairs = wide.select("latent", apart=pl.col("none") - pl.col("shuffled")).drop_nulls()
        # What was measured of a latent under several conditions hangs together: its mean counts once.
        if len(pairs):
            apart.append(pairs.group_by("latent", maintain_order=True).mean()["apart"].to_numpy())
            names.append((str(layer), "shuffled", str(method), str(explainer), statistic, None))
            limits.append(of_differences(limits_of(statistic)))
    if not names:
        return []
    of, (low, high) = Moments.join(Moments.of(each[None]) for each in apart), np.array(limits, dtype=np.float64).T
    ends, nonzero = interval(of, (low, high)), np.array([np.count_nonzero(np.abs(each) > EQUAL) for each in apart])
    numbers = zip(of.n.astype(int), of.mean, *ends, p_of_mean(of, (low, high), nonzero), strict=True)
    return [Difference(*each, int(n), *map(float, rest)) for each, (n, *rest) in zip(names, numbers, strict=True)]


def against_layers(scores: pl.DataFrame) -> list[Difference]:
    """The headline statistic of each layer minus that of the control subjects beside it, `X@random` and such.

    Interventions are compared at equal KL, condition by condition. Latents are different ones on both sides, so means
    are compared.
    """
    same = ["method", "explainer", "statistic", "condition"]
    parts = (
        headlines(scores)
        .filter(control="none")
        .with_columns(condition=pl.when(pl.col("condition") != "sequential").then("condition"))
        .group_by(*same, "layer", maintain_order=True)
        .agg(**moments_of(pl.col("value")))
        .with_row_index("row")
    )
    pairs = [
        (row, other)
        for row in parts.select("row", *same, "layer").iter_rows(named=True)
        for other in parts.select("row", *same, "layer").iter_rows(named=True)
        if all(row[name] == other[name] for name in same) and stands_beside(other["layer"], row["layer"])
    ]
    if not pairs:
        return []
    one, other = (Moments.read(parts[[pair[side]["row"] for pair in pairs]]) for side in (0, 1))
    limits = limits_by_row(pl.Series([row["statistic"] for row, _ in pairs]))
    ends = difference_interval(one, other, limits)
    n = np.minimum(one.n, other.n).astype(int)
    numbers = zip(n, one.mean - other.mean, *ends, p_of_difference(one, other, limits), strict=True)
    return [
        Difference._make(
            [row["layer"], beside["layer"], *(row[name] for name in same), int(few), *map(float, rest), np.nan]
        )
        for (row, beside), (few, *rest) in zip(pairs, numbers, strict=True)
    ]


def shortfalls_of(short: pl.DataFrame) -> list[dict[str, Any]]:
    """For each layer, kind and reason how many latents lack windows, and how many of those asked for them.

    Args:
        short: `tables.SHORTFALLS` with layer.
    """
    return (
        short.group_by("layer", "purpose", "kind", "reason", maintain_order=True)
        .agg(latents=pl.len(), lacking=(pl.col("wanted") - pl.col("drawn")).sum(), wanted=pl.col("wanted").sum())
        .to_dicts()
    )


def counts(
    statistics: pl.DataFrame | None,
    examples: pl.DataFrame | None,
    explanations: pl.DataFrame | None,
    windows: pl.DataFrame | None = None,
) -> dict[str, int | str]:
    """How many latents of a layer came how far.

    Args:
        windows: `windows` and `repeated` of `tables.EXAMPLE_LATENTS`.
    """
    found: dict[str, int | str] = {}
    if statistics is not None:
        found["latents"] = len(statistics)
    if examples is not None:
        per_status = dict(examples.unique("latent")["status"].value_counts().iter_rows())
        found["with examples"] = per_status.get("ok", 0)
        found["too few examples"] = per_status.get("too_few_examples", 0)
        found["dead"] = per_status.get("dead", 0)
    if windows is not None:
        repeated, distinct = (int(windows[name].sum()) for name in ("repeated", "windows"))
        found["windows of repeated text"] = f"{repeated / max(repeated + distinct, 1):.1%}"
    if explanations is not None:
        for (explainer,), group in explanations.group_by("explainer", maintain_order=True):
            found[f"explained by {explainer}"] = int((group["status"] == "ok").sum())
            found[f"failed by {explainer}"] = int((group["status"] == "failed").sum())
    return found
