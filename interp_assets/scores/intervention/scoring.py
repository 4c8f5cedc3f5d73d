"""The score: how much more probable the explanation of an effect is behind changed passages than behind clean ones.

S = E_x[E log p(z | x, changed) - E log p(z | x, clean)], in nats. Each prompt gives one difference, and what was drawn
behind one prompt hangs together, so the interval is that of a mean over prompts (Student's t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from os.path import commonprefix
from typing import Any, NamedTuple

import polars as pl
from scipy.stats import t as student

from interp_assets.carry_over import inputs_hash
from interp_assets.scores.intervention.wording import SCORED
from interp_assets.scores.trials import SUBJECTS_PER_CALL, shuffled
from interp_assets.settings import EFFECT_EXPLAINER
from interp_assets.tables import INTERVENTION_TRIALS, SCORES, conform
from resources.language_models.logged import request_key
from resources.language_models.protocol import NOT_ASKED, LanguageModel, Likelihood, LikelihoodRequest

KEYS = ["latent", "explainer", "control", "condition"]


def explanations_under_test(effects: pl.DataFrame, shuffled_control: bool, basis: Any, seed: int) -> pl.DataFrame:
    """KEYS, inputs_hash and explanation of each score: of every effect explained, and of another's explanation on it."""
    rows = []
    explained = effects.filter(pl.col("status") == "ok").sort("condition", "latent")
    for (condition,), group in explained.group_by("condition", maintain_order=True):
        own = dict(group.select("latent", "effect_explanation").iter_rows())
        partners = shuffled(list(own), seed) if shuffled_control else {}
        for latent, before in group.select("latent", "inputs_hash").iter_rows():
            texts = {"none": own[latent]} | ({"shuffled": own[partners[latent]]} if latent in partners else {})
            for control, text in texts.items():
                rows.append((latent, EFFECT_EXPLAINER, control, condition, inputs_hash(basis, before, text), text))
    kinds = {"latent": pl.UInt32, "explainer": pl.String, "control": pl.String, "condition": pl.String}
    return pl.DataFrame(rows, schema=kinds | {"inputs_hash": pl.UInt64, "explanation": pl.String}, orient="row")


class Pair(NamedTuple):
    """One trial: the same explanation behind the same prompt, gone on with and without the change."""

    row: dict[str, Any]
    clean: LikelihoodRequest
    changed: LikelihoodRequest


def pairs(subjects: pl.DataFrame, passages: pl.DataFrame) -> Iterator[Pair]:
    """The trials of some explanations.

    Args:
        subjects: KEYS and explanation.
        passages: `tables.PASSAGES`.
    """
    joined = subjects.join(passages.drop("inputs_hash"), on=["latent", "condition"])
    for row in joined.sort("latent", "example", "condition", "control").iter_rows(named=True):
        texts = [SCORED.format(passage=row.pop(name)) for name in ("clean", "changed")]
        prompt, explanation = row.pop("prompt"), row.pop("explanation")
        group = f"{row['latent']}/{row['example']}"
        requests = [LikelihoodRequest(text, explanation, group, alike(prompt, text)) for text in texts]
        yield Pair(row, *requests)


def alike(prompt: str, text: str) -> int:
    """With how many characters of the prompt a text begins: half a character at its end may read otherwise."""
    return len(commonprefix([prompt, text]))  # noqa: RUF071 - by character is what is wanted


def score_trials(
    subjects: pl.DataFrame, passages: pl.DataFrame, model: LanguageModel, advance: Callable[[int], None]
) -> pl.DataFrame:
    """`tables.INTERVENTION_TRIALS`, one row for each explanation and prompt."""
    rows = []
    for part in subjects.sort("latent").iter_slices(SUBJECTS_PER_CALL):
        asked = list(pairs(part, passages))
        requests = [request for pair in asked for request in (pair.clean, pair.changed)]
        replies = model.log_likelihood(requests, lambda place, _: advance(place % 2))
        rows += [
            pair.row | outcome(model, pair, *replies[2 * place : 2 * place + 2]) for place, pair in enumerate(asked)
        ]
    return conform(pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(), INTERVENTION_TRIALS)


def outcome(model: LanguageModel, pair: Pair, clean: Likelihood, changed: Likelihood) -> dict[str, Any]:
    nats = changed.log_probability - clean.log_probability
    reason = clean.refused or changed.refused
    if reason is None and not math.isfinite(nats):
        reason = "the explanation has no probability behind one of the passages"
    usages = (clean.usage, changed.usage)
    return {
        "nats": None if reason else nats,
        "status": "ok" if reason is None else "not_asked" if reason == NOT_ASKED else "failed",
        "reason": reason,
        "prompt_hash": " ".join(request_key(model.identity, each).hex() for each in (pair.clean, pair.changed)),
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "cached_tokens": sum(usage.cached_tokens for usage in usages),
        "completion_tokens": 0,
    }


def scores(trials: pl.DataFrame, effects: pl.DataFrame) -> pl.DataFrame:
    """`tables.SCORES`: the mean difference over prompts with its interval; effects that have none, with the reason."""
    ok, nats = pl.col("status") == "ok", pl.col("nats").filter(pl.col("status") == "ok")
    waiting = (pl.col("status") == "not_asked").any()
    table = trials.group_by(*KEYS, "inputs_hash").agg(
        value=pl.when(~waiting).then(nats.mean()),
        error=pl.when(~waiting).then(nats.std() / ok.sum().cast(pl.Float64).sqrt()),
        answered=ok.sum(),
        n_trials=pl.len(),
        n_failed=(pl.col("status") == "failed").sum(),
        waiting=waiting,
    )
    counts = table["answered"].unique().to_list()
    factors = [float(student.ppf(0.975, count - 1)) if count > 1 else None for count in counts]
    table = table.join(
        pl.DataFrame({"answered": counts, "factor": factors}, schema={"answered": pl.UInt32, "factor": pl.Float64}),
        on="answered",
        how="left",
    )
    half, usable = pl.col("error") * pl.col("factor"), pl.col("value").is_not_null()
    table = table.with_columns(
        statistic=pl.lit("nats"),
        low=pl.col("value") - half,
        high=pl.col("value") + half,
        status=pl.when(usable).then(pl.lit("ok")).when("waiting").then(pl.lit("not_asked")).otherwise(pl.lit("failed")),
        reason=pl.when("waiting").then(pl.lit(NOT_ASKED)).when(~usable).then(pl.lit("no trial was answered")),
    ).drop("error", "answered", "factor", "waiting")
    without = effects.filter(pl.col("status") != "ok").select(
        "latent", "condition", "status", "reason", "inputs_hash", explainer=pl.lit(EFFECT_EXPLAINER), control=pl.lit("none"),
        statistic=pl.lit("nats"), n_trials=0, n_failed=0,
    )  # fmt: skip
    return pl.concat([conform(table, SCORES), conform(without, SCORES)]).sort(*KEYS)
