"""score_report: all layers and methods beside their controls, as one page and one table."""

from __future__ import annotations

import polars as pl

from interp_assets.examples.rendering import Rendering
from interp_assets.freshness import partition_label
from interp_assets.job import Job, Metadata, computes
from interp_assets.report.page import best_and_worst, render
from interp_assets.report.summary import against_control, counts, summarise
from interp_assets.tables import SCORES
from resources.table_store import Partition


@computes("score_report")
def score_report(job: Job) -> Metadata:
    study = job.study
    layers = [layer.key for layer in study.layers]
    problems = {
        state.label: "; ".join(state.reasons)
        for state in job.freshness.states(until=job.asset.name)
        if state.state in ("failed", "blocked", "missing")
    }

    def table(asset: str, layer: str, name: str) -> pl.DataFrame | None:
        partition: Partition | None = job.freshness.current(asset, layer)
        if partition is None or partition_label(asset, layer) in problems or name not in partition.tables:
            return None
        return partition.read(name)

    scores, calibrations = [], []
    for method in study.scorers.chosen():
        for layer in layers:
            found = table(f"scores/{method}", layer, "scores")
            if found is not None:
                scores.append(found.with_columns(layer=pl.lit(layer), method=pl.lit(method)))
            if (sizes := table(f"scores/{method}", layer, "calibration")) is not None:
                told = sizes.drop("tokens_per_trial").to_dicts()
                calibrations.append({"method": method, "layer": layer, "sizes": told})
    empty = pl.DataFrame(schema={**SCORES, "layer": pl.String, "method": pl.String})
    all_scores = pl.concat([empty, *scores])
    explanations = {
        layer: found for layer in layers if (found := table("explanations", layer, "explanations")) is not None
    }
    examples = {layer: found for layer in layers if (found := table("examples", layer, "examples")) is not None}
    layer_counts = {
        layer: counts(table("latent_statistics", layer, "statistics"), examples.get(layer), explanations.get(layer))
        for layer in layers
    }
    shown = best_and_worst(all_scores, explanations, examples, Rendering.of(study))
    job.draft.write_text(
        "page", "html", render(study.name, layers, all_scores, layer_counts, problems, shown, calibrations)
    )
    job.draft.write("report", summarise(all_scores))
    page = job.draft.folder / job.draft.tables["page"]["files"][0]
    sentences = [difference.sentence() for difference in against_control(all_scores)]
    return {
        "page": {"path": str(page)},
        "in_words": {"markdown": "\n".join(f"- {sentence}" for sentence in sentences) or "no scores"},
        "layers_with_scores": len(set(all_scores["layer"])),
        "problems": len(problems),
    }
