"""Pictures of the report, as SVG to stand inside the page."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.figure import Figure

REAL, CONTROL = "#2f6f9f", "#b9b2a6"


def score_distributions(
    scores: pl.DataFrame, layers: list[str], chance: float = 0.5, limits: tuple[float, float] | None = (0, 1)
) -> str:
    """One violin a layer, real beside shuffled, for one method, explainer and statistic.

    Args:
        scores: columns layer, control, value.
        limits: between which all scores lie; None where there are none.
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
    axes.axhline(chance, color="#888", linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xticks(range(len(layers)), layers)
    if limits is not None:
        axes.set_ylim(limits[0] - 0.02, limits[1] + 0.02)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def svg(figure: Figure) -> str:
    """The drawing as an <svg> element; the same figure gives the same text."""
    picture = io.StringIO()
    with rc_context({"svg.hashsalt": "interp", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    text = picture.getvalue()
    return text[text.index("<svg") :]
