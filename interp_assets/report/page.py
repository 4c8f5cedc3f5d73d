"""The report as one HTML page that needs nothing beside it. All text is escaped; no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from interp_assets.examples.rendering import Rendering
from interp_assets.report.figures import score_distributions
from interp_assets.report.summary import HEADLINE, Difference, against_control, scored, summarise
from interp_assets.tables import NO_EXPLAINER

SHOWN_LATENTS, SHOWN_EXAMPLES = 6, 4

TITLES = {
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "nats": "nats, all conditions",
    "pearson": "correlation",
    "generation_rate": "share of texts",
}


def render(
    name: str,
    layers: Sequence[str],
    scores: pl.DataFrame,
    layer_counts: dict[str, dict[str, int]],
    problems: dict[str, str],
    latents: list[dict[str, Any]],
    calibrations: Sequence[dict[str, Any]] = (),
) -> str:
    """The page.

    Args:
        scores: `tables.SCORES` with columns layer and method.
        layer_counts: for each layer, what `summary.counts` found.
        problems: partitions that are missing or failed, and why.
        latents: what `best_and_worst` found.
        calibrations: method, layer and rows of `tables.CALIBRATION`, where prompt sizes were tried.
    """
    environment = Environment(
        loader=PackageLoader("interp_assets.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    differences = against_control(scores)
    return environment.get_template("report.html.j2").render(
        name=name,
        layers=layers,
        calibrations=calibrations,
        sequential=sorted(set(scores.filter(pl.col("condition") == "sequential")["method"])),
        sections=sections(scores, list(layers), differences),
        rows=summarise(scores).to_dicts(),
        count_names=list(dict.fromkeys(key for found in layer_counts.values() for key in found)),
        layer_counts=layer_counts,
        problems=problems,
        latents=latents,
    )


def sections(scores: pl.DataFrame, layers: list[str], differences: list[Difference]) -> list[dict[str, Any]]:
    found = []
    for (method, explainer), group in scores.group_by("method", "explainer", maintain_order=True):
        statistic = HEADLINE.get(str(method), "auroc")
        values = group.filter(pl.col("statistic") == statistic)
        scale = scale_of(statistic, group)
        found.append(
            {
                "title": scored(str(method), str(explainer)),
                "statistic": TITLES.get(statistic, statistic),
                "picture": Markup(score_distributions(values, layers, **scale)),  # noqa: S704 - drawn here, holds layer names only
                "differences": [d for d in differences if (d.method, d.explainer) == (method, explainer)],
            }
        )
    return found


def scale_of(statistic: str, scores: pl.DataFrame) -> dict[str, Any]:
    """What chance is, and between which limits all scores lie."""
    if statistic == "nats":
        return {"chance": 0.0, "limits": None}
    if statistic == "pearson":
        return {"chance": 0.0, "limits": (-1, 1)}
    # Some methods tell their own; nobody knows how often a latent fires on texts that were written for nothing.
    told = scores.filter(statistic="chance")["value"]
    return {"chance": float(told[0]) if len(told) else 0.0 if statistic == "generation_rate" else 0.5}


def best_and_worst(
    scores: pl.DataFrame, explanations: dict[str, pl.DataFrame], examples: dict[str, pl.DataFrame], rendering: Rendering
) -> list[dict[str, Any]]:
    """The latents of highest and lowest score by the study's broadest method, with their strongest examples."""
    # Intervention tests explanations of its own, and some methods test none: not what is shown here.
    explained = (pl.col("method") != "intervention") & (pl.col("explainer") != NO_EXPLAINER)
    shown_here = explained & (pl.col("control") == "none")
    real = scores.filter(shown_here & pl.col("value").is_not_null())
    if real.is_empty():
        return []
    headline = pl.col("statistic") == pl.col("method").replace_strict(HEADLINE, default="auroc")
    real = real.filter(headline)
    broadest = real.group_by("method", "explainer").len().sort("len", "method", descending=[True, False]).row(0)
    ranked = real.filter((pl.col("method") == broadest[0]) & (pl.col("explainer") == broadest[1]))
    ranked = ranked.sort("value", "layer", "latent", descending=[True, False, False])
    shown = [("best", ranked.head(SHOWN_LATENTS)), ("worst", ranked.tail(SHOWN_LATENTS).reverse())]
    found = []
    for title, rows in shown:
        cards = [
            card(row, explanations[row["layer"]], examples[row["layer"]], rendering)
            for row in rows.iter_rows(named=True)
        ]
        found.append(
            {
                "title": f"The {title} {len(cards)} latents by {scored(*broadest[:2])}",
                "cards": cards,
            }
        )
    return found


def card(
    score: dict[str, Any], explanations: pl.DataFrame, examples: pl.DataFrame, rendering: Rendering
) -> dict[str, Any]:
    latent = score["latent"]
    mine = explanations.filter((pl.col("latent") == latent) & (pl.col("status") == "ok"))
    strongest = examples.filter((pl.col("latent") == latent) & (pl.col("kind") == "activating")).sort(
        "peak_activation", descending=True
    )
    windows = strongest.head(SHOWN_EXAMPLES).select("tokens", "activations", "peak_activation").iter_rows()
    return {
        "layer": score["layer"],
        "latent": latent,
        "value": score["value"],
        "low": score["low"],
        "high": score["high"],
        "explanations": mine.select("explainer", "explanation").to_dicts(),
        "examples": [
            {"peak": peak, "text": highlighted(tokens, values, rendering)} for tokens, values, peak in windows
        ],
    }


def highlighted(tokens: Sequence[int], activations: Sequence[float], rendering: Rendering) -> Markup:
    """A window with its tokens shaded by activation; the text itself is escaped."""
    highest = max(activations) or 1.0
    parts = []
    for token, activation in zip(tokens, activations, strict=True):
        text = "" if token in rendering.hidden else escape(rendering.word(token))
        if activation > 0 and text:
            parts.append(
                Markup('<mark style="--a:{:.2f}" title="{:.3g}">{}</mark>').format(
                    activation / highest, activation, text
                )
            )
        else:
            parts.append(Markup(text))  # noqa: S704 - escaped above
    return Markup("").join(parts)
