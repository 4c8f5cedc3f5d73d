"""The examples table: for each latent, windows to explain it from and windows to test the explanation on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

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
from interp_assets.settings import Examples
from interp_assets.tables import EXAMPLES, conform


class Counted(NamedTuple):
    """How many active windows a block of latents has; int64 [latents]."""

    windows: np.ndarray
    smaller_side: np.ndarray
    "among explain or among test contexts, whichever are fewer"

    def enough(self, settings: Examples) -> np.ndarray:
        return (self.windows >= settings.min_windows) & (self.smaller_side > 0)


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

    def draw(number: int) -> pl.DataFrame:
        latents, entries = cache.block(number)
        frame = draw_block(latents, entries, asked, tokens, shape, settings, neighbours, pools)
        advance(len(latents))
        return frame

    # numpy lets go of the interpreter lock in sorts and gathers. Each thread reads its own blocks, so that only as
    # many as there are threads lie in memory; results come back in the order of blocks.
    with ThreadPoolExecutor(threads) as pool:
        asked = asked_latents(cache, shape, settings, pool)
        pools = window_pools(cache, shape, settings.seed, pool) if neighbours is not None else None
        return pl.concat(pool.map(draw, range(len(cache.files))))


def asked_latents(cache: CacheReader, shape: WindowShape, settings: Examples, pool: ThreadPoolExecutor) -> np.ndarray:
    """Which latents get examples if they have enough windows; bool [n_latents]."""
    asked = np.zeros(cache.n_latents, dtype=bool)
    if settings.latents == "all":
        asked[:] = True
    elif isinstance(settings.latents, int):

        def eligible(number: int) -> np.ndarray:
            latents, entries = cache.block(number)
            windows = active_windows(entries, shape, settings.seed)
            explaining = for_explaining(settings.seed, windows.latent, windows.context)
            return latents.start + np.flatnonzero(count(latents, windows, explaining).enough(settings))

        candidates = np.concatenate(list(pool.map(eligible, range(len(cache.files)))))
        order = np.argsort(keyed(settings.seed, PICK_LATENT, candidates), kind="stable")
        asked[candidates[order[: settings.latents]]] = True
    else:
        asked[[latent for latent in settings.latents if latent < cache.n_latents]] = True
    return asked


def count(latents: range, windows: Windows, explaining: np.ndarray) -> Counted:
    ends = np.searchsorted(windows.latent, np.arange(latents.start, latents.stop + 1))
    both = np.diff(ends)
    explain = np.diff(np.concatenate([[0], np.cumsum(explaining)])[ends])
    return Counted(both, np.minimum(explain, both - explain))


class Drawn(NamedTuple):
    """Windows drawn for one purpose, and what the table says about each."""

    windows: Windows
    example: np.ndarray
    purpose: str
    kind: str
    decile: np.ndarray | None = None
    neighbour: np.ndarray | None = None


def draw_block(
    latents: range,
    entries: Entries,
    asked: np.ndarray,
    tokens: np.ndarray,
    shape: WindowShape,
    settings: Examples,
    neighbours: np.ndarray | None,
    pools: Windows | None,
) -> pl.DataFrame:
    """The rows of a block of latents: examples of those asked for, the reason for those with too few windows."""
    windows = active_windows(entries, shape, settings.seed)
    explaining = for_explaining(settings.seed, windows.latent, windows.context)
    counted = count(latents, windows, explaining)
    refused = without_examples(latents, entries, counted, settings)
    interpreted = counted.enough(settings) & asked[latents.start : latents.stop]
    if not interpreted.any():
        return conform(refused, EXAMPLES)
    mine = interpreted[windows.latent - latents.start]
    windows, explaining = windows.take(mine), explaining[mine]
    lookup = ActivationLookup(entries, shape)
    decile, priority = deciles(windows), priorities(settings.seed, windows)
    explain, test = settings.explain, settings.test
    drawn = []
    for purpose, sampler, n, side in (
        ("explain", explain.sampler, explain.n, explaining),
        ("test", "quantiles", test.activating, ~explaining),
    ):
        at = np.flatnonzero(side)
        group = windows.latent[at] - latents.start
        taken, turn = sample(sampler, n, explain.pool, group, windows.peak[at], decile[at], priority[at])
        drawn.append(Drawn(windows.take(at[taken]), turn, purpose, "activating", decile=decile[at[taken]]))
    chosen = latents.start + np.flatnonzero(interpreted)
    if test.non_activating and neighbours is not None and pools is not None:
        picked, neighbour, number = neighbour_negatives(
            chosen, test.non_activating, neighbours, pools, lookup, settings.seed
        )
        drawn.append(Drawn(picked, number, "test", "neighbour", neighbour=neighbour))
    elif test.non_activating:
        picked, number = random_negatives(chosen, test.non_activating, lookup, settings.seed)
        drawn.append(Drawn(picked, number, "test", "random"))
    rows = pl.concat([refused, *map(as_frame, drawn)], how="diagonal").sort("latent", maintain_order=True)
    return conform(with_text(rows, tokens, lookup), EXAMPLES)


def as_frame(drawn: Drawn) -> pl.DataFrame:
    columns = {"latent": drawn.windows.latent.astype(np.uint32), "example": drawn.example}
    columns |= {"context": drawn.windows.context, "start": drawn.windows.start, "peak_activation": drawn.windows.peak}
    columns |= {"decile": drawn.decile} if drawn.decile is not None else {}
    columns |= {"neighbour": drawn.neighbour} if drawn.neighbour is not None else {}
    frame = pl.DataFrame(columns)
    if drawn.neighbour is not None:
        frame = frame.with_columns(neighbour_by=pl.lit("decoder_cosine"))
    return frame.with_columns(purpose=pl.lit(drawn.purpose), kind=pl.lit(drawn.kind), status=pl.lit("ok"))


def with_text(rows: pl.DataFrame, tokens: np.ndarray, lookup: ActivationLookup) -> pl.DataFrame:
    """The rows with tokens and activations of their windows; null where a row has no window."""
    without = rows["start"].is_null().to_numpy()
    found = rows.filter(~without) if without.any() else rows
    windows = Windows(*(found[name].to_numpy() for name in ("latent", "context", "start", "peak_activation")))
    every_start = np.lib.stride_tricks.sliding_window_view(tokens, lookup.shape.window, axis=1)
    ends = np.concatenate([[0], np.cumsum(~without) * lookup.shape.window])

    def lists(values: np.ndarray) -> pl.Series:
        return pl.Series(pa.LargeListArray.from_arrays(ends, values.ravel(), mask=pa.array(without)))

    return rows.with_columns(
        tokens=lists(every_start[windows.context, windows.start]), activations=lists(lookup.within(windows))
    )


def window_pools(cache: CacheReader, shape: WindowShape, seed: int, pool: ThreadPoolExecutor) -> Windows:
    """The POOL windows of lowest priority of every latent, sorted by latent."""

    def lowest(number: int) -> Windows:
        latents, entries = cache.block(number)
        windows = active_windows(entries, shape, seed)
        picked, _ = first_of_each(windows.latent - latents.start, priorities(seed, windows), POOL)
        return windows.take(picked)

    pools = pool.map(lowest, range(len(cache.files)))
    return Windows(*(np.concatenate(columns) for columns in zip(*pools, strict=True)))


def without_examples(latents: range, entries: Entries, counted: Counted, settings: Examples) -> pl.DataFrame:
    """One row for each latent of a block that has too few windows, with the reason."""
    few = np.flatnonzero(~counted.enough(settings))
    ends = np.searchsorted(entries.latent, np.arange(latents.start, latents.stop + 1, dtype=np.uint32))
    dead = np.diff(ends)[few] == 0
    reasons = [
        "never fires on the corpus"
        if never
        else f"{windows} active windows, examples.min_windows is {settings.min_windows}"
        if windows < settings.min_windows
        else f"all of its {windows} active windows fall on one side of the split into explain and test contexts"
        for never, windows in zip(dead, counted.windows[few], strict=True)
    ]
    return pl.DataFrame(
        {
            "latent": (latents.start + few).astype(np.uint32),
            "status": np.where(dead, "dead", "too_few_examples"),
            "reason": reasons,
        },
        schema={"latent": pl.UInt32, "status": pl.String, "reason": pl.String},
    )
