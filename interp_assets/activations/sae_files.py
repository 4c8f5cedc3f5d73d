"""sae_weights: the fingerprint of one layer's SAE. Needs no torch, so that the watcher can make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from interp_assets.job import Job, Metadata, computes
from interp_assets.tables import SAE_WEIGHTS, conform
from resources.content_hash import combined_hash
from resources.hub import origin_of


@computes("sae_weights")
def sae_weights(job: Job) -> Metadata:
    layer = job.study.layer(job.layer)
    location, hashes = layer.location, job.freshness.file_hashes
    files = location.files()
    rows: list[dict[str, Any]] = [
        {"file": f.name, "bytes": f.stat().st_size, "sha256": hashes.sha256(f)} for f in files
    ]
    if layer.control is not None:
        # What decides a control stands beside the files that it may have.
        parts = job.fingerprint.parts
        decides = combined_hash([parts["settings"], parts["files"]])
        rows.append({"file": f"({layer.control})", "bytes": 0, "sha256": decides})
    job.draft.write("files", conform(pl.DataFrame(rows), SAE_WEIGHTS))
    return {
        "format": location.format,
        "bytes": sum(row["bytes"] for row in rows),
        "published_l0": location.published_l0() or "not published",
    } | where_from(files)


def where_from(files: list[Path]) -> Metadata:
    """The folder of an SAE's files; of those that were fetched from the hub the repository and its commit."""
    if not files:
        return {}
    origin = origin_of(files[0].parent)
    hub = {} if origin is None else {"hub": "/".join(filter(None, origin[0])), "commit": origin[1]}
    return {"weights": {"path": str(files[0].parent)}} | hub
