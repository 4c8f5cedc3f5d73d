"""explanations: what each latent stands for, by every explainer of the study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from interp_assets.examples.rendering import Rendering
from interp_assets.explanations import extractive, prompts
from interp_assets.explanations.pending import Pending, pending, requests
from interp_assets.job import Job, Metadata, computes, failed_rows, not_asked
from interp_assets.metering import meter
from interp_assets.models import engine
from interp_assets.progress import Progress
from interp_assets.settings import ExtractiveExplainer, LlmExplainer
from interp_assets.tables import EXPLANATIONS, calls_behind, conform
from resources.language_models.protocol import require
from resources.language_models.structured import generate

Row = dict[str, Any]


@computes("explanations")
def explanations(job: Job) -> Metadata:
    todo = pending(job)
    rendering = Rendering.of(job.study)
    rows: list[Row] = []
    for name, explainer in job.study.explainers.items():
        if isinstance(explainer, LlmExplainer):
            found = explain_by_llm(job, name, explainer, todo, rendering)
        else:
            found = explain_by_quoting(name, explainer, todo, rendering)
        rows += [{"explainer": name, **row} for row in found]
    made = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=EXPLANATIONS)
    made = conform(made.drop("inputs_hash", strict=False), EXPLANATIONS).drop("inputs_hash")
    made = made.join(todo.new, on=["explainer", "latent"], how="left")
    parts = [todo.kept, conform(made, EXPLANATIONS), conform(todo.skipped, EXPLANATIONS)]
    result = pl.concat(parts).sort("explainer", "latent")
    job.draft.write("explanations", result)
    job.spent.replies_reused += len(calls_behind(todo.kept))
    counts = result.group_by("explainer", "status").len().sort("explainer", "status")
    return {
        **{f"{explainer} {status}": count for explainer, status, count in counts.iter_rows()},
        "explanations_made": len(made),
        "explanations_carried_over": len(todo.kept),
        "failed_rows": failed_rows(result),
        "not_asked": not_asked(result),
        "some_explanations": {"table": some(result)},
    }


def explain_by_quoting(name: str, explainer: ExtractiveExplainer, todo: Pending, rendering: Rendering) -> Iterator[Row]:
    for latent in todo.latents(name):
        words = [extractive.words_of(tokens, activations, rendering) for tokens, activations in todo.windows[latent]]
        text = extractive.explain(words, explainer)
        row: Row = {"latent": latent, "explanation": text, "status": "ok", "model": "none"}
        if text is None:
            row |= {"status": "failed", "reason": "the latent fires on no token that is shown"}
        yield row


def explain_by_llm(job: Job, name: str, explainer: LlmExplainer, todo: Pending, rendering: Rendering) -> Iterator[Row]:
    latents = todo.latents(name)
    asked = requests(job, explainer, latents, todo.windows, rendering)
    model = engine(job, explainer.engine)
    require(model, "generate", f"explainer {name}")
    price = job.study.engines[explainer.engine].price
    with Progress(f"{job.label} by {name}", len(asked), "latents", meter(model, price)) as progress:
        answers = generate(
            model,
            asked,
            lambda _, reply: prompts.read_reply(reply),
            lambda _: progress.advance(1),
            f"explainers.{name}.max_tokens",
        )
    job.spent.add(model, price)
    for latent, answer in zip(latents, answers, strict=True):
        yield {
            "latent": latent,
            "explanation": answer.value,
            "model": model.name,
            "raw_reply": answer.raw_reply,
            **answer.record(),
        }


def some(table: pl.DataFrame, count: int = 6) -> list[Row]:
    """A few explanations of each explainer, for the UI."""
    good = table.filter(pl.col("status") == "ok").select("latent", "explainer", "explanation")
    return good.group_by("explainer", maintain_order=True).head(count).to_dicts()
