"""What gives each kind of negative away, on latents of the demo's SAE: how it looks, where it stands, how often one window
serves, and what an explanation scores on it beside another latent's.

    python -m benchmarks.negatives [--quick] [--study FILE] [--layer KEY]

Of a study's own settings those of the subject model, SAEs, corpus, latents and embedding scorer are taken, and its storage:
where its activations have been collected they are read. --quick collects those of a small part of the demo's text in float32.
Intervals are 95 %, over latents.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from benchmarks.audit import Estimate, mean_of, surface, told_apart, use_of_windows
from benchmarks.measuring import show
from interp_assets.examples.rendering import Rendering
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.partitions import partitions_of
from interp_assets.settings import (
    Controls,
    EmbeddingScorer,
    ExtractiveExplainer,
    NegativeKind,
    Scorers,
    SimilarText,
    TestExamples,
)
from interp_assets.study import PROJECT, Study, load_study
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition

DEMO = PROJECT / "studies" / "smollm2_demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.negatives")
    parser.add_argument("--quick", action="store_true", help="a small part of the demo's text")
    parser.add_argument("--study", type=Path, default=DEMO)
    parser.add_argument("--layer", help="the study's second where left out, or its only one")
    asked = parser.parse_args()
    study = load_study(asked.study)
    layer = asked.layer or [each.key for each in study.layers][:2][-1]
    with tempfile.TemporaryDirectory() as folder:
        study = small(study, folder) if asked.quick else study
        study = study.model_copy(update={"layers": (study.layer(layer),)})
        show("layer", layer)  # type: ignore[arg-type]
        models = LoadedModels()
        for name, test in every_kind(study):
            audit(name, with_negatives(study, test), models)


def small(study: Study, folder: str) -> Study:
    subject = study.subject_model.model_copy(update={"dtype": "float32"})
    corpus = study.corpus.model_copy(update={"tokens": 64 * study.corpus.context_length})
    examples = study.examples.model_copy(update={"min_windows": 30, "latents": 120})
    changes = {"storage": folder, "subject_model": subject, "corpus": corpus, "examples": examples}
    return study.model_copy(update=changes)


def every_kind(study: Study) -> Iterator[tuple[str, TestExamples]]:
    """Every kind of negative that there is, by each measure of similarity that it has, and its settings."""
    drawn = study.examples.test
    for kind in get_args(NegativeKind):
        by = get_args(TestExamples.model_fields["neighbour_by"].annotation) if kind == "neighbour" else ("",)
        for measure in by:
            changes = {"negatives": kind} | ({"neighbour_by": measure} if measure else {})
            yield f"{kind}_{measure}".rstrip("_"), drawn.model_copy(update=changes)


def with_negatives(study: Study, test: TestExamples) -> Study:
    """The study with these negatives, with extractive explanations and embedding scores, and no other."""
    embedding = study.scorers.embedding or EmbeddingScorer(model=str(PROJECT / "demo/weights/all-MiniLM-L6-v2"))
    changes = {
        "activating": test.activating,
        "non_activating": test.non_activating,
        "negatives": None,
        "explainers": None,
    }
    index = study.examples.similar_text or SimilarText(model=embedding.model, dtype=embedding.dtype)
    return study.model_copy(
        update={
            "name": "negatives",
            "examples": study.examples.model_copy(update={"test": test, "similar_text": index}),
            "explainers": {"extractive": ExtractiveExplainer(kind="extractive")},
            "engines": {},
            "scorers": Scorers(embedding=embedding.model_copy(update=changes)),
            "alignment": None,
            "controls": Controls(),
        }
    )


def audit(name: str, study: Study, models: LoadedModels) -> None:
    """Make the tables of a study up to its embedding scores, and print what they show of its one kind of negative."""
    made = tables(study, models)
    examples = made["examples"].read("examples").filter(purpose="test", status="ok")
    activating = (examples["kind"] == "activating").to_numpy()
    rendering, latent = Rendering.of(study), examples["latent"].to_numpy()
    texts = rendering.texts([rendering.window(*each) for each in examples.select("tokens", "start").iter_rows()])
    show(f"{name}_latents", examples["latent"].n_unique())
    show_estimate(f"{name}_surface_auroc", told_apart(surface(texts), activating, latent))
    show_estimate(f"{name}_start_auroc", told_apart(examples.select("start").to_numpy(), activating, latent))
    negatives = examples.filter(~activating)
    used = use_of_windows(negatives)
    show(f"{name}_windows", used.rows)
    show(f"{name}_windows_distinct", used.windows)
    show(f"{name}_latents_of_one_window_at_most", used.most)
    wanted = study.examples.test.non_activating * examples["latent"].n_unique()
    show(f"{name}_windows_not_filled", wanted - used.rows)
    scores = made["scores/embedding"].read("scores").filter(statistic="auroc")
    wide = scores.pivot(on="control", index="latent", values="value").sort("latent")
    own, shuffled = wide["none"].drop_nulls().to_numpy(), wide["shuffled"].drop_nulls().to_numpy()
    show_estimate(f"{name}_own_explanation_embedding_auroc", mean_of(own))
    show_estimate(f"{name}_shuffled_control_embedding_auroc", mean_of(shuffled))
    apart = (wide["none"] - wide["shuffled"]).drop_nulls().to_numpy()
    show_estimate(f"{name}_own_above_shuffled_embedding_auroc", mean_of(apart))


def tables(study: Study, models: LoadedModels) -> dict[str, Partition]:
    made = {}
    for name, asset in Freshness(study).assets.items():
        if name in ("latent_statistics", "score_report"):
            continue
        made[name] = make_partition(study, name, partitions_of(study, asset)[0], models).partition
    return made


def show_estimate(name: str, found: Estimate) -> None:
    show(name, found.value)
    show(f"{name}_low", found.low)
    show(f"{name}_high", found.high)


if __name__ == "__main__":
    main()
