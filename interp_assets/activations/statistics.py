"""What is known of each latent from its activations alone; exact and vectorised over blocks of latents."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from interp_assets.activations.cache_file import CacheReader, Entries
from interp_assets.tables import QUANTILES

TOP_SHARE = 0.8
"Unigram latents have few distinct tokens among the strongest TOP_SHARE of their firings."


def latent_statistics(
    cache: CacheReader, tokens: np.ndarray, skip: int, wanted: np.ndarray | None = None, threads: int = 2
) -> pl.DataFrame:
    """Columns of `tables.LATENT_STATISTICS` that come from activations; one row a wanted latent.

    Args:
        tokens: uint32 [contexts, context_length], the corpus of the cache.
        skip: positions at the beginning of each context that hold no activations and are left out of rates.
        wanted: bool [n_latents], at least one; all when left out.
    """
    wanted = np.ones(cache.n_latents, dtype=bool) if wanted is None else wanted

    def of_block(number: int) -> pl.DataFrame:
        return block_statistics(*cache.part(number, wanted), tokens, skip)

    with ThreadPoolExecutor(threads) as pool:
        return pl.concat(pool.map(of_block, cache.blocks_of(wanted)))


def block_statistics(latents: np.ndarray, entries: Entries, tokens: np.ndarray, skip: int) -> pl.DataFrame:
    """
    Args:
        latents: int64 [n], ascending; `entries` are all of theirs.
    """
    n, (contexts, length) = len(latents), tokens.shape
    latent = np.searchsorted(latents, entries.latent).astype(np.uint32)
    counts = np.bincount(latent, minlength=n)
    token_count = contexts * (length - skip)
    # Entries are sorted by latent and context, so a new context is where either changes.
    first_in_context = np.ones(len(latent), dtype=bool)
    first_in_context[1:] = (latent[1:] != latent[:-1]) | (entries.context[1:] != entries.context[:-1])
    ascending = sorted_within_latent(latent, entries.activation)
    ends = np.cumsum(counts)
    starts = ends - counts
    alive = counts > 0
    quantiles = interpolated(ascending, starts, counts, np.array(QUANTILES))
    sums = np.bincount(latent, weights=entries.activation, minlength=n)
    maximum = np.zeros(n, dtype=np.float32)
    maximum[alive] = ascending[ends[alive] - 1]
    return pl.DataFrame(
        {
            "latent": latents.astype(np.uint32),
            "firing_rate": counts / token_count,
            "context_rate": np.bincount(latent[first_in_context], minlength=n) / contexts,
            "max_activation": maximum,
            "mean_activation": np.divide(sums, counts, out=np.zeros(n), where=alive).astype(np.float32),
            "quantiles": pl.Series(quantiles).arr.to_list(),
            "dead": ~alive,
            "position_information": position_information(latent, entries.position, n, contexts, length, skip),
            "top_tokens": distinct_top_tokens(latent, entries, tokens, ascending, starts, counts),
        }
    )


def sorted_within_latent(latent: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Activations float32, ascending within each latent.

    The bits of positive floats order as integers do, so one sort of 64-bit keys does both.
    """
    keys = (latent.astype(np.uint64) << np.uint64(32)) | activation.view(np.uint32)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)


def interpolated(ascending: np.ndarray, starts: np.ndarray, counts: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Quantiles float32 [latents, len(at)], linear between neighbours as numpy.quantile; 0 for the dead."""
    if not len(ascending):
        return np.zeros((len(counts), len(at)), dtype=np.float32)
    place = at[None, :] * np.maximum(counts - 1, 0)[:, None]
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(counts - 1, 0)[:, None])
    base = np.minimum(starts, len(ascending) - 1)[:, None]
    below, above = ascending[base + low].astype(np.float64), ascending[base + high].astype(np.float64)
    values = below + (above - below) * (place - low)
    return np.where(counts[:, None] > 0, values, 0).astype(np.float32)


def position_information(
    latent: np.ndarray, position: np.ndarray, n: int, contexts: int, length: int, skip: int
) -> np.ndarray:
    """Mutual information of firing and position in nats, float64 [n].

    I = mean_t [ f_t log(f_t / f) + (1 - f_t) log((1 - f_t) / (1 - f)) ], f_t the firing rate at position t.
    """
    flat = np.bincount(latent.astype(np.int64) * length + position, minlength=n * length)
    at_position = flat.reshape(n, length)[:, skip:] / contexts
    overall = at_position.mean(1, keepdims=True)

    def term(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        ratio = np.divide(part, whole, out=np.ones_like(part), where=(part > 0) & (whole > 0))
        return part * np.log(ratio)

    return (term(at_position, overall) + term(1 - at_position, 1 - overall)).mean(1)


def distinct_top_tokens(
    latent: np.ndarray,
    entries: Entries,
    tokens: np.ndarray,
    ascending: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Distinct token ids among the strongest TOP_SHARE of each latent's firings, uint32 [n]."""
    n = len(counts)
    if not len(latent):
        return np.zeros(n, dtype=np.uint32)
    dropped = np.floor((1 - TOP_SHARE) * counts + 1e-9).astype(np.int64)
    limit = ascending[np.minimum(starts + dropped, len(ascending) - 1)]
    strong = entries.activation >= limit[latent]
    token = tokens[entries.context[strong], entries.position[strong]]
    keys = (latent[strong].astype(np.uint64) << np.uint64(32)) | token
    keys.sort()
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    return np.bincount((keys[new] >> np.uint64(32)).astype(np.int64), minlength=n).astype(np.uint32)
