"""Scores that the report does not have, or has nothing to compare with, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from interp_assets.report.headline import HEADLINE, STATISTICS
from interp_assets.report.verdicts import Difference, scored


class Gap(NamedTuple):
    """Why one layer, method and explainer stands beside no control."""

    layer: str
    method: str
    explainer: str | None
    "None where the method scored nothing at all."
    reason: str

    def sentence(self) -> str:
        name = self.method if self.explainer is None else scored(self.method, self.explainer)
        return f"{name} on {self.layer}: {self.reason}."


def gaps(scores: pl.DataFrame, differences: Sequence[Difference], tables: Sequence[tuple[str, str]]) -> list[Gap]:
    """What is missing among scores, each gap once; none where a difference from some control is known.

    Args:
        scores: `tables.SCORES` of all layers and methods with columns `layer` and `method`.
        tables: method and layer of every table of scores, of empty ones too.
    """
    compared = {(each.layer, each.method, each.explainer) for each in differences}
    with_rows = set(scores.select("method", "layer").unique().iter_rows())
    found = [
        Gap(layer, method, None, "nothing was scored") for method, layer in tables if (method, layer) not in with_rows
    ]
    for (layer, method, explainer), group in scores.group_by("layer", "method", "explainer", maintain_order=True):
        key = str(layer), str(method), str(explainer)
        if key not in compared:
            found.append(Gap(*key, why(group, str(method))))
    return found


def why(rows: pl.DataFrame, method: str) -> str:
    """What of one layer, method and explainer is missing: the score, or what it would be compared with."""
    statistic = HEADLINE.get(method, "auroc")
    title = STATISTICS[statistic].title.partition(",")[0]
    own, control = (rows.filter(control=name) for name in ("none", "shuffled"))
    values, control_values = (
        each.filter(pl.col("statistic") == statistic)["value"].drop_nulls() for each in (own, control)
    )
    if values.is_empty():
        return f"no {title}" + (because(own) if len(own) else ", only the shuffled control was scored")
    beside = f"mean {title} {values.to_numpy().mean():.3f}, with no control to compare it with"
    if control.is_empty():
        return beside
    return beside + (because(control) if control_values.is_empty() else " (no latent has both scores)")


def because(rows: pl.DataFrame) -> str:
    """The most frequent reason that rows without a value give, else which statistics there are, in brackets."""
    reasons = rows.filter(pl.col("value").is_null())["reason"].drop_nulls()
    if len(reasons):
        counted = reasons.value_counts().sort("count", "reason", descending=[True, False])
        return f" ({counted['reason'][0]})"
    others = rows.filter(pl.col("value").is_not_null())["statistic"].unique().sort()
    return f" (there is {', '.join(others).replace('_', ' ')})" if len(others) else ""
