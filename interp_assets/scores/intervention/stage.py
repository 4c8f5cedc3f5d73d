"""The tables of scores/intervention: first all that the subject model does, then the explainer, then the scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from interp_assets.activations.cache_file import CacheReader
from interp_assets.carry_over import still_hold, without
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.rendering import Rendering
from interp_assets.explanations.prompts import read_reply
from interp_assets.job import Job, Metadata, failed_rows, not_asked
from interp_assets.layer_sae import sae_of, subject_of
from interp_assets.metering import meter
from interp_assets.models import engine
from interp_assets.progress import Progress
from interp_assets.scores.intervention.effects import Effect, Setup, find_effects
from interp_assets.scores.intervention.explaining import request
from interp_assets.scores.intervention.pending import effects_wanted, latents_to_change, scores_basis
from interp_assets.scores.intervention.prompts import TooFewPrompts, choose_prompts
from interp_assets.scores.intervention.scoring import explanations_under_test, score_trials, scores
from interp_assets.settings import InterventionScorer
from interp_assets.tables import EFFECTS, INTERVENTION_TRIALS, PASSAGES, conform
from resources.language_models.protocol import require
from resources.language_models.structured import generate

EFFECT = ["latent", "condition", "inputs_hash"]
Row = dict[str, Any]


def write_tables(job: Job, settings: InterventionScorer) -> Metadata:
    require(engine(job, settings.explainer), "generate", "scorers.intervention.explainer")
    require(engine(job, settings.scorer), "log_likelihood", "scorers.intervention.scorer")
    effects, passages, carried_over = all_effects(job, settings)
    job.draft.write("effects", effects)
    job.draft.write("passages", passages)
    trials = all_trials(job, settings, effects, passages)
    table = scores(trials, effects)
    job.draft.write("trials", trials)
    job.draft.write("scores", table)
    means = (
        table.group_by("condition", "control")
        .agg(mean_nats=pl.col("value").mean().round(4), latents=pl.col("value").count())
        .sort(pl.all())
    )
    return {
        "means": {"table": means.to_dicts()},
        **{f"effects {status}": count for status, count in sorted(effects["status"].value_counts().iter_rows())},
        "latents_changed": effects["latent"].n_unique(),
        "latents_carried_over": carried_over,
        "trials": len(trials),
        "failed_rows": failed_rows(effects) | failed_rows(trials),
        "not_asked": not_asked(effects) + not_asked(trials),
        "some_effects": {"table": some(effects)},
    }


def all_effects(job: Job, settings: InterventionScorer) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The tables `effects` and `passages`, and of how many latents they were there already."""
    study = job.study
    cache = CacheReader(job.input("activation_cache"))
    tokens = tokens_matrix(job.input("corpus").read("corpus", ["tokens"]))
    statistics = job.input("latent_statistics").read("statistics", ["latent", "max_activation"])
    strongest = dict(statistics.with_columns(pl.col("max_activation").fill_null(0)).iter_rows())
    latents = latents_to_change(job, cache, tokens, settings.latents)
    # A change as large as the latent's own largest activation moves most models by some tenths of a nat.
    strengths = {latent: strongest[latent] for latent in latents}
    layer = study.layer(job.layer)
    sae = sae_of(study, layer, job.models)
    wanted = effects_wanted(job, settings, cache, sae.W_dec, strengths)
    kept = still_hold(job.earlier(), "effects", wanted, EFFECTS, job.retrying)
    new = without(wanted, kept)["latent"].unique(maintain_order=True).to_list()
    kept = kept.filter(~pl.col("latent").is_in(new))
    kept_passages = still_hold(job.earlier(), "passages", kept.select(EFFECT), PASSAGES)
    rendering, found, refused = Rendering.of(study), list[Effect](), list[Row]()
    prompts = []
    for latent in new:
        try:
            prompts.append(choose_prompts(cache.latent(latent), tokens.shape[1], settings, study.examples.seed))
        except TooFewPrompts as error:
            reason = {"latent": latent, "status": "too_few_prompts", "reason": str(error)}
            refused += [{**reason, "condition": condition} for condition in settings.conditions]
    if prompts:
        setup = Setup(
            subject_of(study, layer, job.models),
            sae,
            layer.hookpoint,
            layer.writes,
            tokens,
            int(tokens[0, 0]) if study.corpus.bos else None,
            settings,
            study.examples.seed,
            study.subject_model.batch_tokens,
        )
        with Progress(job.label, len(prompts), "latents") as progress:
            for start in range(0, len(prompts), settings.batch_latents):
                part = prompts[start : start + settings.batch_latents]
                found += find_effects(setup, part, strengths)
                progress.advance(len(part))
        # Nothing may hold the model any more when the explainer is loaded.
        del setup
    del sae
    rows = refused + explained(job, settings, found, rendering)
    made = conform(pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(), EFFECTS)
    made = conform(made.drop("inputs_hash").join(wanted, on=["latent", "condition"], how="left"), EFFECTS)
    written = conform(pl.DataFrame(passage_rows(found, rendering) or None), PASSAGES)
    written = written.drop("inputs_hash").join(wanted, on=["latent", "condition"], how="left")
    effects = pl.concat([kept, made]).sort("latent", "condition")
    passages = pl.concat([kept_passages, conform(written, PASSAGES)]).sort("latent", "condition", "example")
    return effects, passages, kept["latent"].n_unique()


def explained(job: Job, settings: InterventionScorer, effects: Sequence[Effect], rendering: Rendering) -> list[Row]:
    """Rows of the table `effects`; those within reach are explained."""
    reached = [effect for effect in effects if effect.out_of_reach is None]
    model, price = engine(job, settings.explainer), job.study.engines[settings.explainer].price
    requests = [request(effect, settings, rendering) for effect in reached]
    with Progress(f"{job.label} explained", len(requests), "effects", meter(model, price)) as progress:
        answers = generate(
            model,
            requests,
            lambda _, reply: read_reply(reply),
            lambda _: progress.advance(1),
            "scorers.intervention.max_tokens",
        )
    job.spent.add(model, price)
    rows: list[Row] = [
        {"latent": each.latent, "condition": each.condition, "status": "out_of_reach", "reason": each.out_of_reach}
        for each in effects
        if each.out_of_reach is not None
    ]
    for effect, answer in zip(reached, answers, strict=True):
        rows.append(
            {
                "latent": effect.latent,
                "condition": effect.condition,
                "strength": effect.strength,
                "kl": effect.kl,
                "effect_explanation": answer.value,
                "model": model.name,
                "raw_reply": answer.raw_reply,
                **answer.record(),
            }
        )
    return rows


def passage_rows(effects: Sequence[Effect], rendering: Rendering) -> list[Row]:
    return [
        {
            "latent": effect.latent,
            "condition": effect.condition,
            "example": example,
            "prompt": rendering.text(shown),
            "clean": rendering.text(shown + written.clean),
            "changed": rendering.text(shown + written.changed),
        }
        for effect in effects
        for example, written in enumerate(effect.written)
        for shown in [rendering.window(written.prompt, 0)]
    ]


def all_trials(job: Job, settings: InterventionScorer, effects: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """The table `trials`: those that still hold, and those that are asked now."""
    seed = job.study.examples.seed
    tested = explanations_under_test(effects, settings.shuffled_control, scores_basis(job, settings), seed)
    wanted = tested.drop("explanation")
    kept = still_hold(job.earlier(), "trials", wanted, INTERVENTION_TRIALS, job.retrying)
    new = tested.join(without(wanted, kept), on=wanted.columns, how="semi")
    model, price = engine(job, settings.scorer), job.study.engines[settings.scorer].price
    with Progress(f"{job.label} scored", len(new) * settings.score_prompts, "trials", meter(model, price)) as progress:
        made = score_trials(new, passages, model, progress.advance)
    job.spent.add(model, price)
    return pl.concat([kept, made]).sort("explainer", "control", "condition", "latent", "example")


def some(effects: pl.DataFrame, count: int = 8) -> list[Row]:
    """A few effects, for the UI."""
    good = effects.filter(pl.col("status") == "ok").select(
        "latent", "condition", "strength", "kl", "effect_explanation"
    )
    return good.head(count).to_dicts()
