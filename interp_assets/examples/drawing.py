"""The examples table: for each latent, windows to explain it from and windows to test the explanation on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl

from interp_assets.activations.cache_file import CacheReader, Entries
from interp_assets.examples.draws import PICK_LATENT, keyed
from interp_assets.examples.negatives import POOL, neighbour_negatives, random_negatives
from interp_assets.examples.samplers import first_of_each, sample
from interp_assets.examples.windows import (
    ActivationLookup,
    Windows,
    WindowShape,
    active_windows,
    deciles,
    for_explaining,
    priorities,
)
from interp_assets.study import Examples
from interp_assets.tables import EXAMPLES, conform


class Interpreted(NamedTuple):
    """Which latents get examples, and why the others do not; all [n_latents]."""

    firings: np.ndarray
    windows: np.ndarray
    "active windows"
    smaller_side: np.ndarray
    "active windows among explain or among test contexts, whichever are fewer"
    chosen: np.ndarray
    "bool"


def choose_latents(cache: CacheReader, shape: WindowShape, settings: Examples) -> Interpreted:
    """Count windows and pick the latents to interpret among those that have enough."""
    windows = np.zeros(cache.n_latents, dtype=np.int64)
    explaining = np.zeros(cache.n_latents, dtype=np.int64)
    for latents, entries in cache.blocks():
        active = active_windows(entries, shape, settings.seed)
        inside = slice(latents.start, latents.stop)
        windows[inside] = np.bincount(active.latent - latents.start, minlength=len(latents))
        side = for_explaining(settings.seed, active.latent, active.context)
        explaining[inside] = np.bincount(active.latent[side] - latents.start, minlength=len(latents))
    smaller_side = np.minimum(explaining, windows - explaining)
    eligible = (windows >= settings.min_windows) & (smaller_side > 0)
    chosen = np.zeros(cache.n_latents, dtype=bool)
    if settings.latents == "all":
        chosen = eligible
    elif isinstance(settings.latents, int):
        candidates = np.flatnonzero(eligible)
        order = np.argsort(keyed(settings.seed, PICK_LATENT, candidates), kind="stable")
        chosen[candidates[order[: settings.latents]]] = True
    else:
        listed = np.array([latent for latent in settings.latents if latent < cache.n_latents], dtype=np.int64)
        chosen[listed] = eligible[listed]
    return Interpreted(cache.entries, windows, smaller_side, chosen)


def draw_examples(
    cache: CacheReader,
    tokens: np.ndarray,
    settings: Examples,
    neighbours: np.ndarray | None = None,
    advance: Callable[[int], None] = lambda latents: None,
    threads: int = 2,
) -> pl.DataFrame:
    """The table `tables.EXAMPLES`, sorted by latent, purpose, kind, example.

    Args:
        tokens: uint32 [contexts, context_length], the corpus of the cache.
        neighbours: int64 [n_latents, count], nearest first; where test negatives come from neighbours.
    """
    shape = WindowShape(settings.window, settings.placement, *tokens.shape)
    interpreted = choose_latents(cache, shape, settings)
    pools = window_pools(cache, shape, settings.seed) if neighbours is not None else None

    def draw(block: tuple[range, Entries]) -> pl.DataFrame:
        latents, entries = block
        mine = np.flatnonzero(interpreted.chosen[latents.start : latents.stop]) + latents.start
        frame = draw_block(entries, mine, tokens, shape, settings, neighbours, pools)
        advance(len(latents))
        return frame

    # numpy lets go of the interpreter lock in sorts and gathers; results come back in the order of blocks.
    with ThreadPoolExecutor(threads) as pool:
        frames = list(pool.map(draw, cache.blocks()))
    return pl.concat([conform(without_examples(interpreted, settings), EXAMPLES), *frames]).sort(
        "latent", maintain_order=True
    )


def draw_block(
    entries: Entries,
    latents: np.ndarray,
    tokens: np.ndarray,
    shape: WindowShape,
    settings: Examples,
    neighbours: np.ndarray | None,
    pools: Windows | None,
) -> pl.DataFrame:
    """Examples of some latents, whose entries (those of other latents too) are given."""
    if not len(latents):
        return conform(pl.DataFrame({"latent": []}, schema={"latent": pl.UInt32}), EXAMPLES)
    chosen = np.zeros(int(entries.latent.max()) + 1, dtype=bool)
    chosen[latents] = True
    mine = chosen[entries.latent]
    entries = entries if mine.all() else Entries(*(column[mine] for column in entries))
    lookup = ActivationLookup(entries, shape)
    windows = active_windows(entries, shape, settings.seed)
    decile, priority = deciles(windows), priorities(settings.seed, windows)
    explaining = for_explaining(settings.seed, windows.latent, windows.context)
    base = int(latents[0])
    parts = []
    explain, test = settings.explain, settings.test
    for purpose, sampler, n, side in (
        ("explain", explain.sampler, explain.n, explaining),
        ("test", "quantiles", test.activating, ~explaining),
    ):
        at = np.flatnonzero(side)
        taken, turn = sample(
            sampler, n, explain.pool, windows.latent[at] - base, windows.peak[at], decile[at], priority[at]
        )
        picked = windows.take(at[taken])
        parts.append(as_frame(picked, turn, purpose, "activating", tokens, lookup, {"decile": decile[at[taken]]}))
    if test.non_activating and neighbours is not None and pools is not None:
        picked, neighbour, number = neighbour_negatives(
            latents, test.non_activating, neighbours, pools, lookup, settings.seed
        )
        extra = {"neighbour": neighbour, "neighbour_by": np.full(len(neighbour), "decoder_cosine")}
        parts.append(as_frame(picked, number, "test", "neighbour", tokens, lookup, extra))
    elif test.non_activating:
        picked, number = random_negatives(latents, test.non_activating, lookup, settings.seed)
        parts.append(as_frame(picked, number, "test", "random", tokens, lookup, {}))
    return pl.concat(parts)


def as_frame(
    windows: Windows,
    number: np.ndarray,
    purpose: str,
    kind: str,
    tokens: np.ndarray,
    lookup: ActivationLookup,
    extra: dict[str, np.ndarray],
) -> pl.DataFrame:
    positions = windows.start[:, None] + np.arange(lookup.shape.window)
    frame = pl.DataFrame(
        {
            "latent": windows.latent.astype(np.uint32),
            "example": number.astype(np.uint32),
            "context": windows.context.astype(np.uint32),
            "start": windows.start.astype(np.uint16),
            "tokens": pl.Series(tokens[windows.context[:, None], positions]).arr.to_list(),
            "activations": pl.Series(lookup.within(windows)).arr.to_list(),
            "peak_activation": windows.peak,
            **extra,
        }
    )
    return conform(frame.with_columns(purpose=pl.lit(purpose), kind=pl.lit(kind), status=pl.lit("ok")), EXAMPLES)


def window_pools(cache: CacheReader, shape: WindowShape, seed: int) -> Windows:
    """The POOL windows of lowest priority of every latent, sorted by latent."""
    pools = []
    for latents, entries in cache.blocks():
        windows = active_windows(entries, shape, seed)
        picked, _ = first_of_each(windows.latent - latents.start, priorities(seed, windows), POOL)
        pools.append(windows.take(picked))
    return Windows(*(np.concatenate(columns) for columns in zip(*pools, strict=True)))


def without_examples(interpreted: Interpreted, settings: Examples) -> pl.DataFrame:
    """One row for each latent that has too few windows, with the reason."""
    few = (interpreted.windows < settings.min_windows) | (interpreted.smaller_side == 0)
    latents = np.flatnonzero(few)
    firings, windows = interpreted.firings[latents], interpreted.windows[latents]
    dead = firings == 0
    reasons = [
        "never fires on the corpus"
        if never
        else f"{count} active windows, examples.min_windows is {settings.min_windows}"
        if count < settings.min_windows
        else f"all of its {count} active windows fall on one side of the split into explain and test contexts"
        for never, count in zip(dead, windows, strict=True)
    ]
    return pl.DataFrame(
        {
            "latent": latents.astype(np.uint32),
            "status": np.where(dead, "dead", "too_few_examples"),
            "reason": pl.Series(reasons, dtype=pl.String),
        }
    )
