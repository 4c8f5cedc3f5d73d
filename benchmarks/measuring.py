"""What the benchmarks share: synthetic activations shaped like those of a TopK SAE, timing, printing."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from interp_assets.activations.cache_file import CacheReader, CacheWriter, Entries
from resources.table_store import TableStore

LATENTS, CONTEXT_LENGTH, K = 2_048, 256, 32


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, under 50 seconds")
    return parser.parse_args()


def report(name: str, value: float) -> None:
    print(f"{name}: {value:,.4g}", flush=True)


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def median_seconds(function: Callable[[], object], repeat: int) -> float:
    return statistics.median(seconds(function) for _ in range(repeat))


def topk_entries(contexts: int, latents: int = LATENTS, k: int = K, per_batch: int = 16) -> Iterator[Entries]:
    """Batches of entries: k distinct latents on each token but the first, some latents far more often than others."""
    draw = np.random.default_rng(0)
    weight = draw.lognormal(0.0, 1.0, latents)
    cumulative = np.cumsum(weight / weight.sum())
    for start in range(0, contexts, per_batch):
        count = min(per_batch, contexts - start)
        tokens = count * (CONTEXT_LENGTH - 1)
        latent = np.searchsorted(cumulative, draw.random(tokens * k)).astype(np.uint32).clip(max=latents - 1)
        row = np.repeat(np.arange(tokens), k)
        _, first = np.unique(row * latents + latent, return_index=True)
        row, latent = row[first], latent[first]
        activation = draw.gamma(2.0, 2.0, len(row)).astype(np.float32) + np.float32(0.01)
        context = (start + row // (CONTEXT_LENGTH - 1)).astype(np.uint32)
        yield Entries(latent, context, (row % (CONTEXT_LENGTH - 1) + 1).astype(np.uint16), activation)


def write_cache(root: Path, contexts: int, latents: int = LATENTS) -> CacheReader:
    with TableStore(root).draft("activation_cache", f"{latents}", f"{contexts}") as draft:
        writer = CacheWriter(draft, latents)
        for entries in topk_entries(contexts, latents):
            writer.append(entries)
        writer.finish()
        return CacheReader(draft.commit({}, {}))


def random_tokens(contexts: int, vocabulary: int = 49_152) -> np.ndarray:
    return np.random.default_rng(1).integers(0, vocabulary, (contexts, CONTEXT_LENGTH)).astype(np.uint32)
