"""Which latents fire at the same positions: exact Jaccard similarity of firing sets, from the sparse cache.

    J(a, b) = |positions of a and b| / |positions of a or b|

The latents are taken in blocks of rows, and each block is counted against the whole cache piece by piece, as a product
of two sparse matrices that hold 1 where a latent fires. The co-occurrence of all pairs never exists: 131k latents
would have 17 billion.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

from interp_assets.activations.cache_file import CacheReader, Entries, latent_blocks

ROWS_PER_BLOCK = 2_048
"More rows read the cache fewer times, fewer rows take less memory; results do not depend on it."
ENTRIES_PER_BLOCK = 8_000_000
PAIRS_AT_ONCE = 2**21
"Latents of a block times latents that they are counted against: bounds the counts that exist at a time."


def cooccurring(
    cache: CacheReader, contexts: int, length: int, count: int, rows_per_block: int = ROWS_PER_BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """The latents of highest Jaccard similarity, highest first, the lower number first among equals.

    Args:
        contexts, length: of the corpus.

    Returns:
        int64 [latents, count] latent numbers and float64 [latents, count] similarities. A latent that shares positions
        with fewer others has its own number, with similarity 0, in the places left over.
    """
    near = np.tile(np.arange(cache.n_latents)[:, None], count)
    similarity = np.zeros((cache.n_latents, count))
    for first, last in row_blocks(cache.entries, rows_per_block):
        rows = firing_sets(cache, first, last, contexts, length)
        rows = csr_array(rows.T)  # positions as rows: what a position of another latent is looked up in
        step = max(1, PAIRS_AT_ONCE // (last - first))
        for number in range(len(cache.files)):
            latents, entries = cache.block(number)
            for start in range(latents.start, latents.stop, step):
                stop = min(start + step, latents.stop)
                others = indicator(entries, start, stop, contexts, length)
                found = (others @ rows).tocoo()
                other, row = found.coords[0] + start, found.coords[1] + first
                both = cache.entries[row] + cache.entries[other] - found.data
                keep_best(near[first:last], similarity[first:last], row - first, other, found.data / both, first)
    return near, similarity


def row_blocks(counts: np.ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of latents with neither too many entries nor too many latents."""
    for first, last in latent_blocks(counts, ENTRIES_PER_BLOCK):
        for start in range(first, last, rows):
            yield start, min(start + rows, last)


def firing_sets(cache: CacheReader, first: int, last: int, contexts: int, length: int) -> csr_array:
    """int32 [last - first, positions], 1 where a latent fires."""
    wanted = np.zeros(cache.n_latents, dtype=bool)
    wanted[first:last] = True
    parts = [cache.part(number, wanted)[1] for number in cache.blocks_of(wanted)]
    entries = Entries(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return indicator(entries, first, last, contexts, length)


def indicator(entries: Entries, first: int, last: int, contexts: int, length: int) -> csr_array:
    """int32 [last - first, positions] of entries sorted by latent: 1 where latents first..last-1 fire."""
    begin, end = np.searchsorted(entries.latent, [first, last])
    position = entries.context[begin:end].astype(np.int64) * length + entries.position[begin:end]
    offsets = np.searchsorted(entries.latent[begin:end], np.arange(first, last + 1))
    ones = np.ones(end - begin, dtype=np.int32)
    return csr_array((ones, position, offsets), shape=(last - first, contexts * length))


def keep_best(
    near: np.ndarray, similarity: np.ndarray, row: np.ndarray, other: np.ndarray, value: np.ndarray, first: int
) -> None:
    """Put candidates into the lists of their rows where they belong; candidates come in ascending `other`.

    Args:
        first: the latent of row 0; a latent is no neighbour of itself.
    """
    count = near.shape[1]
    better = (value > similarity[row, -1]) & (other != row + first)
    row, other, value = row[better], other[better], value[better]
    rows = np.unique(row)
    all_rows = np.concatenate([np.repeat(rows, count), row])
    all_others = np.concatenate([near[rows].ravel(), other])
    all_values = np.concatenate([similarity[rows].ravel(), value])
    # The sort is stable: among equals what was there comes first, and had the lower number.
    order = np.lexsort((-all_values, all_rows))
    starts = np.searchsorted(all_rows[order], rows)
    chosen = order[starts[:, None] + np.arange(count)]
    near[rows], similarity[rows] = all_others[chosen], all_values[chosen]
