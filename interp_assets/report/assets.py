"""score_report: all layers and methods beside their controls, as one page and the tables behind it."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from interp_assets.asset import TOKEN_COLUMNS
from interp_assets.examples.rendering import Rendering
from interp_assets.freshness import partition_label
from interp_assets.job import Inputs, Job, Metadata, computes
from interp_assets.partitions import layer_pairs, pair_key
from interp_assets.report.alignment import tables_of_pairs
from interp_assets.report.chains import Pair
from interp_assets.report.evidence import (
    EFFECTS_READ,
    OF_TRIALS,
    TRIALS_READ,
    Evidence,
    Tables,
    by_layer,
    of_methods,
    scores_of,
    tables_of,
)
from interp_assets.report.gallery import nearest_tokens
from interp_assets.report.page import render
from interp_assets.report.summary import counts
from interp_assets.report.verdicts import how_many
from interp_assets.study import Study
from interp_assets.tables import SHORTFALLS
from resources.partition_files import Partition


@computes("score_report")
def score_report(job: Job) -> Metadata:
    evidence = gathered(job)
    tables = tables_of(evidence, job.study)
    job.draft.write_text("page", "html", render(evidence, tables, Rendering.of(job.study)))
    for name, frame in (tables.frames() | evidence.of_pairs).items():
        job.draft.write(name, frame)
    page = job.draft.folder / job.draft.tables["page"]["files"][0]
    return {
        "page": {"path": str(page)},
        "in_words": {"markdown": in_words(tables)},
        "verdicts": how_many(tables.differences),
        "layers_with_scores": evidence.scores.filter(pl.col("value").is_not_null())["layer"].n_unique(),
        "problems": len(evidence.problems),
    }


def in_words(tables: Tables) -> str:
    """A line for each score: how far it lies above its control, or why that cannot be told."""
    sentences = [each.sentence() for each in tables.differences] + [each.sentence() for each in tables.gaps]
    return "\n".join(f"- {sentence}" for sentence in sentences) or "no scores"


def gathered(job: Inputs) -> Evidence:
    """What there is: whatever failed or is missing is told, not waited for."""
    study, layers = job.study, [layer.key for layer in job.study.layers]
    problems = {
        state.label: "; ".join(state.reasons)
        for state in job.freshness.states(until=job.asset.name)
        if state.state in ("failed", "blocked", "missing")
    }

    def partition(asset: str, key: str) -> Partition | None:
        return None if partition_label(asset, key) in problems else job.freshness.current(asset, key)

    def table(asset: str, layer: str, name: str, columns: list[str] | None = None) -> pl.DataFrame | None:
        found = partition(asset, layer)
        return None if found is None or name not in found.tables else found.read(name, columns)

    scores, trials, calibrations, same_embedder = {}, {}, [], list[str]()
    for method in study.scorers.chosen():
        of_layers = [partition(f"scores/{method}", layer) for layer in layers]
        if any(found is not None and "same_embedder" in found.metadata for found in of_layers):
            same_embedder.append(method)
        for layer in layers:
            if (found := table(f"scores/{method}", layer, "scores")) is not None:
                scores[method, layer] = found
            if (asked := table(f"scores/{method}", layer, "trials", list(OF_TRIALS))) is not None:
                trials[method, layer] = asked
            if (sizes := table(f"scores/{method}", layer, "calibration")) is not None:
                told = sizes.drop("tokens_per_trial").to_dicts()
                calibrations.append({"method": method, "layer": layer, "sizes": told})
    explanations = {
        layer: found for layer in layers if (found := table("explanations", layer, "explanations")) is not None
    }
    examples = {layer: found for layer in layers if (found := table("examples", layer, "examples")) is not None}
    nearest = {
        layer: nearest_tokens(found)
        for layer in layers
        if study.scorers.token_embedding is not None
        and (found := table("scores/token_embedding", layer, "trials", list(TOKEN_COLUMNS))) is not None
    }
    effects = {
        layer: found
        for layer in layers
        if study.scorers.intervention is not None
        and (found := table("scores/intervention", layer, "effects", list(EFFECTS_READ))) is not None
    }
    layer_counts = {
        layer: counts(
            table("latent_statistics", layer, "statistics"),
            examples.get(layer),
            explanations.get(layer),
            table("examples", layer, "latents", ["windows", "repeated"]),
        )
        for layer in layers
    }
    proofs = {
        layer: proof
        for layer in layers
        if (cache := partition("activation_cache", layer)) is not None
        and "dimension_fvu" in (proof := cache.metadata.get("proof", {}))
    }
    short = {layer: found for layer in layers if (found := table("examples", layer, "shortfalls")) is not None}
    pairs, of_pairs = gathered_pairs(study, partition)
    all_scores, all_trials = scores_of(scores), of_methods(trials, TRIALS_READ)
    return Evidence(
        study.name,
        layers,
        all_scores,
        all_trials,
        explanations,
        examples,
        layer_counts,
        problems,
        list(scores),
        calibrations,
        effects,
        pairs,
        of_pairs,
        proofs,
        by_layer(short, SHORTFALLS),
        same_embedder,
        nearest,
    )


def gathered_pairs(
    study: Study, partition: Callable[[str, str], Partition | None]
) -> tuple[list[Pair], dict[str, pl.DataFrame]]:
    """The pairs of layers that were matched, and the tables behind the part about them."""
    pairs, overlaps, gaps = [], {}, {}
    for a, b in layer_pairs(study):
        key = pair_key(a, b)
        if (found := partition("layer_matching", key)) is None:
            continue
        pairs.append(Pair(a, b, *(found.read(name) for name in ("matching", "left_over", "next_best"))))
        if (gap := found.metadata.get("certified_gap")) is not None:
            gaps[key] = gap
        if study.scorers.embedding is not None and (overlap := partition("semantic_overlap", key)) is not None:
            overlaps[a, b] = overlap.read("overlap")
    return pairs, tables_of_pairs(pairs, overlaps, gaps) if pairs else {}
