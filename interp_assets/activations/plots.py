"""Small pictures for the metadata of a partition."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.figure import Figure


def firing_rate_histogram(rates: np.ndarray) -> str:
    """Markdown with a histogram of log10 firing rates (float [latents]); the dead are counted in its title."""
    alive = rates[rates > 0]
    figure = Figure(figsize=(5, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(np.log10(alive), bins=40, color="#3b6ea5")
    axes.set_xlabel("log10 firing rate")
    axes.set_ylabel("latents")
    axes.set_title(f"{len(alive):,} latents fire, {len(rates) - len(alive):,} never do", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return embedded_png(figure)


def embedded_png(figure: Figure) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    return f"![picture](data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()})"
