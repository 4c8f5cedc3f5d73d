"""sae_weights: the fingerprint of one layer's SAE. Needs no torch, so that the watcher can make it."""

from __future__ import annotations

from typing import Any

import polars as pl

from interp_assets.job import Job, Metadata, computes
from interp_assets.tables import SAE_WEIGHTS, conform
from resources.content_hash import combined_hash
from resources.sparse_autoencoders.locate import SaeLocation


@computes("sae_weights")
def sae_weights(job: Job) -> Metadata:
    location = job.study.layer(job.layer).location
    hashes = job.freshness.file_hashes
    rows: list[dict[str, Any]] = [
        {"file": f.name, "bytes": f.stat().st_size, "sha256": hashes.sha256(f)} for f in location.files()
    ]
    if not isinstance(location, SaeLocation):
        # No file, or none of its own: what decides it stands in place of a file's content.
        parts = job.fingerprint.parts
        rows = [{"file": location.format, "bytes": 0, "sha256": combined_hash([parts["settings"], parts["files"]])}]
    job.draft.write("files", conform(pl.DataFrame(rows), SAE_WEIGHTS))
    weights = {"weights": {"path": str(location.folder)}} if isinstance(location, SaeLocation) else {}
    return {
        "format": location.format,
        "bytes": sum(row["bytes"] for row in rows),
        "published_l0": location.published_l0() or "not published",
    } | weights
