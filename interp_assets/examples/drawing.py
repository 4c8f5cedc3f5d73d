"""The examples table: for each latent, windows to explain it from and windows to test the explanation on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from interp_assets.activations.cache_file import CacheReader, Entries
from interp_assets.examples.distinct import Shown, slots_beside
from interp_assets.examples.draws import first_latents
from interp_assets.examples.negatives import Pools, neighbour_negatives, random_negatives, window_pools
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.samplers import sample
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
from resources.errors import UnusableInput


class Counted(NamedTuple):
    """How often each latent fires, and how many active windows it has; int64 [n_latents]."""

    firings: np.ndarray
    windows: np.ndarray
    "of different text"
    repeated: np.ndarray
    "those left out since another one has their text"
    smaller_side: np.ndarray
    "of `windows`, among explain or among test contexts, whichever are fewer"

    def enough(self, settings: Examples) -> np.ndarray:
        return (self.windows >= settings.min_windows) & (self.smaller_side > 0)


def draw_examples(
    cache: CacheReader,
    tokens: np.ndarray,
    settings: Examples,
    neighbours: np.ndarray | None = None,
    advance: Callable[[int], None] = lambda latents: None,
    threads: int = 2,
    counted: Counted | None = None,
    wanted: np.ndarray | None = None,
    texts: RepeatedText | None = None,
) -> pl.DataFrame:
    """The table `tables.EXAMPLES`, sorted by latent, purpose, kind, example.

    Args:
        tokens: uint32 [contexts, context_length], the corpus of the cache.
        neighbours: int64 [n_latents, count], nearest first; where test negatives come from neighbours. Those by text are drawn in `text_index`.
        counted: what `count_windows` gave.
        wanted: bool [n_latents]; only rows of these latents, of all when left out.
        texts: of the same tokens and windows, if it is there already.

    Raises:
        UnusableInput: a latent is asked for that the SAE does not have.
    """
    shape = window_shape(settings, tokens)
    texts = texts or RepeatedText(tokens, shape.window)
    everything = np.ones(cache.n_latents, dtype=bool)
    counted = counted or count_windows(cache, shape, texts, settings.seed, everything, threads)
    enough, asked = counted.enough(settings), asked_latents(counted, settings)
    with_rows = ~enough | asked
    if wanted is not None:
        with_rows &= wanted

    def draw(number: int) -> pl.DataFrame:
        latents, entries = cache.part(number, with_rows)
        frame = draw_block(latents, entries, counted, enough, tokens, shape, texts, settings, neighbours, pools)
        advance(len(latents))
        return frame

    # numpy lets go of the interpreter lock in sorts and gathers. Each thread reads its own blocks, so that only as
    # many as there are threads lie in memory; results come back in the order of blocks.
    with ThreadPoolExecutor(threads) as pool:
        pools = None
        if neighbours is not None:
            near = np.zeros(cache.n_latents, dtype=bool)
            near[neighbours[with_rows & enough].ravel()] = True
            pools = window_pools(cache, shape, texts, settings.seed, near, pool)
        return pl.concat([EMPTY, *pool.map(draw, cache.blocks_of(with_rows))])


EMPTY = pl.DataFrame(schema=EXAMPLES)


def window_shape(settings: Examples, tokens: np.ndarray) -> WindowShape:
    return WindowShape(settings.window, settings.placement, *tokens.shape)


def count_windows(
    cache: CacheReader, shape: WindowShape, texts: RepeatedText, seed: int, wanted: np.ndarray, threads: int = 2
) -> Counted:
    """The active windows of each wanted latent; 0 for the others.

    Args:
        wanted: bool [n_latents].
    """
    counted = Counted(cache.entries, *np.zeros((3, cache.n_latents), dtype=np.int64))

    def count(number: int) -> None:
        latents, entries = cache.part(number, wanted)
        active = active_windows(entries, shape, seed)
        windows = texts.distinct(active, seed)
        after = np.append(latents, latents[-1] + 1)
        ends = np.searchsorted(windows.latent, after)
        both = np.diff(ends)
        counted.repeated[latents] = np.diff(np.searchsorted(active.latent, after)) - both
        explaining = for_explaining(seed, windows.latent, windows.context)
        explain = np.diff(np.concatenate([[0], np.cumsum(explaining)])[ends])
        counted.windows[latents], counted.smaller_side[latents] = both, np.minimum(explain, both - explain)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, cache.blocks_of(wanted)))
    return counted


def asked_latents(counted: Counted, settings: Examples) -> np.ndarray:
    """Which latents get examples if they have enough windows; bool [n_latents]."""
    n = len(counted.windows)
    asked = np.zeros(n, dtype=bool)
    if settings.latents == "all":
        asked[:] = True
    elif isinstance(settings.latents, int):
        candidates = np.flatnonzero(counted.enough(settings))
        asked[first_latents(settings.seed, candidates.tolist(), settings.latents)] = True
    else:
        assert isinstance(settings.latents, tuple), "latents drawn along the alignment stand in a list by now"
        if beyond := [latent for latent in settings.latents if latent >= n]:
            raise UnusableInput(f"examples.latents: there is no latent {beyond[0]}; this SAE has 0 to {n - 1}")
        asked[list(settings.latents)] = True
    return asked


class Drawn(NamedTuple):
    """Windows drawn for one purpose, and what the table says about each."""

    windows: Windows
    example: np.ndarray
    purpose: str
    kind: str
    decile: np.ndarray | None = None
    neighbour: np.ndarray | None = None


def draw_block(
    latents: np.ndarray,
    entries: Entries,
    counted: Counted,
    enough: np.ndarray,
    tokens: np.ndarray,
    shape: WindowShape,
    texts: RepeatedText,
    settings: Examples,
    neighbours: np.ndarray | None,
    pools: Pools | None,
) -> pl.DataFrame:
    """The rows of some latents: examples of those with enough windows, the reason for those with too few."""
    refused = without_examples(latents[~enough[latents]], counted, settings)
    chosen = latents[enough[latents]]
    if not len(chosen):
        return conform(refused, EXAMPLES)
    windows = active_windows(entries, shape, settings.seed)
    windows = texts.distinct(windows.take(enough[windows.latent]), settings.seed)
    explaining = for_explaining(settings.seed, windows.latent, windows.context)
    lookup = ActivationLookup(entries, shape)
    decile, priority = deciles(windows), priorities(settings.seed, windows)
    explain, test = settings.explain, settings.test
    drawn, shown = [], Shown(texts)
    for purpose, sampler, n, side in (
        ("explain", explain.sampler, explain.n, explaining),
        ("test", "quantiles", test.activating, ~explaining),
    ):
        at = np.flatnonzero(side)
        group = np.searchsorted(chosen, windows.latent[at])
        taken, turn = sample(sampler, n, explain.pool, group, windows.peak[at], decile[at], priority[at])
        picked = windows.take(at[taken])
        shown.add(picked.latent, picked.context, picked.start)
        drawn.append(Drawn(picked, turn, purpose, "activating", decile=decile[at[taken]]))
    # Random ones first: so they stay a sample of all that is silent. Those of similar text come later, from `text_index`.
    for kind in ("random", "neighbour"):
        numbers = np.array(test.numbers(kind) if kind in test.kinds else ())
        if not len(numbers):
            continue
        slots = slots_beside(picked.latent, picked.start, len(numbers))
        if kind == "random":
            found = random_negatives(slots, lookup, shown, settings.seed)
        else:
            assert neighbours is not None and pools is not None
            found = neighbour_negatives(slots, neighbours, pools, lookup, shown, settings.seed)
        drawn.append(Drawn(found.windows, numbers[found.number], "test", kind, neighbour=found.neighbour))
    by = NEIGHBOUR_BY[test.neighbour_by]
    rows = pl.concat([refused, *(as_frame(each, by) for each in drawn)], how="diagonal").sort(
        "latent", maintain_order=True
    )
    return conform(with_text(rows, tokens, lookup), EXAMPLES)


NEIGHBOUR_BY = {"decoder": "decoder_cosine", "encoder": "encoder_cosine", "cooccurrence": "cooccurrence"}


def as_frame(drawn: Drawn, neighbour_by: str) -> pl.DataFrame:
    columns = {"latent": drawn.windows.latent.astype(np.uint32), "example": drawn.example}
    columns |= {"context": drawn.windows.context, "start": drawn.windows.start, "peak_activation": drawn.windows.peak}
    columns |= {"decile": drawn.decile} if drawn.decile is not None else {}
    columns |= {"neighbour": drawn.neighbour} if drawn.neighbour is not None else {}
    frame = pl.DataFrame(columns)
    if drawn.neighbour is not None:
        frame = frame.with_columns(neighbour_by=pl.lit(neighbour_by))
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


def without_examples(latents: np.ndarray, counted: Counted, settings: Examples) -> pl.DataFrame:
    """One row for each latent that has too few windows, with the reason."""
    dead = counted.firings[latents] == 0
    reasons = [
        "never fires on the corpus"
        if never
        else f"{count} active windows{f' ({repeated} more repeat their text)' if repeated else ''}, "
        f"examples.min_windows is {settings.min_windows}"
        if count < settings.min_windows
        else f"all of its {count} active windows fall on one side of the split into explain and test contexts"
        for never, count, repeated in zip(dead, counted.windows[latents], counted.repeated[latents], strict=True)
    ]
    return pl.DataFrame(
        {
            "latent": latents.astype(np.uint32),
            "status": np.where(dead, "dead", "too_few_examples"),
            "reason": reasons,
        },
        schema={"latent": pl.UInt32, "status": pl.String, "reason": pl.String},
    )
