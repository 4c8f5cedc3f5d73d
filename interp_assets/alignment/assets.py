"""layer_matching: which latents of two layers belong together."""

from __future__ import annotations

import numpy as np
import polars as pl

from interp_assets.alignment.matching import match
from interp_assets.job import Job, Metadata, computes
from interp_assets.partitions import layers_of_pair
from resources.sparse_autoencoders.locate import SaeLocation
from resources.sparse_autoencoders.read import read_sae


@computes("layer_matching")
def layer_matching(job: Job) -> Metadata:
    settings = job.study.alignment
    assert settings is not None
    directions, latents = [], []
    for layer in layers_of_pair(job.study, str(job.key)):
        location = job.study.layer(layer).location
        assert isinstance(location, SaeLocation), "controls are matched with nothing"
        sae = read_sae(location)
        weights = sae.W_dec if settings.similarity == "decoder" else sae.W_enc
        directions.append(weights.float().numpy())
        statistics = job.input("latent_statistics", layer).read("statistics", ["latent", "dead"])
        latents.append(statistics.filter(~pl.col("dead"))["latent"].to_numpy().astype(np.int64))
    table = match(*directions, *latents)
    job.draft.write("matching", table)
    return {
        "matched": len(table),
        "left_over": abs(len(latents[0]) - len(latents[1])),
        "mean_similarity": round(float(table["similarity"].mean() or 0.0), 4),  # type: ignore[arg-type]
        "mutual_nearest": int(table["mutual_nearest"].sum()),
    }
