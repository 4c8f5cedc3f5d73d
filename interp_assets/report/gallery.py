"""Latents to look at: the best, the worst, and those on which the methods disagree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl
from markupsafe import Markup, escape

from interp_assets.examples.rendering import Rendering, escaped, is_blank
from interp_assets.report.correlations import disagreements
from interp_assets.report.headline import HEADLINE, OF_A_CONTROL
from interp_assets.report.verdicts import scored

SHOWN_LATENTS, SHOWN_EXAMPLES, SHOWN_TOKENS = 6, 4, 8


def best_and_worst(
    scores: pl.DataFrame,
    explanations: dict[str, pl.DataFrame],
    examples: dict[str, pl.DataFrame],
    nearest: dict[str, pl.DataFrame],
    rendering: Rendering,
) -> list[dict[str, Any]]:
    """The latents of highest and lowest score by the study's broadest method, with their strongest examples."""
    # Intervention tests explanations of its own, which are not those that are shown here.
    shown_here = (pl.col("method") != "intervention") & (pl.col("control") == "none") & ~OF_A_CONTROL
    headline = pl.col("statistic") == pl.col("method").replace_strict(HEADLINE, default="auroc", return_dtype=pl.String)
    there = pl.col("layer").is_in(list(examples))
    real = scores.filter(shown_here & headline & there & pl.col("value").is_not_null())
    if real.is_empty():
        return []
    order = {method: place for place, method in enumerate(HEADLINE)}
    broadest = (
        real.group_by("method", "explainer")
        .len()
        .with_columns(place=pl.col("method").replace_strict(order, default=len(order), return_dtype=pl.Int64))
        .sort("len", "place", "explainer", descending=[True, False, False])
        .row(0)
    )
    ranked = real.filter((pl.col("method") == broadest[0]) & (pl.col("explainer") == broadest[1]))
    ranked = ranked.sort("value", "layer", "latent", descending=[True, False, False])
    by = f"by {scored(*broadest[:2])}"
    if len(ranked) == 1:
        shown = [(f"The one latent scored {by}", ranked)]
    else:
        # No latent stands among both.
        best, worst = (min(SHOWN_LATENTS, half) for half in ((len(ranked) + 1) // 2, len(ranked) // 2))
        shown = [
            (f"The best {counted(best)} {by}", ranked.head(best)),
            (f"The worst {counted(worst)} {by}", ranked.tail(worst).reverse()),
        ]
    return [
        {
            "title": title,
            "cards": [
                card(row, *shown_of(row["layer"], explanations, examples, nearest), rendering)
                for row in rows.iter_rows(named=True)
            ],
        }
        for title, rows in shown
    ]


def counted(latents: int) -> str:
    return "latent" if latents == 1 else f"{latents} latents"


def failures(
    scores: pl.DataFrame,
    explanations: dict[str, pl.DataFrame],
    examples: dict[str, pl.DataFrame],
    nearest: dict[str, pl.DataFrame],
    rendering: Rendering,
) -> list[dict[str, Any]]:
    """Cards of the explanations that one method ranks high and another low."""
    apart = disagreements(scores).filter(pl.col("apart") > 0, pl.col("layer").is_in(list(examples)))
    return [
        card(row, *shown_of(row["layer"], explanations, examples, nearest), rendering)
        | {name: row[name] for name in ("explainer", "apart", "highest", "lowest", "scores")}
        for row in apart.head(SHOWN_LATENTS).iter_rows(named=True)
    ]


def card(
    score: dict[str, Any],
    explanations: pl.DataFrame | None,
    examples: pl.DataFrame,
    nearest: pl.DataFrame | None,
    rendering: Rendering,
) -> dict[str, Any]:
    """What is shown of a latent.

    Args:
        score: its layer and latent, and `value`, `low`, `high` where it is shown by one score.
        explanations: of its layer; None where they are missing.
        nearest: `nearest_tokens` of its layer; None where no method compares tokens.
    """
    latent = score["latent"]
    told: list[dict[str, Any]] = []
    if explanations is not None:
        mine = explanations.filter((pl.col("latent") == latent) & (pl.col("status") == "ok"))
        told = [
            each | {"tokens": tokens_of(nearest, latent, each["explainer"])}
            for each in mine.select("explainer", "explanation").to_dicts()
        ]
    strongest = examples.filter((pl.col("latent") == latent) & (pl.col("kind") == "activating")).sort(
        "peak_activation", descending=True
    )
    windows = strongest.head(SHOWN_EXAMPLES).select("tokens", "start", "activations", "peak_activation").iter_rows()
    return {
        "layer": score["layer"],
        "latent": latent,
        **{name: score.get(name) for name in ("value", "low", "high")},
        "explanations": told,
        "examples": [
            {"peak": peak, "text": highlighted(rendering.window(tokens, start), values, rendering)}
            for tokens, start, values, peak in windows
        ],
    }


def shown_of(
    layer: str,
    explanations: dict[str, pl.DataFrame],
    examples: dict[str, pl.DataFrame],
    nearest: dict[str, pl.DataFrame],
) -> tuple[pl.DataFrame | None, pl.DataFrame, pl.DataFrame | None]:
    return explanations.get(layer), examples[layer], nearest.get(layer)


def nearest_tokens(trials: pl.DataFrame) -> pl.DataFrame:
    """By which tokens activating windows lie near their latent's explanation: latent, explainer, token, windows.

    Args:
        trials: of `scores/token_embedding`.
    """
    of_own = trials.filter(pl.col("expected") & (pl.col("control") == "none") & pl.col("window_token").is_not_null())
    return (
        of_own.group_by("latent", "explainer", token=pl.col("window_token").str.to_lowercase())
        .agg(windows=pl.len())
        .sort("latent", "explainer", "windows", "token", descending=[False, False, True, False])
    )


def tokens_of(nearest: pl.DataFrame | None, latent: int, explainer: str) -> list[dict[str, Any]]:
    if nearest is None:
        return []
    return nearest.filter(latent=latent, explainer=explainer).head(SHOWN_TOKENS).select("token", "windows").to_dicts()


def highlighted(tokens: Sequence[int], activations: Sequence[float], rendering: Rendering) -> Markup:
    """A window with its tokens shaded by activation, white space among them in quotes; the text itself is escaped."""
    highest = max(activations) or 1.0
    parts = []
    for each in rendering.named(tokens):
        activation = max(activations[each.first : each.last + 1])
        if activation > 0 and each.text:
            # A line is ended behind the mark, as it is in the text.
            ends = "\n" * each.text.count("\n")
            shown = json.dumps(each.text) if is_blank(each.text) else escaped(each.text)
            mark = Markup('<mark style="--a:{:.2f}" title="{:.3g}">{}</mark>{}')
            parts.append(mark.format(activation / highest, activation, shown, ends))
        else:
            parts.append(escape(each.text))
    return Markup("").join(parts)
