"""The report as one HTML page that needs nothing beside it. All text is escaped; no scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from interp_assets.examples.rendering import Rendering
from interp_assets.layers import CONTROLS, control_in
from interp_assets.means import FEWEST
from interp_assets.report import alignment
from interp_assets.report.correlations import scored_by_both
from interp_assets.report.costs import PER, per_latent
from interp_assets.report.evidence import Evidence, Tables
from interp_assets.report.figures import decile_curves, scatter, score_distributions
from interp_assets.report.gallery import best_and_worst, failures
from interp_assets.report.gaps import Gap
from interp_assets.report.headline import HEADLINE, STATISTICS, explained, headlines
from interp_assets.report.summary import shortfalls_of
from interp_assets.report.verdicts import Difference, how_many, scored
from interp_assets.scores.comparing import SAME_EMBEDDER

Rows = list[dict[str, Any]]


def render(evidence: Evidence, tables: Tables, rendering: Rendering) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("interp_assets.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    scores, shown = evidence.scores, (evidence.explanations, evidence.examples, evidence.nearest, rendering)
    return environment.get_template("report.html.j2").render(
        name=evidence.name,
        layers=evidence.layers,
        calibrations=evidence.calibrations,
        sequential=sorted(set(scores.filter(pl.col("condition") == "sequential")["method"])),
        short=in_short(tables.differences),
        how_many=how_many(tables.differences),
        fewest=FEWEST,
        control_kinds=[kind for kind in CONTROLS if any(control_in(d.control) == kind for d in tables.differences)],
        sections=sections(evidence, tables),
        nothing_scored=[each.sentence() for each in tables.gaps if each.explainer is None],
        deciles=decile_sections(tables.by_decile),
        negatives=beside_controls(tables.by_negatives),
        same_embedder=evidence.same_embedder,
        said_of_same_embedder=SAME_EMBEDDER,
        correlations=matrix(tables.correlations),
        effects=against_fuzzing(scores),
        failures=failures(scores, *shown),
        rows=tables.report.to_dicts(),
        outcomes=tables.outcomes.to_dicts(),
        costs=per_latent(tables.costs),
        per=PER,
        count_names=list(dict.fromkeys(key for found in evidence.counts.values() for key in found)),
        layer_counts=evidence.counts,
        proofs=evidence.proofs,
        shortfalls=shortfalls_of(evidence.shortfalls),
        problems=evidence.problems,
        latents=best_and_worst(scores, *shown),
        alignment=alignment.section(evidence.pairs, evidence.of_pairs, environment),
    )


def sections(evidence: Evidence, tables: Tables) -> Rows:
    found = []
    for (method, explainer), rows in evidence.scores.group_by("method", "explainer", maintain_order=True):
        statistic = STATISTICS[HEADLINE.get(str(method), "auroc")]
        shown = headlines(rows)
        found.append(
            {
                "title": scored(str(method), str(explainer)),
                "statistic": statistic.title,
                "picture": score_distributions(shown, evidence.layers, statistic) if len(shown) else None,
                "share_yes": shares_of_yes(rows),
                "differences": [d for d in tables.differences if (d.method, d.explainer) == (method, explainer)],
                "gaps": layers_by_reason(g for g in tables.gaps if (g.method, g.explainer) == (method, explainer)),
            }
        )
    return found


def shares_of_yes(scores: pl.DataFrame) -> Rows:
    """By layer, of the explanations themselves, where a judge said Yes or No."""
    said = scores.filter((pl.col("statistic") == "share_yes") & (pl.col("control") == "none"))
    by_layer = said.group_by("layer", maintain_order=True).agg(share=pl.col("value").mean())
    return by_layer.drop_nulls().to_dicts()


def layers_by_reason(gaps: Iterable[Gap]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in gaps:
        found.setdefault(each.reason, []).append(each.layer)
    return found


def in_short(differences: Sequence[Difference]) -> Rows:
    """For each method and explainer in how many layers of SAEs it lies above its shuffled control and above others."""
    found: dict[str, dict[str, list[Difference]]] = {}
    for each in differences:
        if control_in(each.layer) is None:
            kind = control_in(each.control) or each.control
            found.setdefault(scored(each.method, each.explainer), {}).setdefault(kind, []).append(each)
    return [
        {"title": title, "against": {kind: tally(each) for kind, each in by.items()}} for title, by in found.items()
    ]


def tally(differences: Sequence[Difference]) -> str:
    judged = [each for each in differences if each.comparable]
    if not judged:
        return "too few latents"
    above = sum(each.above_control for each in judged)
    if above == len(judged):
        return "above" if above == 1 else f"above in all {above}"
    return "not shown" if above == 0 else f"above in {above} of {len(judged)}"


def decile_sections(table: pl.DataFrame) -> Rows:
    return [
        {
            "method": method,
            "explainer": explainer,
            "statistic": STATISTICS[str(statistic)].title,
            "picture": decile_curves(rows, STATISTICS[str(statistic)]),
        }
        for (method, explainer, statistic), rows in table.group_by(
            "method", "explainer", "statistic", maintain_order=True
        )
    ]


def beside_controls(table: pl.DataFrame) -> Rows:
    """Rows of `tables.BY_NEGATIVES` of explanations, each with that of its shuffled control; none where all are random."""
    if set(table["kind"]) <= {"random"}:
        return []
    keys = ["method", "explainer", "statistic", "kind"]
    own, shuffled = (table.filter(control=control) for control in ("none", "shuffled"))
    both = own.join(shuffled.select(*keys, "value", "low", "high"), on=keys, how="left", suffix="_shuffled")
    rows = both.sort(keys).to_dicts()
    return [
        row | {"title": scored(row["method"], row["explainer"]), "statistic": STATISTICS[row["statistic"]].title}
        for row in rows
    ]


def matrix(correlations: pl.DataFrame) -> dict[str, Any]:
    """Names, and for each pair of names what stands in its cell: Spearman above the diagonal, Pearson below."""
    names = sorted(set(correlations["score"]) | set(correlations["other"]))
    cells = {}
    for row in correlations.iter_rows(named=True):
        pair = names.index(row["score"]), names.index(row["other"])
        for kind, place in (("spearman", pair), ("pearson", pair[::-1])):
            r, low, high = (row[f"{kind}{part}"] for part in ("", "_low", "_high"))
            cells[place] = {"kind": kind, "r": r, "low": low, "high": high, "n": row["n_latents"]}
    return {"names": names, "cells": cells}


def against_fuzzing(scores: pl.DataFrame) -> Rows:
    """One scatter for each condition of the intervention, over latents with both scores."""
    found, pictures = explained(scores), []
    for condition in sorted(name for name in set(found["score"]) if name.startswith("intervention")):
        pairs = scored_by_both(found, "fuzzing", condition)
        if len(pairs) >= 2:
            picture, fit = scatter(pairs["value"].to_numpy(), pairs["value_other"].to_numpy(), "fuzzing", condition)
            pictures.append({"condition": condition, "n": len(pairs), "fit": fit, "picture": picture})
    return pictures
