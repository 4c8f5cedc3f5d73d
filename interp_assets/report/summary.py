"""The numbers of the report: one row for each layer, method, explainer, control and statistic."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from interp_assets.means import ALPHA, FEWEST, Bounds, Moments, interval, moments_of
from interp_assets.report.headline import limits_by_row
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
