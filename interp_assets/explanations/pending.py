"""Which explanations still hold, which are to be made, and what a language model is asked for those. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from interp_assets.carry_over import inputs_hash, still_hold, windows_by_latent, without
from interp_assets.examples.along import first_drawn
from interp_assets.examples.rendering import Rendering, as_shown
from interp_assets.explanations.prompts import form_of, prompt
from interp_assets.explanations.wording import first_messages
from interp_assets.job import Inputs
from interp_assets.settings import Explainer, LlmExplainer
from interp_assets.tables import EXPLANATIONS
from interp_assets.worked_examples import as_text
from resources.language_models.protocol import GenerateRequest

Window = tuple[list[int], list[float]]
"Tokens as they are shown (`rendering.as_shown`) and activations."


@dataclass(frozen=True)
class Pending:
    kept: pl.DataFrame
    "Rows of an earlier generation that still hold."
    new: pl.DataFrame
    "explainer, latent, inputs_hash of those to be made; latents that have examples."
    skipped: pl.DataFrame
    "explainer, latent, status, reason of latents without examples."
    windows: dict[int, list[Window]]
    "The explain windows of the latents to be explained, strongest first."

    def latents(self, explainer: str) -> list[int]:
        return self.new.filter(pl.col("explainer") == explainer)["latent"].to_list()


def pending(inputs: Inputs) -> Pending:
    study = inputs.study
    table = inputs.input("examples").read(
        "examples",
        [
            "latent",
            "example",
            "purpose",
            "kind",
            "status",
            "reason",
            "start",
            "tokens",
            "activations",
            "peak_activation",
        ],
    )
    explain = table.filter((pl.col("purpose") == "explain") & (pl.col("status") == "ok"))
    explain = explain.sort("latent", "peak_activation", "example", descending=[False, True, False])
    shown = windows_by_latent(explain)
    promoted = promoted_tokens(inputs) if any(shows_promoted(each) for each in study.explainers.values()) else {}
    parts = inputs.freshness.fingerprint(inputs.asset, inputs.key).parts
    reading = [parts["settings"]["tokenizer"], parts["settings"]["bos"], parts["files"].get("tokenizer")]
    wanted = []
    for name, explainer in study.explainers.items():
        basis = [explainer_basis(inputs, explainer), *reading]
        count = explainer.latents if isinstance(explainer, LlmExplainer) else None
        for latent in first_drawn(inputs, list(shown), count):
            also = promoted.get(latent) if shows_promoted(explainer) else None
            wanted.append((name, latent, inputs_hash(basis, shown[latent], also)))
    keys = {"explainer": pl.String, "latent": pl.UInt32, "inputs_hash": pl.UInt64}
    rows = pl.DataFrame(wanted, schema=keys, orient="row")
    kept = still_hold(inputs.earlier(), "explanations", rows, EXPLANATIONS, inputs.retrying)
    new = without(rows, kept)
    whole = [name for name, explainer in study.explainers.items() if getattr(explainer, "latents", None) is None]
    without_examples = table.filter(pl.col("status") != "ok").select("latent", "status", "reason")
    skipped = pl.DataFrame({"explainer": whole}).join(without_examples, how="cross")
    return Pending(kept, new, skipped, windows_of(explain, new["latent"], bool(study.corpus.bos)))


def explainer_basis(inputs: Inputs, explainer: Explainer) -> Any:
    """What decides an explanation beside its latent: how many latents are explained does not."""
    basis: list[Any] = [explainer.identity() | {"latents": None}]
    if isinstance(explainer, LlmExplainer):
        basis += [as_text(first_messages(explainer)), inputs.freshness.engine_identity(explainer.engine)]
    return basis


def shows_promoted(explainer: Explainer) -> bool:
    return isinstance(explainer, LlmExplainer) and explainer.promoted_tokens


def promoted_tokens(inputs: Inputs) -> dict[int, list[str]]:
    table = inputs.input("latent_statistics").read("statistics", ["latent", "promoted_tokens"])
    return dict(table.drop_nulls().iter_rows())


def windows_of(explain: pl.DataFrame, latents: pl.Series, bos: bool) -> dict[int, list[Window]]:
    """The windows of some latents, from rows of the examples table.

    Args:
        bos: contexts begin with a BOS.
    """
    found: dict[int, list[Window]] = {}
    mine = explain.filter(pl.col("latent").is_in(latents.unique().implode()))
    for latent, tokens, start, activations in mine.select("latent", "tokens", "start", "activations").iter_rows():
        found.setdefault(latent, []).append((as_shown(tokens, start, bos), activations))
    return found


def requests(
    inputs: Inputs,
    explainer: LlmExplainer,
    latents: Sequence[int],
    windows: dict[int, list[Window]],
    rendering: Rendering,
) -> list[GenerateRequest]:
    """What the language model is asked, one request for each latent."""
    promoted = promoted_tokens(inputs) if explainer.promoted_tokens else {}
    found = []
    for latent in latents:
        examples = windows[latent]
        # Spread over the strengths that were drawn, rather than the strongest alone.
        count = min(explainer.n_examples, len(examples))
        places = np.unique(np.linspace(0, len(examples) - 1, count).round().astype(int))
        messages = prompt([examples[i] for i in places], promoted.get(latent), explainer, rendering)
        found.append(GenerateRequest(messages, explainer.max_tokens, constraint=form_of(explainer)))
    return found
