"""explanations: what each latent stands for, by every explainer of the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from interp_assets.examples.draws import PICK_LATENT, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.explanations import extractive, prompts
from interp_assets.job import Job, Metadata, computes
from interp_assets.models import engine
from interp_assets.progress import Progress
from interp_assets.settings import LlmExplainer
from interp_assets.tables import EXPLANATIONS, conform
from resources.language_models.logged import request_key
from resources.language_models.protocol import GenerateRequest, require

Row = dict[str, Any]


@computes("explanations")
def explanations(job: Job) -> Metadata:
    table = job.input("examples").read("examples")
    rendering = Rendering.of(job.study)
    windows = dict(explain_windows(table))
    rows: list[Row] = []
    calls = Counter(calls_made=0, replies_reused=0)
    for name, explainer in job.study.explainers.items():
        if isinstance(explainer, LlmExplainer):
            found = explain_by_llm(job, name, explainer, windows, rendering, calls)
        else:
            found = explain_by_quoting(name, explainer, windows, rendering)
        rows += [{"explainer": name, **row} for row in found]
        if getattr(explainer, "latents", None) is None:
            skipped = table.filter(pl.col("status") != "ok").select("latent", "status", "reason")
            rows += [{"explainer": name, **row} for row in skipped.iter_rows(named=True)]
    result = conform(pl.DataFrame(rows, infer_schema_length=None), EXPLANATIONS).sort("explainer", "latent")
    job.draft.write("explanations", result)
    counts = result.group_by("explainer", "status").len().sort("explainer", "status")
    return {
        **{f"{explainer} {status}": count for explainer, status, count in counts.iter_rows()},
        **calls,
        "prompt_tokens": int(result["prompt_tokens"].sum()),
        "completion_tokens": int(result["completion_tokens"].sum()),
        "some_explanations": {"table": some(result)},
    }


def explain_windows(table: pl.DataFrame) -> Iterator[tuple[int, list[tuple[list[int], list[float]]]]]:
    """The explain windows (tokens, activations) of each latent, strongest first."""
    explain = table.filter((pl.col("purpose") == "explain") & (pl.col("status") == "ok"))
    explain = explain.sort("latent", "peak_activation", "example", descending=[False, True, False])
    for (latent,), group in explain.group_by("latent", maintain_order=True):
        yield int(latent), list(zip(group["tokens"].to_list(), group["activations"].to_list(), strict=True))


def explain_by_quoting(name: str, settings: Any, windows: dict[int, Any], rendering: Rendering) -> Iterator[Row]:
    for latent, examples in windows.items():
        words = [extractive.words_of(tokens, activations, rendering) for tokens, activations in examples]
        text = extractive.explain(words, settings)
        row: Row = {"latent": latent, "explanation": text, "status": "ok", "model": "none"}
        if text is None:
            row |= {"status": "failed", "reason": "the latent fires on no word, only on white space"}
        yield row


def explain_by_llm(
    job: Job,
    name: str,
    settings: LlmExplainer,
    windows: dict[int, Any],
    rendering: Rendering,
    calls: Counter[str],
) -> Iterator[Row]:
    latents = first_latents(list(windows), settings.latents, job.study.examples.seed)
    promoted = promoted_tokens(job) if settings.promoted_tokens else {}
    requests = []
    for latent in latents:
        examples = windows[latent]
        # Spread over the strengths that were drawn, rather than the strongest alone.
        places = np.unique(
            np.linspace(0, len(examples) - 1, min(settings.n_examples, len(examples))).round().astype(int)
        )
        messages = prompts.prompt([examples[i] for i in places], promoted.get(latent), settings, rendering)
        requests.append(GenerateRequest(messages, settings.max_tokens))
    model = engine(job.study, settings.engine, job.models)
    require(model, "generate", f"explainer {name}")
    with Progress(f"{job.label} by {name}", len(requests), "latents") as progress:
        replies = model.generate(requests, lambda i, reply: progress.advance(1))
    for latent, request, reply in zip(latents, requests, replies, strict=True):
        calls["replies_reused" if reply.usage.reused else "calls_made"] += 1
        text, reason = prompts.read_reply(reply.text, reply.finished, settings)
        yield {
            "latent": latent,
            "explanation": text,
            "status": "ok" if text else "failed",
            "reason": reason,
            "model": model.name,
            "prompt_hash": request_key(model.identity, request).hex(),
            "prompt_tokens": reply.usage.prompt_tokens,
            "cached_tokens": reply.usage.cached_tokens,
            "completion_tokens": reply.usage.completion_tokens,
            "raw_reply": reply.text,
        }


def first_latents(latents: list[int], count: int | None, seed: int) -> list[int]:
    """The first of the interpreted latents in the keyed order, in the order of their numbers."""
    if count is None:
        return latents
    order = np.argsort(keyed(seed, PICK_LATENT, np.array(latents, dtype=np.int64)), kind="stable")
    return sorted(latents[i] for i in order[:count])


def promoted_tokens(job: Job) -> dict[int, list[str]]:
    table = job.input("latent_statistics").read("statistics", ["latent", "promoted_tokens"])
    return dict(table.drop_nulls().iter_rows())


def some(table: pl.DataFrame, count: int = 6) -> list[Row]:
    """A few explanations of each explainer, for the UI."""
    good = table.filter(pl.col("status") == "ok").select("latent", "explainer", "explanation")
    return good.group_by("explainer", maintain_order=True).head(count).to_dicts()
