"""What gives each kind of negative away, on latents of the demo's SAE: how it looks, where it stands, how often one window
serves, and what an explanation scores on it beside another latent's.

    python -m benchmarks.negatives [--quick] [--study FILE] [--layer KEY]

Of a study's own settings those of the subject model, SAEs, corpus, latents and embedding scorer are taken, and its storage:
where its activations have been collected they are read. --quick collects those of a small part of the demo's text in float32.
Beside similar_text stands the way that finds hubs, one query for each latent. Intervals are 95 %, over latents.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl

from benchmarks.audit import Estimate, mean_of, surface, told_apart, use_of_windows
from benchmarks.measuring import show
from interp_assets.activations.cache_file import CacheReader
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.rendering import Rendering
from interp_assets.examples.windows import for_explaining
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
            of_kind = with_negatives(study, test)
            made = tables(of_kind, models)
            audit(name, of_kind, made)
            if "text_index" in made:
                show_look("similar_text_by_mean_query", of_kind, nearest_to_the_mean(of_kind, made))


def small(study: Study, folder: str) -> Study:
    subject = study.subject_model.model_copy(update={"dtype": "float32"})
    corpus = study.corpus.model_copy(update={"tokens": 48 * study.corpus.context_length})
    examples = study.examples.model_copy(update={"min_windows": 24, "latents": 100})
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


def audit(name: str, study: Study, made: dict[str, Partition]) -> None:
    """Print what the tables of a study show of its one kind of negative."""
    examples = made["examples"].read("examples").filter(purpose="test", status="ok")
    negatives = examples.filter(pl.col("kind") != "activating")
    show(f"{name}_latents", examples["latent"].n_unique())
    show_look(name, study, examples)
    show(
        f"{name}_windows_not_filled",
        study.examples.test.non_activating * examples["latent"].n_unique() - len(negatives),
    )
    scores = made["scores/embedding"].read("scores").filter(statistic="auroc")
    wide = scores.pivot(on="control", index="latent", values="value").sort("latent")
    own, shuffled = wide["none"].drop_nulls().to_numpy(), wide["shuffled"].drop_nulls().to_numpy()
    show_estimate(f"{name}_own_explanation_embedding_auroc", mean_of(own))
    show_estimate(f"{name}_shuffled_control_embedding_auroc", mean_of(shuffled))
    apart = (wide["none"] - wide["shuffled"]).drop_nulls().to_numpy()
    show_estimate(f"{name}_own_above_shuffled_embedding_auroc", mean_of(apart))


def show_look(name: str, study: Study, examples: pl.DataFrame) -> None:
    """How well test windows are told apart by how they look and where they stand, and how often negatives serve.

    Args:
        examples: test rows of the examples table.
    """
    activating, latent = (examples["kind"] == "activating").to_numpy(), examples["latent"].to_numpy()
    rendering = Rendering.of(study)
    texts = rendering.texts([rendering.window(*each) for each in examples.select("tokens", "start").iter_rows()])
    show_estimate(f"{name}_surface_auroc", told_apart(surface(texts), activating, latent))
    show_estimate(f"{name}_start_auroc", told_apart(examples.select("start").to_numpy(), activating, latent))
    used = use_of_windows(examples.filter(~activating))
    show(f"{name}_windows", used.rows)
    show(f"{name}_windows_distinct", used.windows)
    show(f"{name}_latents_of_one_window_at_most", used.most)


def nearest_to_the_mean(study: Study, made: dict[str, Partition]) -> pl.DataFrame:
    """Test rows with the negatives that a simpler way finds: nearest to the mean of a latent's explain windows.

    Those of its explain windows that are in the index make the query.
    """
    examples = made["examples"].read("examples").filter(status="ok")
    index = made["text_index"].read("windows")
    tokens = tokens_matrix(made["corpus"].read("corpus", ["tokens"]))
    vectors = index["vector"].explode().to_numpy().reshape(len(index), -1)
    context, start = (index[name].to_numpy().astype(np.int64) for name in ("context", "start"))
    number, window = index.select("context", "start").with_row_index("entry"), study.examples.window
    explain = examples.filter(purpose="explain").join(number, on=["context", "start"])
    cache, rows = CacheReader(made["activation_cache"]), []
    for (latent,), group in explain.group_by("latent", maintain_order=True):
        fires = np.zeros(tokens.shape, dtype=bool)
        entries = cache.latent(int(str(latent)))
        fires[entries.context, entries.position] = True
        silent = ~np.lib.stride_tricks.sliding_window_view(fires, window, axis=1)[context, start].any(axis=1)
        usable = silent & ~for_explaining(study.examples.seed, np.array(int(str(latent))), context)
        near = np.where(usable, vectors @ vectors[group["entry"].to_numpy()].mean(axis=0), -np.inf)
        nearest = np.argsort(-near, kind="stable")[: study.examples.test.non_activating]
        rows.append(index.select("context", "start")[nearest].with_columns(latent=pl.lit(latent, pl.UInt32)))
    found = pl.concat(rows)
    text = np.lib.stride_tricks.sliding_window_view(tokens, window, axis=1)[found["context"], found["start"]]
    found = found.with_columns(tokens=pl.Series(text).arr.to_list(), kind=pl.lit("nearest to the mean"))
    activating = examples.filter(purpose="test", kind="activating")
    return pl.concat([activating.select(found.columns), found])


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
