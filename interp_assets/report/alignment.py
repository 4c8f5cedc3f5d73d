"""The part of the report about pairs of layers: how similar their latents are, what persists, what is explained alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

from interp_assets.partitions import pair_key
from interp_assets.report.chains import Pair, chains, families
from interp_assets.report.figures import CONTROL, REAL, svg
from interp_assets.tables import OVERLAP_OF_PAIRS, SIMILARITY_OF_PAIRS, conform

STRONGEST = 40
"Chains in the picture of the flow."


def similarity_of_pairs(pairs: Sequence[Pair], gaps: dict[str, float]) -> pl.DataFrame:
    """The table `tables.SIMILARITY_OF_PAIRS`.

    Args:
        gaps: certified gap of each pair by `partitions.pair_key`, as far as one is known.
    """
    rows = []
    for pair in pairs:
        value = pair.matching["similarity"]
        rows.append(
            {
                "layer_a": pair.a,
                "layer_b": pair.b,
                "site": site(pair.a),
                "matched": len(value),
                "left_over": len(pair.left_over),
                "mean": value.mean(),
                "lower_quartile": value.quantile(0.25, "linear"),
                "median": value.median(),
                "upper_quartile": value.quantile(0.75, "linear"),
                "mutual_nearest": pair.matching["mutual_nearest"].mean(),
                "certified_gap": gaps.get(pair_key(pair.a, pair.b)),
            }
        )
    return conform(pl.DataFrame(rows), SIMILARITY_OF_PAIRS) if rows else pl.DataFrame(schema=SIMILARITY_OF_PAIRS)


def site(layer: str) -> str:
    """What kind of place a layer reads: its key without numbers of layers. `layers.8.mlp` and `layers.9.mlp` are one."""
    return re.sub(r"\.\d+(?=\.|@|:|$)", "", layer)


def tables_of_pairs(
    pairs: Sequence[Pair], overlaps: dict[tuple[str, str], pl.DataFrame], gaps: dict[str, float]
) -> dict[str, pl.DataFrame]:
    """The tables behind this part, by name: `pairs`, `overlap` and `chains`."""
    named = (frame.with_columns(layer_a=pl.lit(a), layer_b=pl.lit(b)) for (a, b), frame in overlaps.items())
    empty = pl.DataFrame(schema=OVERLAP_OF_PAIRS)
    return {
        "pairs": similarity_of_pairs(pairs, gaps),
        "overlap": pl.concat([empty, *(conform(each, OVERLAP_OF_PAIRS) for each in named)]),
        "chains": chains(list(pairs)),
    }


def section(pairs: Sequence[Pair], tables: dict[str, pl.DataFrame], environment: Environment) -> Markup:
    """This part of the page; empty where no pair was matched."""
    if not pairs:
        return Markup("")
    flows = [
        {
            "title": " → ".join([row[0].a, *(pair.b for pair in row)]),
            "picture": flow(row, tables["chains"].filter(row=number)),
        }
        for number, row in enumerate(families(list(pairs)))
    ]
    nothing = tables["overlap"].filter(matching="optimal", statistic="mean_cosine", n_latents=0)
    names = ("layer_a", "layer_b", "explainer")
    overlap = tables["overlap"].join(nothing, on=names, how="anti", maintain_order="left")
    return Markup(  # noqa: S704 - the template escapes what it is given
        environment.get_template("alignment.html.j2").render(
            similarity=similarities(pairs),
            pairs=tables["pairs"].to_dicts(),
            overlap=overlap.to_dicts(),
            overlaps=overlap_picture(overlap) if len(overlap) else None,
            nothing_explained=nothing.select(names).to_dicts(),
            persistence=persistence(tables["chains"]) if len(tables["chains"]) else None,
            flows=flows,
            strongest=STRONGEST,
        )
    )


def similarities(pairs: Sequence[Pair]) -> Markup:
    """One violin for each pair; pairs of one site side by side, in their own colour."""
    sites = list(dict.fromkeys(site(pair.a) for pair in pairs))
    ordered = [pair for each in sites for pair in pairs if site(pair.a) == each]
    figure = Figure(figsize=(1.8 + 1.3 * len(ordered), 2.9), layout="constrained")
    axes = figure.subplots()
    for place, pair in enumerate(ordered):
        values = pair.matching["similarity"].to_numpy()
        if len(values) >= 2 and values.std() > 0:
            body: Any = axes.violinplot(values, positions=[place], widths=0.7, showextrema=False)["bodies"]
            body[0].set(facecolor=f"C{sites.index(site(pair.a))}", alpha=0.5, edgecolor="none")
        if len(values):
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            axes.plot([place] * 2, [low, high], color="#1c1c1c", linewidth=2.5, solid_capstyle="butt")
            axes.plot([place - 0.12, place + 0.12], [middle] * 2, color="#1c1c1c", linewidth=1.4)
    axes.set_xticks(range(len(ordered)), [f"{pair.a}\n{pair.b}" for pair in ordered], fontsize=8)
    axes.set_ylabel("similarity of matches")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def overlap_picture(overlap: pl.DataFrame) -> Markup:
    """Mean cosine of explanations of matched latents with its interval: the matching, the greedy one, random ones."""
    rows = overlap.filter(statistic="mean_cosine")
    groups = rows.select("layer_a", "layer_b", "explainer").unique(maintain_order=True)
    figure = Figure(figsize=(1.8 + 1.6 * len(groups), 2.9), layout="constrained")
    axes = figure.subplots()
    for shift, (name, color) in zip(
        (-0.2, 0, 0.2), (("optimal", REAL), ("greedy", "#7fb08a"), ("random", CONTROL)), strict=True
    ):
        for place, group in enumerate(groups.iter_rows(named=True)):
            for row in rows.filter(matching=name, **group).drop_nulls("value").iter_rows(named=True):
                axes.scatter(place + shift, row["value"], color=color, s=26, label=name if place == 0 else None)
                if row["low"] is not None:
                    axes.plot([place + shift] * 2, [row["low"], row["high"]], color=color, linewidth=2)
    labels = [f"{group['layer_a']}\n{group['layer_b']}\n{group['explainer']}" for group in groups.iter_rows(named=True)]
    axes.set_xticks(range(len(groups)), labels, fontsize=8)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylabel("cosine of explanations")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def persistence(table: pl.DataFrame) -> Markup:
    """How many chains go through how many layers."""
    lengths = table.filter(step=1)["length"].value_counts().sort("length")
    figure = Figure(figsize=(3.6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(lengths["length"].to_numpy(), lengths["count"].to_numpy(), color=REAL, width=0.7)
    axes.set_xticks(lengths["length"].to_list())
    axes.set_xlabel("layers that a latent persists")
    axes.set_ylabel("latents")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def flow(row: Sequence[Pair], table: pl.DataFrame) -> Markup:
    """The longest chains of some layers, of these the most similar ones, drawn from layer to layer: the darker, the more
    similar. A plus marks a latent that splits.

    Args:
        table: `tables.CHAINS` of these pairs.
    """
    layers = [row[0].a, *(pair.b for pair in row)]
    order = table.group_by("chain").agg(pl.first("length"), pl.mean("similarity")).filter(pl.col("length") > 1)
    strongest = order.sort(["length", "similarity", "chain"], descending=[True, True, False])["chain"].head(STRONGEST)
    figure = Figure(figsize=(2.0 + 1.7 * len(layers), 0.5 + 0.13 * max(len(strongest), 4)), layout="constrained")
    axes = figure.subplots()
    for height, chain in enumerate(strongest):
        steps = table.filter(chain=chain).sort("step").to_dicts()
        for step in steps:
            x = layers.index(step["layer"])
            axes.text(
                x, -height, str(step["latent"]) + (" +" if step["splits"] else ""), ha="center", va="center", fontsize=6
            )
            if step["similarity"] is not None:
                ribbon(axes, x - 1, x, -height, step["similarity"])
    axes.set_xticks(range(len(layers)), layers, fontsize=8)
    axes.set_xlim(-0.4, len(layers) - 0.6)
    axes.set_ylim(-max(len(strongest), 1), 1)
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return svg(figure)


def ribbon(axes: Axes, left: float, right: float, height: float, similarity: float) -> None:
    path = Curve([(left + 0.17, height), (right - 0.17, height)])
    width = 0.6 + 3.4 * max(0.0, min(1.0, similarity))
    axes.add_patch(
        PathPatch(path, edgecolor=REAL, linewidth=width, alpha=0.15 + 0.7 * max(0.0, min(1.0, similarity)), fill=False)
    )
