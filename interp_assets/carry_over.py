"""Rows of an earlier generation that still hold: those whose `inputs_hash` is the same.

A row's `inputs_hash` is taken of all that the row depends on, the code version left out: rows are carried over only
from generations of the same code version.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import polars as pl

from interp_assets.tables import Schema
from resources.partition_files import Partition


def inputs_hash(*parts: Any) -> int:
    """A uint64 of plain JSON values and bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return int.from_bytes(digest.digest(), "little")


def windows_by_latent(windows: pl.DataFrame) -> dict[int, bytes]:
    """For each latent a hash of its rows of the examples table, in the order in which they stand.

    Args:
        windows: rows with `latent, example, kind, start, tokens, activations`, those of one latent together.
    """
    if not len(windows):
        return {}
    latent = windows["latent"].to_numpy()
    firsts = np.flatnonzero(np.append(True, latent[1:] != latent[:-1]))
    tokens = windows["tokens"].explode().to_numpy().reshape(len(windows), -1)
    activations = windows["activations"].explode().to_numpy().reshape(len(windows), -1)
    example = windows["example"].to_numpy()
    # Whether a token is the context's BOS, which is not shown, is told by its place.
    begins = (windows["start"] == 0).to_numpy()
    kind = (windows["kind"] == "activating").to_numpy()
    found = {}
    for first, last in zip(firsts, np.append(firsts[1:], len(windows)), strict=True):
        part = slice(first, last)
        digest = hashlib.blake2b(digest_size=8)
        for column in (tokens, activations, example, kind, begins):
            digest.update(np.ascontiguousarray(column[part]).data)
        found[int(latent[first])] = digest.digest()
    return found


def still_hold(
    earlier: Partition | None, table: str, wanted: pl.DataFrame, schema: Schema, retrying: bool = False
) -> pl.DataFrame:
    """The rows of an earlier generation's table that need not be made anew.

    Args:
        wanted: the key columns of the rows that are wanted, and their `inputs_hash`.
        retrying: rows that failed are made anew too, as those always are that a budget left out.
    """
    if earlier is None:
        return pl.DataFrame(schema=schema)
    kept = earlier.read(table).join(wanted, on=wanted.columns, how="semi", maintain_order="left")
    if "status" not in schema:
        return kept
    again = kept.filter(pl.col("status").is_in(["failed", "not_asked"] if retrying else ["not_asked"]))
    return kept.join(again, on=wanted.columns, how="anti", maintain_order="left")


def without(wanted: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """The wanted rows of which nothing was kept."""
    return wanted.join(kept, on=wanted.columns, how="anti", maintain_order="left")
