"""Latent statistics: seconds for 2,048 latents, promoted tokens included, beside a plain loop over latents."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.measuring import (
    CONTEXT_LENGTH,
    LATENTS,
    arguments,
    median_seconds,
    random_tokens,
    report,
    seconds,
    write_cache,
)
from interp_assets.activations.cache_file import CacheReader
from interp_assets.activations.statistics import latent_statistics
from interp_assets.tables import QUANTILES
from resources.subject_model import SubjectModel

CONTEXTS, VOCABULARY, D_MODEL = 512, 49_152, 576


def plain_loop(
    cache: CacheReader, tokens: np.ndarray, latents: range, unembedding: torch.Tensor, W_dec: torch.Tensor
) -> None:
    for latent in latents:
        entries = cache.latent(latent)
        np.quantile(entries.activation, QUANTILES)
        len(np.unique(entries.context))
        np.bincount(entries.position, minlength=CONTEXT_LENGTH)
        strong = entries.activation >= np.quantile(entries.activation, 0.2)
        len(np.unique(tokens[entries.context[strong], entries.position[strong]]))
        logits = unembedding @ W_dec[latent]
        logits.argsort(descending=True)


def stand_in_subject(unembedding: torch.Tensor) -> SubjectModel:
    """A subject model that has an unembedding and a final norm and nothing else."""
    subject = object.__new__(SubjectModel)
    subject.device = "cpu"
    subject.model = SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(weight=unembedding))
    subject.modules = {"norm": SimpleNamespace(weight=torch.ones(D_MODEL))}
    return subject


def main() -> None:
    repeat = 3 if arguments(__doc__).quick else 7
    generator = torch.Generator().manual_seed(0)
    unembedding = torch.randn(VOCABULARY, D_MODEL, generator=generator).to(torch.bfloat16)
    W_dec = torch.nn.functional.normalize(torch.randn(LATENTS, D_MODEL, generator=generator), dim=1)
    subject = stand_in_subject(unembedding)
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(Path(folder), CONTEXTS)
        tokens = random_tokens(CONTEXTS)
        report("latents", LATENTS)
        report("tokens", tokens.size)
        from_activations = median_seconds(lambda: latent_statistics(cache, tokens, bos=True), repeat)
        promoted = median_seconds(lambda: subject.promoted_tokens(W_dec), repeat)
        report("statistics_of_activations_seconds", from_activations)
        report("promoted_tokens_seconds", promoted)
        report("statistics_seconds", from_activations + promoted)
        few = range(0, 64)
        plain = seconds(lambda: plain_loop(cache, tokens, few, unembedding.float(), W_dec)) / len(few) * LATENTS
        report("plain_loop_seconds", plain)
        report("speed_ratio", plain / (from_activations + promoted))


if __name__ == "__main__":
    main()
