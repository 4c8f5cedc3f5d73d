"""A small activation cache made of random firings, as the pipeline would write it, and as plain Python dictionaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from interp_assets.activations.cache_file import CacheReader, CacheWriter, Entries
from resources.table_store import TableStore

LATENTS, CONTEXTS, LENGTH = 40, 120, 64


def firings(seed: int = 0) -> np.ndarray:
    """Dense activations float32 [contexts, length, latents]: rare and frequent latents, some in bursts, position 0 silent."""
    draw = np.random.default_rng(seed)
    rates = np.geomspace(0.0005, 0.4, LATENTS)
    dense = np.where(
        draw.random((CONTEXTS, LENGTH, LATENTS)) < rates, draw.gamma(2.0, 1.5, (CONTEXTS, LENGTH, LATENTS)), 0
    )
    burst = draw.random((CONTEXTS, LENGTH, LATENTS)) < 0.5
    dense[:, 1:, ::3] = np.where(
        burst[:, 1:, ::3] & (dense[:, :-1, ::3] > 0), dense[:, :-1, ::3] * 0.7, dense[:, 1:, ::3]
    )
    dense[:, 0] = 0
    dense[:, :, 7] = 0
    dense[12:, :, 1] = 0
    # Few distinct values, so that peaks tie.
    dense[:, :, 20] = np.ceil(dense[:, :, 20])
    return dense.astype(np.float32)


def tokens(seed: int = 0) -> np.ndarray:
    """uint32 [contexts, length]."""
    return np.random.default_rng(seed + 1).integers(0, 500, (CONTEXTS, LENGTH)).astype(np.uint32)


def write_cache(root: Path, dense: np.ndarray, name: str = "cache") -> CacheReader:
    """Write dense activations through the real writer, a few contexts at a time."""
    with TableStore(root).draft("activation_cache", name, "fingerprint") as draft:
        writer = CacheWriter(draft, dense.shape[2])
        for start in range(0, len(dense), 7):
            context, position, latent = np.nonzero(dense[start : start + 7])
            values = dense[start : start + 7][context, position, latent]
            writer.append(
                Entries(
                    latent.astype(np.uint32), (context + start).astype(np.uint32), position.astype(np.uint16), values
                )
            )
        writer.finish()
        return CacheReader(draft.commit({}, {}))
