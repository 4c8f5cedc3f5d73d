"""Activation caches of random firings: log-normal firing rates, as those of real SAEs roughly are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from interp_assets.activations.cache_file import CacheReader, CacheWriter, Entries
from resources.table_store import TableStore

CONTEXT_LENGTH = 256
CONTEXTS_PER_BATCH = 16
SPREAD_OF_RATES = 1.0
"Standard deviation of the logarithm of firing rates; a TopK SAE of 2,048 latents on SmolLM2-135M has 0.8."


def write_cache(root: Path, contexts: int, n_latents: int, k: int) -> CacheReader:
    """A committed cache in which about k latents fire on every token but BOS."""
    with TableStore(root).draft("activation_cache", None, "synthetic") as draft:
        writer = CacheWriter(draft, n_latents)
        for entries in firings(contexts, n_latents, k):
            writer.append(entries)
        writer.finish()
        return CacheReader(draft.commit({}, {}))


def firings(contexts: int, n_latents: int, k: int) -> Iterator[Entries]:
    """Entries in the order of the corpus, a few contexts at a time."""
    draw = np.random.default_rng(0)
    rates = draw.lognormal(0, SPREAD_OF_RATES, n_latents)
    cumulative = np.cumsum(rates) / rates.sum()
    tokens_per_context = CONTEXT_LENGTH - 1
    for first in range(0, contexts, CONTEXTS_PER_BATCH):
        rows = min(CONTEXTS_PER_BATCH, contexts - first) * tokens_per_context
        latents = np.sort(np.searchsorted(cumulative, draw.random((rows, k))), axis=1)
        once = np.ones(latents.shape, dtype=bool)
        once[:, 1:] = latents[:, 1:] != latents[:, :-1]
        token = np.nonzero(once)[0]
        yield Entries(
            latent=latents[once].clip(max=n_latents - 1).astype(np.uint32),
            context=(first + token // tokens_per_context).astype(np.uint32),
            position=(token % tokens_per_context + 1).astype(np.uint16),
            activation=draw.lognormal(0, 0.6, len(token)).astype(np.float32),
        )


def random_tokens(contexts: int, vocabulary: int) -> np.ndarray:
    """A corpus with few frequent and many rare tokens; uint32 [contexts, CONTEXT_LENGTH]."""
    draw = np.random.default_rng(1)
    return (draw.zipf(1.3, (contexts, CONTEXT_LENGTH)) % vocabulary).astype(np.uint32)
