"""Which latents fire together: the project's blocks of sparse products beside one product of everything with everything."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from benchmarks.measuring import quick, seconds, show
from benchmarks.synthetic_cache import CONTEXT_LENGTH, write_cache
from interp_assets.activations.cache_file import CacheReader, Entries
from interp_assets.examples.cooccurrence import cooccurring, indicator
from interp_assets.examples.negatives import NEIGHBOURS

K = 32
Neighbours = tuple[np.ndarray, np.ndarray]


def main() -> None:
    latents, contexts = (4_096, 512) if quick() else (16_384, 4_096)
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(Path(folder), contexts, latents, K)
        found: list[Neighbours] = []
        ours = seconds(lambda: found.append(cooccurring(cache, contexts, CONTEXT_LENGTH, NEIGHBOURS)))
        show("latents", latents)
        show("tokens", contexts * CONTEXT_LENGTH)
        show("activations", int(cache.entries.sum()))
        show("seconds", ours)
        our_peak = peak_mb(lambda: cooccurring(cache, contexts, CONTEXT_LENGTH, NEIGHBOURS))
        show("peak_megabytes", our_peak)
        reference = seconds(lambda: found.append(all_at_once(cache, contexts)))
        reference_peak = peak_mb(lambda: all_at_once(cache, contexts))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    show("reference_seconds", reference)
    show("reference_peak_megabytes", reference_peak)
    show("reference_over_project_seconds_ratio", reference / ours)
    show("reference_over_project_memory_ratio", reference_peak / our_peak)


def all_at_once(cache: CacheReader, contexts: int) -> Neighbours:
    """The reference: B B^T of all latents, dense similarities, a sort of every row."""
    parts = [entries for _, entries in cache.blocks()]
    entries = Entries(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    fires = indicator(entries, 0, cache.n_latents, contexts, CONTEXT_LENGTH)
    both = (fires @ csr_array(fires.T)).toarray()
    either = cache.entries[:, None] + cache.entries[None, :] - both
    jaccard = np.divide(both, either, out=np.zeros(both.shape), where=either > 0)
    np.fill_diagonal(jaccard, 0)
    near = np.argsort(-jaccard, axis=1, kind="stable")[:, :NEIGHBOURS]
    similarity = np.take_along_axis(jaccard, near, axis=1)
    return np.where(similarity > 0, near, np.arange(len(near))[:, None]), similarity


def peak_mb(work: Callable[[], object]) -> float:
    """Most memory that numpy and Python held during it beyond what they held before."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


if __name__ == "__main__":
    main()
