"""Which latents are changed, and whose effects still hold from an earlier generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch

from interp_assets.activations.cache_file import CacheReader
from interp_assets.carry_over import inputs_hash
from interp_assets.examples.along import first_drawn
from interp_assets.examples.drawing import asked_latents, count_windows, window_shape
from interp_assets.examples.repeats import RepeatedText
from interp_assets.job import Inputs
from interp_assets.scores.intervention.wording import prompts_read
from interp_assets.settings import InterventionScorer

DECIDES_NO_EFFECT = {"scorer": None, "shuffled_control": None, "latents": None}
"Settings that decide which effects there are, or what becomes of them afterwards."


def latents_to_change(inputs: Inputs, cache: CacheReader, tokens: np.ndarray, latents: int | None) -> list[int]:
    """The latents that the study interprets, in the keyed order in which it takes them; a list in it is taken whole.

    Args:
        tokens: uint32 [contexts, context_length].
        latents: at most so many.
    """
    examples = inputs.study.examples_of(inputs.layer)
    if examples.along_alignment:
        order = inputs.input("examples").read("draws", ["latent"])["latent"]
        return first_drawn(inputs, sorted(order.head(examples.most_latents or 0)), latents)
    shape = window_shape(examples, tokens)
    texts = RepeatedText(tokens, shape.window)
    counted = count_windows(cache, shape, texts, examples.seed, np.ones(cache.n_latents, dtype=bool))
    asked = asked_latents(counted, examples)
    listed = isinstance(examples.latents, tuple)
    found = np.flatnonzero(asked if listed else asked & counted.enough(examples))
    return first_drawn(inputs, found.tolist(), latents)


def effects_wanted(
    inputs: Inputs, settings: InterventionScorer, cache: CacheReader, W_dec: torch.Tensor, strengths: dict[int, float]
) -> pl.DataFrame:
    """latent, condition and inputs_hash of every effect.

    Args:
        W_dec: [n_latents, d_out].
        strengths: for each latent that is changed the strength tried first.
    """
    basis = inputs_hash(effects_basis(inputs, settings))
    rows = []
    for latent, strength in strengths.items():
        decoder = W_dec[latent].float().cpu().contiguous().numpy().tobytes()
        value = inputs_hash(basis, int(cache.entries_hash[latent]), decoder, strength)
        rows += [(latent, condition, value) for condition in settings.conditions]
    schema = {"latent": pl.UInt32, "condition": pl.String, "inputs_hash": pl.UInt64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def effects_basis(inputs: Inputs, settings: InterventionScorer) -> Any:
    """What decides an effect and its explanation beside its latent."""
    parts = inputs.freshness.fingerprint(inputs.asset, inputs.key).parts
    read = {name: parts["settings"][name] for name in ("subject_model", "bos", "seed", "hookpoint")}
    read |= {name: parts["settings"][name] for name in ("control", "writes") if name in parts["settings"]}
    tokens = inputs.input("corpus").tables["corpus"]["columns"]["tokens"]
    # Where a latent is taken away, how active it is depends on its whole SAE.
    sae = parts["files"].get("sae") if settings.zero_ablation else None
    asked = [prompts_read(), inputs.freshness.engine_identity(settings.explainer)]
    return [settings.identity() | DECIDES_NO_EFFECT, read, parts["files"].get("subject_model"), tokens, sae, asked]


def scores_basis(inputs: Inputs, settings: InterventionScorer) -> Any:
    """What decides a score beside the passages and the explanation."""
    return [prompts_read()["scored"], inputs.freshness.engine_identity(settings.scorer)]
