"""examples: what each latent is explained from and tested on."""

from __future__ import annotations

from typing import Any

import polars as pl

from interp_assets.activations.cache_file import CacheReader
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.negatives import decoder_neighbours
from interp_assets.examples.rendering import Rendering
from interp_assets.job import Job, Metadata, computes
from interp_assets.progress import Progress
from resources.sparse_autoencoders.read import read_sae


@computes("examples")
def examples(job: Job) -> Metadata:
    settings = job.study.examples
    cache = CacheReader(job.input("activation_cache"))
    tokens = tokens_matrix(job.input("corpus").read("corpus", ["tokens"]))
    neighbours = None
    if settings.test.negatives == "neighbour":
        neighbours = decoder_neighbours(read_sae(job.study.layer(job.layer or "").location).W_dec)
    with Progress(job.label, cache.n_latents, "latents") as progress:
        table = draw_examples(cache, tokens, settings, neighbours, progress.advance)
    job.draft.write("examples", table)
    per_status = table.unique("latent")["status"].value_counts()
    counts = dict(per_status.iter_rows())
    return {
        "latents_interpreted": counts.get("ok", 0),
        "latents_with_too_few_examples": counts.get("too_few_examples", 0),
        "latents_dead": counts.get("dead", 0),
        "examples": int((table["status"] == "ok").sum()),
        "some_examples": {"table": strongest(table, Rendering.of(job.study))},
    }


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
            "example": " ".join(rendering.marked(row["tokens"], row["activations"], 0.3).split()),
        }
        for row in rows.iter_rows(named=True)
    ]
