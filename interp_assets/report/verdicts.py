"""How far explanations lie above their controls, and what a report may say of so many differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from interp_assets.layers import stands_beside
from interp_assets.means import (
    ALPHA,
    EQUAL,
    FEWEST,
    Limits,
    Moments,
    difference_interval,
    holm,
    interval,
    moments_of,
    of_differences,
    p_of_difference,
    p_of_mean,
)
from interp_assets.report.headline import HEADLINE, headlines, limits_by_row, limits_of
from interp_assets.settings import NO_EXPLAINER
from interp_assets.settings.scorers import ZERO_ABLATION


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
        f"{counted(len(differences), 'comparison')} with a control, {counted(judged, 'verdict')}{few}. Verdicts are corrected "
        f"for their number (Holm), so that the chance of even one false verdict in this report is at most {ALPHA:.0%}; "
        "intervals are not."
    )


def counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


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
    names: list[tuple[str, str, str, str, str, None]] = []
    apart: list[np.ndarray] = []
    limits: list[Limits] = []
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
    rows = parts.select("row", *same, "layer").to_dicts()
    pairs = [
        (row, other)
        for row in rows
        for other in rows
        if all(row[name] == other[name] for name in same) and stands_beside(other["layer"], row["layer"])
    ]
    if not pairs:
        return []
    one, other = (Moments.read(parts[[pair[side]["row"] for pair in pairs]]) for side in (0, 1))
    limits = limits_by_row(pl.Series([row["statistic"] for row, _ in pairs]))
    ends = difference_interval(one, other, limits)
    n = np.minimum(one.n, other.n).astype(int)
    numbers = zip(n, one.mean - other.mean, *ends, p_of_difference(one, other, limits), strict=True)
    found = []
    for (row, beside), (few, *rest) in zip(pairs, numbers, strict=True):
        names = (row["layer"], beside["layer"], row["method"], row["explainer"], row["statistic"], row["condition"])
        found.append(Difference(*names, int(few), *map(float, rest)))
    return found
