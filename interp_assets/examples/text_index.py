"""text_index: embeddings of windows of the corpus, and the windows nearest to what a latent fires on.

The index is built once for a corpus. Each distinct window is embedded once; which windows are in it, a keyed draw decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from interp_assets.activations.cache_file import CacheReader
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.distinct import Shown, fill, offers, slots_beside
from interp_assets.examples.draws import INDEX_WINDOW, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.windows import ActivationLookup, WindowShape, for_explaining
from interp_assets.job import Job, Metadata, computes
from interp_assets.models import embedder
from interp_assets.progress import Progress
from interp_assets.tables import EXAMPLES, TEXT_INDEX, conform
from resources.partition_files import Partition

Embed = Callable[[Sequence[Sequence[int]], Sequence[int]], np.ndarray]
"Windows of token ids, and where in its context each begins, to unit vectors float32 [windows, d]."
NEAREST = 32
"Windows considered for each that is wanted, the nearest."
LATENTS_AT_ONCE = 256
"Bounds the memory for similarities; results do not depend on it."


@computes("text_index")
def text_index(job: Job) -> Metadata:
    settings = job.study.examples.similar_text
    assert settings is not None
    tokens = tokens_matrix(job.input("corpus").read("corpus", ["tokens"]))
    context, start = sampled_windows(tokens.shape, job.study.examples.window, settings.windows, job.study.examples.seed)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, job.study.examples.window, axis=1)[context, start]
    rendering = Rendering.of(job.study)
    shown = [rendering.window(*each) for each in zip(windows.tolist(), start.tolist(), strict=True)]
    texts = rendering.texts(shown)
    model = embedder(job.study, settings, job.models)
    with Progress(job.label, model.new({"document": texts}), "texts") as progress:
        vectors = model.embed(texts, progress.advance)
    columns = {"context": context, "start": start, "vector": pl.Series(vectors).arr.to_list()}
    job.draft.write("windows", conform(pl.DataFrame(columns), TEXT_INDEX))
    return {"windows": len(context), "distinct_texts": len(set(texts)), "dimensions": vectors.shape[1]}


def sampled_windows(shape: tuple[int, ...], window: int, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and starts, int64, of at most `most` windows of the corpus: those of lowest keyed priority.

    Args:
        shape: contexts and their length, which are cut into windows from their start.
    """
    places = shape[1] // window
    context, place = np.divmod(np.arange(shape[0] * places), places)
    start = place * window
    taken = np.sort(np.argsort(keyed(seed, INDEX_WINDOW, context, start), kind="stable")[:most])
    return context[taken], start[taken]


@dataclass(frozen=True)
class TextIndex:
    context: np.ndarray
    "int64 [windows]"
    start: np.ndarray
    "int64 [windows]"
    vectors: np.ndarray
    "float32 [windows, d], of length 1"

    @classmethod
    def of(cls, partition: Partition) -> TextIndex:
        table = partition.read("windows")
        vectors = table["vector"].explode().to_numpy().reshape(len(table), -1)
        return cls(table["context"].to_numpy().astype(np.int64), table["start"].to_numpy().astype(np.int64), vectors)


def places_of(rows: pl.DataFrame, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent, context and start of what some latents have in the examples table, int64; by latent and number."""
    theirs = rows.filter(pl.col("latent").is_in(latents.tolist()), pl.col("start").is_not_null())
    theirs = theirs.sort("latent", "example").select(pl.col("latent", "context", "start").cast(pl.Int64))
    return theirs["latent"].to_numpy(), theirs["context"].to_numpy(), theirs["start"].to_numpy()


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
    """For each latent up to n windows of its test contexts, on which it is silent, that read most like what it fires on.

    A latent's query is the mean embedding of its explain examples. A window stands where one of the latent's test
    windows stands in its context, and holds the middle of a window of the index.

    Args:
        drawn: rows of the examples table, all that were drawn for some latents.
        tokens: uint32 [contexts, context_length], the corpus of the cache.
        texts: of these tokens.

    Returns:
        rows of the examples table; `example` is the number of the test window beside which each stands.
    """
    explain = drawn.filter(pl.col("purpose") == "explain")
    if not len(explain):
        return pl.DataFrame(schema=EXAMPLES)
    latents = explain["latent"].unique().sort().to_numpy().astype(np.int64)
    window = len(explain["tokens"][0])
    shape = WindowShape(window, "aligned", *tokens.shape)
    group = np.searchsorted(latents, explain["latent"].to_numpy())
    vectors = embed(explain["tokens"].to_list(), explain["start"].to_list())
    queries = np.zeros((len(latents), vectors.shape[1]), dtype=np.float32)
    np.add.at(queries, group, vectors)
    wanted = np.zeros(cache.n_latents, dtype=bool)
    wanted[latents] = True
    rows = []
    for number in cache.blocks_of(wanted):
        held, entries = cache.part(number, wanted)
        lookup = ActivationLookup(entries, shape)
        shown = Shown(texts)
        shown.add(*places_of(drawn, held))
        for some in np.split(held, range(LATENTS_AT_ONCE, len(held), LATENTS_AT_ONCE)):
            similar = queries[np.searchsorted(latents, some)] @ index.vectors.T
            similar[for_explaining(seed, some[:, None], index.context)] = -np.inf
            entry = np.argsort(-similar, axis=1, kind="stable")[:, : NEAREST * n].ravel()
            row = np.repeat(np.arange(len(some)), len(entry) // len(some))
            usable = np.isfinite(similar[row, entry])
            row, entry = row[usable], entry[usable]
            latent, _, start = places_of(
                drawn.filter(pl.col("kind") == "activating", pl.col("purpose") == "test"), some
            )
            slots = slots_beside(latent, start, n)
            slot, liked = offers(slots, some[row], index.context[entry], index.start[entry] + window // 2, texts, seed)
            row, entry = row[liked], entry[liked]
            usable = lookup.silent(some[row], index.context[entry], slots.start[slot])
            slot, entry, liked = slot[usable], entry[usable], liked[usable]
            order = np.lexsort((liked, slot))  # nearest first
            slot, context = slot[order], index.context[entry[order]]
            taken = fill(slots, slot, context, shown)
            of = slots.take(slot[taken])
            columns = {"latent": of.latent, "example": of.number, "context": context[taken], "start": of.start}
            rows.append(pl.DataFrame(columns))
    found = pl.concat(rows)
    text = np.lib.stride_tricks.sliding_window_view(tokens, window, axis=1)[found["context"], found["start"]]
    silent = np.zeros(text.shape, dtype=np.float32)
    return conform(
        found.with_columns(
            tokens=pl.Series(text).arr.to_list(),
            activations=pl.Series(silent).arr.to_list(),
            peak_activation=pl.lit(0.0),
            purpose=pl.lit("test"),
            kind=pl.lit("similar_text"),
            status=pl.lit("ok"),
        ),
        EXAMPLES,
    )
