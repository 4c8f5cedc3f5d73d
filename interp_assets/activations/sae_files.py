"""sae_weights: the fingerprint of one layer's SAE. Needs no torch, so that the watcher can make it."""

from __future__ import annotations

import polars as pl

from interp_assets.job import Job, Metadata, computes
from interp_assets.tables import SAE_WEIGHTS, conform


@computes("sae_weights")
def sae_weights(job: Job) -> Metadata:
    location = job.study.layer(job.layer).location
    hashes = job.freshness.file_hashes
    rows = [{"file": f.name, "bytes": f.stat().st_size, "sha256": hashes.sha256(f)} for f in location.files()]
    job.draft.write("files", conform(pl.DataFrame(rows), SAE_WEIGHTS))
    return {
        "format": location.format,
        "bytes": sum(row["bytes"] for row in rows),
        "published_l0": location.published_l0() or "not published",
        "weights": {"path": str(location.folder)},
    }
