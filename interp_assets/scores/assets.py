"""scores/<method>: how well explanations predict what latents do. Trials, and a score for each latent."""

from __future__ import annotations

import polars as pl

from interp_assets.examples.rendering import Rendering
from interp_assets.job import Job, Metadata, computes, failed_rows, not_asked
from interp_assets.metering import meter
from interp_assets.models import embedder, engine
from interp_assets.progress import Progress
from interp_assets.scores.cacheable import cacheable_share
from interp_assets.scores.calibration import calibrate
from interp_assets.scores.embedding import compare, distinct_texts
from interp_assets.scores.intervention.stage import write_tables
from interp_assets.scores.judging import judge, requests
from interp_assets.scores.pending import KEYS, Pending, calibrators, pending
from interp_assets.scores.population import Population
from interp_assets.scores.sequential import anytime, judge_in_rounds
from interp_assets.scores.statistics import scores
from interp_assets.scores.wording import wording_of
from interp_assets.settings import JudgeScorer
from interp_assets.tables import SCORES, TRIALS, calls_behind, conform


@computes("scores/embedding")
def embedding_scores(job: Job) -> Metadata:
    settings = job.study.scorers.embedding
    assert settings is not None
    rendering = Rendering.of(job.study)
    todo = pending(job, "embedding")
    if not todo.subjects:
        return finish(job, todo) | {"texts_embedded": 0}
    model = embedder(job.study, settings, job.models)
    new = model.new(distinct_texts(todo.subjects, settings.instruction, rendering))
    with Progress(job.label, new, "texts") as progress:
        compare(todo.subjects, settings.instruction, model, rendering, progress.advance)
    return finish(job, todo) | {"texts_embedded": new}


@computes("scores/detection")
def detection_scores(job: Job) -> Metadata:
    return judged_scores(job, "detection", job.study.scorers.detection)


@computes("scores/fuzzing")
def fuzzing_scores(job: Job) -> Metadata:
    return judged_scores(job, "fuzzing", job.study.scorers.fuzzing)


@computes("scores/intervention")
def intervention_scores(job: Job) -> Metadata:
    settings = job.study.scorers.intervention
    assert settings is not None
    return write_tables(job, settings)


def judged_scores(job: Job, method: str, settings: JudgeScorer | None) -> Metadata:
    assert settings is not None
    model, price = engine(job, settings.engine), job.study.engines[settings.engine].price
    wording, rendering, seed = wording_of(method, settings), Rendering.of(job.study), job.study.examples.seed
    calibration: Metadata = {}
    if sizes := settings.list_sizes:
        some = calibrators(job, method, sizes.latents)
        total = sum(len(subject.trials) for subject in some) * (1 + len(set(sizes.candidates)))
        with Progress(f"{job.label} prompt size", total, "trials", meter(model, price)) as progress:
            found = calibrate(some, wording, settings, model, rendering, seed, progress.advance)
        job.draft.write("calibration", found.table)
        calibration = {"calibration": {"table": found.table.to_dicts()}}
        settings = found.settings
    todo = pending(job, method, settings)
    total = sum(len(subject.trials) for subject in todo.subjects)
    ask = judge_in_rounds if settings.sequential else judge
    with Progress(job.label, total, "trials", meter(model, price)) as progress:
        ask(todo.subjects, wording, settings, model, rendering, seed, progress.advance)
    job.spent.add(model, price)
    job.spent.replies_reused += len(calls_behind(todo.kept_trials))
    asked = requests(todo.subjects, wording, settings, rendering, seed)
    shares = cacheable_share(job.study, settings.engine, asked)
    return finish(job, todo, settings.sequential is not None) | calibration | shares


def finish(job: Job, todo: Pending, in_rounds: bool = False) -> Metadata:
    rows = [row for subject in todo.subjects for row in subject.rows]
    # Without a single explanation the tables are empty: why is told in `explanations`.
    made = pl.DataFrame(rows, schema=None if rows else TRIALS, infer_schema_length=None)
    made = conform(made.drop("inputs_hash", strict=False), TRIALS).drop("inputs_hash")
    new_trials = made.join(todo.new, on=KEYS, how="left")
    trials = pl.concat([todo.kept_trials, conform(new_trials, TRIALS)])
    trials = trials.sort("explainer", "control", "latent", "expected", "example")
    # All anew, carried-over trials included: how often a latent fires may have changed though its windows have not.
    table = scores(trials, Population.of(job, job.asset.name.split("/")[1])).drop("inputs_hash")
    hashes = trials.select(*KEYS, "inputs_hash").unique()
    table = conform(table.join(hashes, on=KEYS, how="left", maintain_order="left"), SCORES)
    if in_rounds:
        table = anytime(table, todo.subjects, todo.kept_scores)
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
        "failed_rows": failed_rows(trials),
        "not_asked": not_asked(trials),
        "explanations_tested": len(todo.new),
        "explanations_carried_over": todo.kept_scores.select(KEYS).n_unique(),
    }
