"""Pictures of the report, as SVG to stand inside the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from interp_assets.report.headline import Statistic

REAL, CONTROL = "#2f6f9f", "#b9b2a6"


def score_distributions(scores: pl.DataFrame, layers: Sequence[str], statistic: Statistic) -> Markup:
    """One violin a layer, real beside shuffled, for one method, explainer and statistic.

    Args:
        scores: columns layer, control, value.
    """
    figure = Figure(figsize=(1.6 + 1.5 * len(layers), 2.8), layout="constrained")
    axes = figure.subplots()
    for control, color, shift in (("none", REAL, -0.19), ("shuffled", CONTROL, 0.19)):
        for place, layer in enumerate(layers):
            values = (
                scores.filter((pl.col("layer") == layer) & (pl.col("control") == control))["value"]
                .drop_nulls()
                .to_numpy()
            )
            if not len(values):
                continue
            if len(values) >= 20 and values.std() > 0:
                drawn: Any = axes.violinplot(values, positions=[place + shift], widths=0.34, showextrema=False)
                body = drawn["bodies"][0]
                body.set(facecolor=color, alpha=0.55, edgecolor="none")
            else:
                spread = np.linspace(-0.08, 0.08, len(values))
                axes.scatter(place + shift + spread, values, s=9, color=color, alpha=0.8, linewidths=0)
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            axes.plot([place + shift] * 2, [low, high], color=color, linewidth=3, solid_capstyle="butt")
            axes.plot([place + shift - 0.08, place + shift + 0.08], [middle, middle], color="#1c1c1c", linewidth=1.6)
    axes.set_xticks(range(len(layers)), layers)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    frame(axes, statistic)
    return svg(figure)


def decile_curves(rows: pl.DataFrame, statistic: Statistic) -> Markup:
    """A curve over the deciles of peak activation, real beside shuffled, with intervals as bands where there are any.

    Args:
        rows: of `tables.BY_DECILE`, of one method and explainer.
    """
    figure = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes = figure.subplots()
    for control, color in (("shuffled", CONTROL), ("none", REAL)):
        mine = rows.filter(control=control).sort("decile")
        place = mine["decile"].to_numpy() + 1
        low, high = (mine[name].cast(pl.Float64).to_numpy() for name in ("low", "high"))
        axes.fill_between(place, low, high, color=color, alpha=0.25, linewidth=0)
        axes.plot(place, mine["value"].to_numpy(), color=color, linewidth=1.8, marker="o", markersize=3.5)
    axes.set_xticks(range(1, 11))
    axes.set_xlabel("decile of peak activation, weakest first")
    frame(axes, statistic)
    return svg(figure)


def scatter(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> tuple[Markup, dict[str, float] | None]:
    """Latents by two scores with the line of least squares; its slope and r, None where x or y is all the same."""
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x, y, s=12, color=REAL, alpha=0.6, linewidths=0)
    fit = None
    if np.ptp(x) and np.ptp(y):
        line = stats.linregress(x, y)
        fit = {"slope": float(line.slope), "r": float(line.rvalue)}
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, line.intercept + line.slope * ends, color="#1c1c1c", linewidth=1.2)
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure), fit


def frame(axes: Axes, statistic: Statistic) -> None:
    """Chance as a dashed line, the scale of the statistic, no box."""
    if statistic.chance is not None:
        axes.axhline(statistic.chance, color="#888", linewidth=0.8, linestyle=(0, (3, 3)))
    if statistic.limits is not None:
        low, high = statistic.limits
        axes.set_ylim(low - 0.02, high + 0.02)
    axes.spines[["top", "right"]].set_visible(False)


def svg(figure: Figure) -> Markup:
    """The drawing as an <svg> element, to stand in a page as it is; the same figure gives the same text."""
    picture = io.StringIO()
    with rc_context({"svg.hashsalt": "interp", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    text = picture.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 - matplotlib escapes what text it holds
