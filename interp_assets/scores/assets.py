"""scores/<method>: how well explanations predict what latents do. Trials, and a score for each latent."""

from __future__ import annotations

from typing import Any

import polars as pl

from interp_assets.job import Job, Metadata, computes, failed_rows, not_asked
from interp_assets.layer_sae import sae_of, subject_of
from interp_assets.metering import meter
from interp_assets.models import embedder, engine, reranker
from interp_assets.progress import Progress
from interp_assets.scores.cacheable import cacheable_share
from interp_assets.scores.comparing import SAME_EMBEDDER, Comparing, chosen_by_its_embedder
from interp_assets.scores.detection import Detection
from interp_assets.scores.embedding import Embedding
from interp_assets.scores.example_embedding import ExampleEmbedding
from interp_assets.scores.fuzzing import Fuzzing
from interp_assets.scores.generation import Generation, add_activations, strongest_of, texts_of
from interp_assets.scores.intervention.stage import write_tables
from interp_assets.scores.intruder import Intruder
from interp_assets.scores.judged import Judged
from interp_assets.scores.method import AskingMethod, Method
from interp_assets.scores.pending import Pending, calibrators, pending
from interp_assets.scores.reading import strongest_on
from interp_assets.scores.reranker import Reranker
from interp_assets.scores.simulation import Simulation
from interp_assets.scores.surprisal import Surprisal
from interp_assets.scores.token_embedding import TokenComparing, TokenEmbedding, TokenFuzzing
from interp_assets.scores.trials import KEYS
from interp_assets.tables import SCORES, calls_behind, conform
from resources.control_tokens import bos_id
from resources.language_models.logged import LoggedEngine
from resources.language_models.protocol import require


@computes("scores/embedding")
def embedding_scores(job: Job) -> Metadata:
    return compared_scores(job, Embedding(job.study))


@computes("scores/example_embedding")
def example_embedding_scores(job: Job) -> Metadata:
    return compared_scores(job, ExampleEmbedding(job.study))


@computes("scores/token_embedding")
def token_embedding_scores(job: Job) -> Metadata:
    return token_scores(job, TokenEmbedding(job.study))


@computes("scores/token_fuzzing")
def token_fuzzing_scores(job: Job) -> Metadata:
    return token_scores(job, TokenFuzzing(job.study))


@computes("scores/reranker")
def reranker_scores(job: Job) -> Metadata:
    method = Reranker(job.study)
    todo = pending(job, method)
    if todo.subjects:
        model = reranker(job.study, method.settings, job.models)
        with Progress(job.label, len(method.pairs(todo.subjects)), "pairs") as progress:
            method.compare(todo.subjects, model, progress.advance)
    return finish(job, todo, method)


@computes("scores/detection")
def detection_scores(job: Job) -> Metadata:
    return judged_scores(job, Detection(job.study))


@computes("scores/fuzzing")
def fuzzing_scores(job: Job) -> Metadata:
    return judged_scores(job, Fuzzing(job.study))


@computes("scores/surprisal")
def surprisal_scores(job: Job) -> Metadata:
    return asked_scores(job, Surprisal(job.study))


@computes("scores/simulation")
def simulation_scores(job: Job) -> Metadata:
    return asked_scores(job, Simulation(job.study))


@computes("scores/generation")
def generation_scores(job: Job) -> Metadata:
    method, study, layer = Generation(job.study), job.study, job.study.layer(job.layer)
    todo = pending(job, method)
    ask_engine(job, method, todo)
    if texts := texts_of(todo.subjects):
        # Only now, so that neither model waits in memory for the other.
        subject, sae = subject_of(study, layer, job.models), sae_of(study, layer, job.models)
        tokenizer, length = method.rendering.tokenizer, study.corpus.context_length
        batch, bos, skip = study.subject_model.batch_tokens, bos_id(tokenizer, study.corpus.bos), study.corpus.left_out
        head = [] if bos is None else [bos]
        with Progress(f"{job.label} read", len(texts), "texts") as progress:
            found = strongest_on(
                texts, tokenizer, head, skip, length, subject, sae, layer.hookpoint, batch, progress.advance
            )
        add_activations(todo.subjects, found, strongest_of(job))
    return finish(job, todo, method) | cacheable_share(study, method.engine, method.requests(todo.subjects))


@computes("scores/intruder")
def intruder_scores(job: Job) -> Metadata:
    return asked_scores(job, Intruder(job.study))


@computes("scores/intervention")
def intervention_scores(job: Job) -> Metadata:
    settings = job.study.scorers.intervention
    assert settings is not None
    return write_tables(job, settings)


def compared_scores(job: Job, method: Comparing[Any]) -> Metadata:
    todo = pending(job, method)
    said = {"same_embedder": SAME_EMBEDDER} if chosen_by_its_embedder(job, method) else {}
    if not todo.subjects:
        return finish(job, todo, method) | {"texts_embedded": 0} | said
    model = embedder(job.study, method.settings, job.models)
    new = model.new(method.texts(todo.subjects))
    with Progress(job.label, new, "texts") as progress:
        method.compare(todo.subjects, model, progress.advance)
    return finish(job, todo, method) | {"texts_embedded": new} | said


def token_scores(job: Job, method: TokenComparing[Any]) -> Metadata:
    todo = pending(job, method)
    if not todo.subjects:
        return finish(job, todo, method) | {"texts_embedded": 0}
    model, reference = embedder(job.study, method.settings, job.models), method.reference_windows(job)
    new = sum(map(len, method.texts(todo.subjects, reference)))
    with Progress(job.label, new, "texts") as progress:
        method.compare(todo.subjects, reference, model, progress.advance)
    return finish(job, todo, method) | {"texts_embedded": new}


def judged_scores(job: Job, method: Judged) -> Metadata:
    sizes = method.settings.list_sizes
    if sizes is None:
        return asked_scores(job, method)
    model, price = able_engine(job, method), job.study.engines[method.engine].price
    some = calibrators(job, method, sizes.latents)
    total = sum(len(subject.trials) for subject in some) * (1 + len(set(sizes.candidates)))
    with Progress(f"{job.label} prompt size", total, "trials", meter(model, price)) as progress:
        found = method.calibrate(some, model, progress.advance)
    job.spent.add(model, price)
    job.draft.write("calibration", found.table)
    calibration = {"calibration": {"table": found.table.to_dicts()}}
    return asked_scores(job, type(method)(job.study, found.settings)) | calibration


def asked_scores(job: Job, method: AskingMethod[Any]) -> Metadata:
    todo = pending(job, method)
    ask_engine(job, method, todo)
    return finish(job, todo, method) | cacheable_share(job.study, method.engine, method.requests(todo.subjects))


def able_engine(job: Job, method: AskingMethod[Any]) -> LoggedEngine:
    """
    Raises:
        UnusableInput: the engine cannot do what the method asks.
    """
    model = engine(job, method.engine)
    for verb in method.verbs:
        require(model, verb, f"scorers.{method.name}.engine")
    return model


def ask_engine(job: Job, method: AskingMethod[Any], todo: Pending) -> None:
    model, price = able_engine(job, method), job.study.engines[method.engine].price
    total = sum(len(subject.trials) for subject in todo.subjects)
    with Progress(job.label, total, "trials", meter(model, price)) as progress:
        method.ask(todo.subjects, model, progress.advance)
    job.spent.add(model, price)
    job.spent.replies_reused += len(calls_behind(todo.kept_trials))


def finish(job: Job, todo: Pending, method: Method[Any]) -> Metadata:
    rows = [row for subject in todo.subjects for row in subject.rows]
    # Without a single explanation the tables are empty: why is told in `explanations`.
    made = pl.DataFrame(rows, schema=None if rows else method.schema, infer_schema_length=None)
    made = conform(made.drop("inputs_hash", strict=False), method.schema).drop("inputs_hash")
    new_trials = made.join(todo.new, on=KEYS, how="left")
    trials = pl.concat([todo.kept_trials, conform(new_trials, method.schema)])
    trials = trials.sort("explainer", "control", "latent", "expected", "example")
    # All anew, carried-over trials included: how often a latent fires may have changed though its windows have not.
    table = method.scores(job, todo, trials).drop("inputs_hash")
    hashes = trials.select(*KEYS, "inputs_hash").unique()
    table = conform(table.join(hashes, on=KEYS, how="left", maintain_order="left"), SCORES)
    job.draft.write("trials", trials)
    job.draft.write("scores", table)
    means = (
        table.group_by("statistic", "explainer", "control")
        .agg(mean=pl.col("value").mean().round(4), latents=pl.col("value").count())
        .sort(pl.all())
    )
    statuses = dict(trials["status"].value_counts().iter_rows())
    left_out = trials.filter(status="left_out")["reason"].value_counts(name="trials")
    return {
        "means": {"table": means.to_dicts()},
        "trials": len(trials),
        "trials_failed": statuses.get("failed", 0),
        "trials_left_out": statuses.get("left_out", 0),
        "left_out_why": {"table": left_out.sort("trials", "reason", descending=[True, False]).to_dicts()},
        "failed_rows": failed_rows(trials),
        "not_asked": not_asked(trials),
        "explanations_tested": len(todo.new),
        "explanations_carried_over": todo.kept_scores.select(KEYS).n_unique(),
    }
