"""Hashes of logical values: of a column whatever holds it, of plain JSON values whatever their order."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa


def combined_hash(parts: Any) -> str:
    """A hash of plain JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def mixed(x: np.ndarray) -> np.ndarray:
    """The mixing function of splitmix64 (Steele, Lea, Flood 2014): uint64 in, as good as random uint64 out."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def set_hashes(groups: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """A hash of each group's rows as a set, uint64 [groups].

    Args:
        groups: how many rows each group has; the rows of one group stand together.
        columns: non-negative integers, one for each row.
    """
    if not groups.sum():
        return np.zeros(len(groups), dtype=np.uint64)
    with np.errstate(over="ignore"):
        rows = np.zeros(len(columns[0]), dtype=np.uint64)
        for column in columns:
            rows = mixed(rows ^ column.astype(np.uint64))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(rows)])
        ends = np.cumsum(groups)
        return mixed(sums[ends] - sums[ends - groups])


def column_hash(series: pl.Series) -> str:
    """A hash of a column's logical values, whatever the chunks, buffers or library versions that hold them."""
    digest = hashlib.sha256()
    _feed(digest, series.rechunk().to_arrow())
    return digest.hexdigest()[:16]


def _feed(digest: Any, array: pa.Array) -> None:
    digest.update(f"{len(array)} {array.null_count};".encode())
    if array.null_count:
        digest.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)))
        array = array.drop_null()
    if pa.types.is_large_list(array.type) or pa.types.is_list(array.type):
        offsets = array.offsets.to_numpy()
        digest.update(np.diff(offsets).astype("<i8").tobytes())
        _feed(digest, array.values.slice(offsets[0], offsets[-1] - offsets[0]))
    elif pa.types.is_string_view(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string(array.type):
        _feed(digest, _text_as_bytes(array))
    elif not pa.types.is_null(array.type):
        values = array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array
        digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())


def _text_as_bytes(array: pa.Array) -> pa.Array:
    text = array.cast(pa.large_string())
    start, end = text.offset, text.offset + len(text)
    offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[start : end + 1] if len(text) else np.zeros(1, np.int64)
    data = text.buffers()[2]
    values = (
        np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]] if data is not None else np.zeros(0, np.uint8)
    )
    return pa.LargeListArray.from_arrays(offsets - offsets[0], pa.array(values))
