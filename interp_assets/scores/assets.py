"""scores/<method>: how well explanations predict what latents do. Trials, and a score for each latent."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import polars as pl

from interp_assets.examples.rendering import Rendering
from interp_assets.job import Job, Metadata, computes
from interp_assets.models import embedder, engine
from interp_assets.progress import Progress
from interp_assets.scores import detection, fuzzing
from interp_assets.scores.embedding import compare, distinct_texts
from interp_assets.scores.judging import judge
from interp_assets.scores.statistics import scores
from interp_assets.scores.trials import Subject, TestExample, Trial, explanations_under_test, test_examples
from interp_assets.settings import EmbeddingScorer, JudgeScorer
from interp_assets.tables import TRIALS, conform


@computes("scores/embedding")
def embedding_scores(job: Job) -> Metadata:
    settings = job.study.scorers.embedding
    assert settings is not None
    rendering = Rendering.of(job.study)
    subjects = under_test(job, settings, lambda latent, examples: detection.trials(examples))
    model = embedder(job.study, settings, job.models)
    new = model.new(distinct_texts(subjects, settings.instruction, rendering))
    with Progress(job.label, new, "texts") as progress:
        compare(subjects, settings.instruction, model, rendering, progress.advance)
    return finish(job, subjects) | {"texts_embedded": new}


@computes("scores/detection")
def detection_scores(job: Job) -> Metadata:
    settings = job.study.scorers.detection
    assert settings is not None
    subjects = under_test(job, settings, lambda latent, examples: detection.trials(examples))
    return ask(job, settings, detection, subjects)


@computes("scores/fuzzing")
def fuzzing_scores(job: Job) -> Metadata:
    settings = job.study.scorers.fuzzing
    assert settings is not None
    hidden, seed = Rendering.of(job.study).hidden, job.study.examples.seed

    def trials(latent: int, examples: list[TestExample]) -> list[Trial]:
        return fuzzing.trials(latent, examples, settings.non_activating, settings.mark_threshold, hidden, seed)

    return ask(job, settings, fuzzing, under_test(job, settings, trials))


def ask(job: Job, settings: JudgeScorer, method: ModuleType, subjects: list[Subject]) -> Metadata:
    model = engine(job.study, settings.engine, job.models)
    total = sum(len(subject.trials) for subject in subjects)
    with Progress(job.label, total, "trials") as progress:
        judge(subjects, method, settings, model, Rendering.of(job.study), job.study.examples.seed, progress.advance)
    return finish(job, subjects)


TrialsOf = Callable[[int, list[TestExample]], list[Trial]]
"Makes the trials of a latent from its test examples."


def under_test(job: Job, settings: EmbeddingScorer | JudgeScorer, trials_of: TrialsOf) -> list[Subject]:
    """Every explanation to be scored, with its trials; `trials_of(latent, examples)` makes them once a latent."""
    examples = test_examples(job.input("examples").read("examples"), settings.activating, settings.non_activating)
    explainers = job.study.explainers_of(settings)
    found = []
    trials: dict[int, list[Trial]] = {}
    for latent, explainer, control, text in explanations_under_test(
        job, explainers, settings.shuffled_control, job.study.examples.seed
    ):
        if latent not in trials:
            trials[latent] = trials_of(latent, examples.get(latent, []))
        found.append(Subject(latent, explainer, control, text, trials[latent]))
    return found


def finish(job: Job, subjects: list[Subject]) -> Metadata:
    rows = [row for subject in subjects for row in subject.rows]
    # Without a single explanation the tables are empty: why is told in `explanations`.
    trials = conform(pl.DataFrame(rows, schema=None if rows else TRIALS, infer_schema_length=None), TRIALS)
    trials = trials.sort("explainer", "control", "latent", "expected", "example")
    table = scores(trials)
    job.draft.write("trials", trials)
    job.draft.write("scores", table)
    means = (
        table.group_by("statistic", "explainer", "control")
        .agg(mean=pl.col("value").mean().round(4), latents=pl.len())
        .sort(pl.all())
    )
    statuses = dict(trials["status"].value_counts().iter_rows())
    return {
        "means": {"table": means.to_dicts()},
        "trials": len(trials),
        "trials_failed": statuses.get("failed", 0),
        "trials_left_out": statuses.get("left_out", 0),
        "prompt_tokens": int(trials["prompt_tokens"].sum()),
        "cached_tokens": int(trials["cached_tokens"].sum()),
    }
