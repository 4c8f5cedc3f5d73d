"""examples: what each latent is explained from and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from interp_assets.activations.cache_file import CacheReader
from interp_assets.carry_over import inputs_hash
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.along import draws_table, numbers_of
from interp_assets.examples.cooccurrence import cooccurring
from interp_assets.examples.drawing import asked_latents, count_windows, draw_examples, window_shape
from interp_assets.examples.negatives import NEIGHBOURS, nearest_rows
from interp_assets.examples.rendering import Rendering
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.shortfalls import shortfalls
from interp_assets.examples.similar_text import similar_negatives
from interp_assets.examples.text_index import TextIndex
from interp_assets.job import Inputs, Job, Metadata, computes
from interp_assets.layer_sae import sae_of
from interp_assets.models import embedder
from interp_assets.progress import Progress
from interp_assets.settings import Examples
from interp_assets.tables import EXAMPLE_LATENTS, EXAMPLES, conform
from resources.content_hash import mixed
from resources.partition_files import Partition


@computes("examples")
def examples(job: Job) -> Metadata:
    settings = job.study.examples_of(job.layer)
    cache = CacheReader(job.input("activation_cache"))
    tokens = tokens_matrix(job.input("corpus").read("corpus", ["tokens"]))
    neighbours = neighbours_of(job, cache, tokens) if "neighbour" in settings.test.kinds else None
    hashes = latent_inputs(job, settings, cache.entries_hash, neighbours)
    earlier = job.earlier()
    same = unchanged(earlier, hashes)
    texts = RepeatedText(tokens, settings.window)
    counted = count_windows(cache, window_shape(settings, tokens), texts, settings.seed, ~same)
    kept = pl.DataFrame(schema=EXAMPLES)
    if earlier is not None and same.any():
        known = earlier.read("latents", COUNTED)
        for name in COUNTED:
            getattr(counted, name)[same] = known[name].to_numpy()[np.flatnonzero(same)]
    if settings.along_alignment:
        draws = draws_table(numbers_of(job, cache.n_latents), counted.enough(settings))
        job.draft.write("draws", draws)
        settings = settings.model_copy(update={"latents": tuple(draws["latent"].head(settings.most_latents or 0))})
    if earlier is not None and same.any():
        has_rows = same & (asked_latents(counted, settings) | ~counted.enough(settings))
        rows = earlier.read("examples")
        kept = rows.filter(pl.Series(has_rows[rows["latent"].to_numpy()]))
    again = np.ones(cache.n_latents, dtype=bool)
    again[kept["latent"].unique().to_numpy()] = False
    with Progress(job.label, int(again.sum()), "latents") as progress:
        drawn = draw_examples(
            cache, tokens, settings, neighbours, progress.advance, counted=counted, wanted=again, texts=texts
        )
    if "similar_text" in settings.test.kinds:
        drawn = pl.concat([drawn, similar_text_rows(job, drawn, cache, tokens, texts)])
    table = pl.concat([kept, drawn]).sort("latent", maintain_order=True)
    job.draft.write("examples", table)
    latents = {name: getattr(counted, name) for name in COUNTED} | {"inputs_hash": hashes}
    job.draft.write("latents", conform(pl.DataFrame(latents).with_row_index("latent"), EXAMPLE_LATENTS))
    short = shortfalls(table, settings)
    job.draft.write("shortfalls", short)
    per_status = table.unique("latent")["status"].value_counts()
    counts = dict(per_status.iter_rows())
    return {
        "latents_interpreted": counts.get("ok", 0),
        "latents_with_too_few_examples": counts.get("too_few_examples", 0),
        "latents_dead": counts.get("dead", 0),
        "latents_carried_over": kept["latent"].n_unique(),
        "latents_drawn": drawn["latent"].n_unique(),
        "examples": int((table["status"] == "ok").sum()),
        "repeated_share_of_corpus_windows": float(texts.somewhere.mean()),
        "repeated_share_of_active_windows": float(
            counted.repeated.sum() / max((counted.windows + counted.repeated).sum(), 1)
        ),
        "lacking": lacking(short),
        "some_examples": {"table": strongest(table, Rendering.of(job.study))},
    }


COUNTED = ["windows", "repeated", "smaller_side"]
"What `count_windows` gives and the table `latents` keeps."


def neighbours_of(job: Job, cache: CacheReader, tokens: np.ndarray) -> np.ndarray:
    """The latents most similar to each by the study's measure, nearest first; int64 [n_latents, NEIGHBOURS]."""
    by = job.study.examples.test.neighbour_by
    if by == "cooccurrence":
        contexts, length = tokens.shape
        return cooccurring(cache, contexts, length, NEIGHBOURS)[0]
    sae = sae_of(job.study, job.study.layer(job.layer), job.models)
    return nearest_rows(sae.W_dec if by == "decoder" else sae.W_enc.T)


def lacking(short: pl.DataFrame) -> str:
    """In words how many windows of each kind are missing."""
    of = short.group_by("purpose", "kind", maintain_order=True).agg(
        pl.len(), missing=(pl.col("wanted") - pl.col("drawn")).sum()
    )
    rows = of.sort("purpose", "kind").iter_rows()
    return "; ".join(f"{missing} {purpose} {kind} of {n} latents" for purpose, kind, n, missing in rows) or "nothing"


def similar_text_rows(
    job: Job, drawn: pl.DataFrame, cache: CacheReader, tokens: np.ndarray, repeated: RepeatedText
) -> pl.DataFrame:
    """Negatives of the kind similar_text for the latents that were drawn."""
    settings, rendering = job.study.examples, Rendering.of(job.study)
    numbers = settings.test.numbers("similar_text")
    if settings.similar_text is None or not len(numbers) or not (drawn["purpose"] == "explain").any():
        return pl.DataFrame(schema=EXAMPLES)
    model = embedder(job.study, settings.similar_text, job.models)
    index = TextIndex.of(job.input("text_index"))

    def embed(windows: Sequence[Sequence[int]], starts: Sequence[int]) -> np.ndarray:
        texts = rendering.texts([rendering.window(*each) for each in zip(windows, starts, strict=True)])
        with Progress(f"{job.label}: test windows", model.new({"document": texts}), "texts") as progress:
            return model.embed(texts, progress.advance)

    found = similar_negatives(drawn, len(numbers), index, embed, cache, tokens, repeated, settings.seed)
    return found.with_columns(example=pl.col("example") * numbers.step + numbers.start)


def latent_inputs(
    inputs: Inputs, settings: Examples, entries_hash: np.ndarray, neighbours: np.ndarray | None
) -> np.ndarray:
    """The inputs_hash of every latent, uint64 [n_latents]: of its activations, those of its neighbours, the text.

    Which latents are wanted is left out: it decides whether a latent is there, not what is drawn for it.
    """
    basis = inputs_hash(
        settings.identity() | {"latents": None},
        inputs.input("corpus").tables["corpus"]["columns"]["tokens"],
        *([inputs.input("text_index").content_hash] if "similar_text" in settings.test.kinds else []),
    )
    hashes = mixed(entries_hash ^ np.uint64(basis))
    if neighbours is not None:
        for each in neighbours.T:
            hashes = mixed(hashes ^ mixed(entries_hash[each] ^ each.astype(np.uint64)))
    return hashes


def unchanged(earlier: Partition | None, hashes: np.ndarray) -> np.ndarray:
    """Which latents have the inputs that they had in an earlier generation; bool [n_latents]."""
    same = np.zeros(len(hashes), dtype=bool)
    if earlier is not None:
        before = earlier.read("latents", ["inputs_hash"])["inputs_hash"].to_numpy()[: len(hashes)]
        same[: len(before)] = before == hashes[: len(before)]
    return same


def strongest(table: pl.DataFrame, rendering: Rendering, latents: int = 8) -> list[dict[str, Any]]:
    """The strongest explain example of a few latents, for the UI."""
    rows = (
        table.filter(pl.col("purpose") == "explain")
        .sort("latent", "peak_activation", descending=[False, True])
        .unique("latent", keep="first", maintain_order=True)
        .head(latents)
    )
    return [
        {
            "latent": row["latent"],
            "peak_activation": round(row["peak_activation"], 2),
            "example": rendering.marked(rendering.window(row["tokens"], row["start"]), row["activations"], 0.3),
        }
        for row in rows.iter_rows(named=True)
    ]
