"""Negatives that read like the windows on which a latent fires: beside each activating test window stands another one.

It begins in its context where that window begins in its own, so that a place tells nothing, and it is the window of the index
that reads most like it. Looked up is each window by itself: the means of several lie near the centre of the space, and
nearest to all of them the same few windows, *hubs* (Radovanovic, Nanopoulos and Ivanovic 2010). What hubs are left, two
corrections take away, both computed from the index alone, so that what is looked up for one latent depends on no other:

- the mean of the index is subtracted (Suzuki et al. 2013);
- the measure is cross-domain similarity local scaling, CSLS (Conneau et al. 2018, arXiv 1710.04087), 2 cos(q, w) - r(w), where
  r(w) is the mean cosine of w with the windows nearest to it: what is near to everything is near to nothing in particular.

Windows that explainers see are not looked up: an explanation that quotes them would be nearer to what was found for them
than to other windows of its own latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples.distinct import Shown, Slots, fill, slots_beside
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.text_index import TextIndex
from interp_assets.examples.windows import ActivationLookup, WindowShape, for_explaining
from interp_assets.tables import EXAMPLES, conform

Embed = Callable[[Sequence[Sequence[int]], Sequence[int]], np.ndarray]
"Windows of token ids, and where in its context each begins, to unit vectors float32 [windows, d]."
LATENTS_AT_ONCE = 256
"Bounds the memory for similarities; results do not depend on it."
SPARE = 16
"Contexts that are considered for a negative beyond as many as its latent has negatives."


def queries_beside(test: pl.DataFrame, n: int, embed: Embed) -> tuple[Slots, np.ndarray]:
    """n slots for each latent, one beside each of its activating test windows, and the embeddings of these, float32
    [slots, d].

    Args:
        test: rows of the examples table of these windows.
    """
    # No more of a latent's windows take part than there are slots.
    test = test.sort("latent", "example").filter(pl.int_range(pl.len()).over("latent") < n)
    latent, start = (test[name].to_numpy().astype(np.int64) for name in ("latent", "start"))
    slots = slots_beside(latent, start, n)
    first, end = (np.searchsorted(latent, slots.latent, side=side) for side in ("left", "right"))
    return slots, embed(test["tokens"].to_list(), test["start"].to_list())[first + slots.number % (end - first)]


def similar_negatives(
    drawn: pl.DataFrame,
    n: int,
    index: TextIndex,
    embed: Embed,
    cache: CacheReader,
    tokens: np.ndarray,
    texts: RepeatedText,
    seed: int,
) -> pl.DataFrame:
    """For each latent up to n windows of its test contexts, on which it is silent, that read like those it fires on.

    Args:
        drawn: rows of the examples table, all that were drawn for some latents.
        tokens: uint32 [contexts, context_length], the corpus of the cache.
        texts: of these tokens.

    Returns:
        rows of the examples table; `example` is the number of the test window that a negative stands beside.
    """
    test = drawn.filter((pl.col("purpose") == "test") & (pl.col("kind") == "activating"))
    if test.is_empty():
        return pl.DataFrame(schema=EXAMPLES)
    window = len(test["tokens"][0])
    shape = WindowShape(window, "aligned", *tokens.shape)
    slots, queries = queries_beside(test, n, embed)
    wanted = np.zeros(cache.n_latents, dtype=bool)
    wanted[slots.latent] = True
    rows = []
    for number in cache.blocks_of(wanted):
        held, entries = cache.part(number, wanted)
        lookup, shown = ActivationLookup(entries, shape), Shown(texts)
        shown.add(*places_of(drawn, held))
        for some in np.split(held, range(LATENTS_AT_ONCE, len(held), LATENTS_AT_ONCE)):
            theirs = np.isin(slots.latent, some)
            mine = slots.take(theirs)
            slot, context = offers(mine, queries[theirs], n + SPARE, index, lookup, seed)
            taken = fill(mine, slot, context, lookup, shown)
            filled = mine.take(slot[taken])
            columns = {"latent": filled.latent, "example": filled.number, "context": context[taken]}
            rows.append(pl.DataFrame(columns | {"start": filled.start}))
    found = pl.concat(rows)
    text = np.lib.stride_tricks.sliding_window_view(tokens, window, axis=1)[found["context"], found["start"]]
    return conform(
        found.with_columns(
            tokens=pl.Series(text).arr.to_list(),
            activations=pl.Series(np.zeros(text.shape, dtype=np.float32)).arr.to_list(),
            peak_activation=pl.lit(0.0),
            purpose=pl.lit("test"),
            kind=pl.lit("similar_text"),
            status=pl.lit("ok"),
        ),
        EXAMPLES,
    )


def places_of(rows: pl.DataFrame, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent, context and start of what some latents have in the examples table, int64; by latent and number."""
    theirs = rows.filter(pl.col("latent").is_in(latents.tolist()), pl.col("start").is_not_null())
    theirs = theirs.sort("latent", "example").select(pl.col("latent", "context", "start").cast(pl.Int64))
    return theirs["latent"].to_numpy(), theirs["context"].to_numpy(), theirs["start"].to_numpy()


def offers(
    slots: Slots, queries: np.ndarray, most: int, index: TextIndex, lookup: ActivationLookup, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each slot the contexts, at most so many, whose window nearest to the slot's start reads most like its query.

    They are test contexts of the latent, which is silent on the window at the slot's start.

    Returns:
        slots (indices, ascending) and contexts, int64 [offers], those that read most alike first.
    """
    window = lookup.shape.window
    place = np.minimum((slots.start + window // 2) // window, lookup.shape.places - 1)
    slot_of, context_of = [], []
    for each in np.unique(place):
        asking, there = np.flatnonzero(place == each), np.flatnonzero(index.start == each * window)
        latent, context = slots.latent[asking], index.context[there]
        row, entry = np.nonzero(~for_explaining(seed, latent[:, None], context[None, :]))
        near = np.full((len(asking), len(there)), -np.inf, dtype=np.float32)
        silent = lookup.silent(latent[row], context[entry], slots.start[asking[row]])
        row, entry = row[silent], entry[silent]
        near[row, entry] = index.near(queries[asking], there)[row, entry]
        best = np.argsort(-near, axis=1, kind="stable")[:, :most]
        row, rank = np.nonzero(np.isfinite(np.take_along_axis(near, best, axis=1)))
        slot_of.append(asking[row])
        context_of.append(context[best[row, rank]])
    slot, context = np.concatenate(slot_of), np.concatenate(context_of)
    order = np.argsort(slot, kind="stable")
    return slot[order], context[order]
