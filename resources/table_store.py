"""Parquet tables and their manifests on a local disk, keyed by fingerprint.

    <root>/<asset>/<layer>/<fingerprint>/manifest.json       the only commit point: lists the files below
    <root>/<asset>/<layer>/<fingerprint>/<table>-<hash>.parquet
    <root>/pointers/<study>/<asset>/<layer>                   which fingerprint a study completed last

A file that no manifest lists is garbage of an interrupted run. Nothing here knows what the tables mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from resources.errors import NotNow

UNPARTITIONED = "all"


class Busy(NotNow):
    """Another process is writing the same partition."""


@dataclass(frozen=True)
class Partition:
    """A committed partition: its manifest and the tables that it lists."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def content_hash(self) -> str:
        return self.manifest["content_hash"]

    @property
    def metadata(self) -> dict[str, Any]:
        return self.manifest["metadata"]

    @property
    def tables(self) -> dict[str, Any]:
        return self.manifest["tables"]

    def files(self, table: str) -> list[Path]:
        return [self.folder / name for name in self.tables[table]["files"]]

    def read(self, table: str, columns: list[str] | None = None) -> pl.DataFrame:
        return pl.read_parquet(self.files(table), columns=columns)


class TableStore:
    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, asset: str, layer: str | None, fingerprint: str = "") -> Path:
        return self.root / asset / (layer or UNPARTITIONED) / fingerprint

    def partition(self, asset: str, layer: str | None, fingerprint: str) -> Partition | None:
        """What is committed under a fingerprint, or None; also where a file of it has been deleted since."""
        folder = self.folder(asset, layer, fingerprint)
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found = Partition(folder, json.loads((folder / "manifest.json").read_text()))
            if all(file.is_file() for table in found.tables for file in found.files(table)):
                return found
        return None

    def pointed(self, study: str, asset: str, layer: str | None) -> Partition | None:
        """What a study completed last, or None."""
        with contextlib.suppress(FileNotFoundError):
            return self.partition(asset, layer, self._pointer(study, asset, layer).read_text())
        return None

    def point(self, study: str, asset: str, layer: str | None, fingerprint: str) -> None:
        write_aside(self._pointer(study, asset, layer), fingerprint.encode())

    def _pointer(self, study: str, asset: str, layer: str | None) -> Path:
        return self.root / "pointers" / study / asset / (layer or UNPARTITIONED)

    def failure(self, asset: str, layer: str | None, fingerprint: str) -> dict[str, Any] | None:
        """Why a partition failed for good at this fingerprint, or None."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder(asset, layer, fingerprint) / "failed.json").read_text())
        return None

    def record_failure(self, asset: str, layer: str | None, fingerprint: str, failure: dict[str, Any]) -> None:
        write_aside(self.folder(asset, layer, fingerprint) / "failed.json", json.dumps(failure, indent=1).encode())

    def forget_failure(self, asset: str, layer: str | None, fingerprint: str) -> None:
        (self.folder(asset, layer, fingerprint) / "failed.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def draft(self, asset: str, layer: str | None, fingerprint: str) -> Iterator[Draft]:
        """The one writer of a partition. What is not committed when the block ends is removed.

        Raises:
            Busy: another process holds this partition.
        """
        folder = self.folder(asset, layer, fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                label = f"{asset}[{layer}]" if layer else asset
                raise Busy(f"{label} is being made by another process; when that has ended, run this again") from None
            listed = {"failed.json", ".lock"}
            if committed := self.partition(asset, layer, fingerprint):
                listed |= {"manifest.json"} | {name for table in committed.tables.values() for name in table["files"]}
            draft = Draft(folder, asset, layer, fingerprint)
            remove_all_but(folder, listed)
            try:
                yield draft
            finally:
                if not draft.committed:
                    remove_all_but(folder, listed)


def remove_all_but(folder: Path, names: set[str]) -> None:
    for file in folder.iterdir():
        if file.name not in names and file.is_file():
            file.unlink(missing_ok=True)


@dataclass
class Draft:
    """A partition being written: tables are added, then committed all at once."""

    folder: Path
    asset: str
    layer: str | None
    fingerprint: str
    tables: dict[str, Any] = field(default_factory=dict)
    committed: bool = False

    def write(self, table: str, frame: pl.DataFrame) -> None:
        """Add a table as one Parquet file."""
        hashes = {name: column_hash(frame[name]) for name in frame.columns}
        name = f"{table}-{combined_hash(hashes)}.parquet"
        frame.write_parquet(self.folder / f".{name}.part", compression="zstd")
        settle(self.folder / f".{name}.part", self.folder / name)
        self.tables[table] = {"files": [name], "rows": len(frame), "columns": hashes}

    def write_text(self, table: str, suffix: str, text: str) -> None:
        """Add a page or another text beside the tables; it counts as a table with one column."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"{table}-{digest}.{suffix}"
        write_aside(self.folder / name, text.encode())
        self.tables[table] = {"files": [name], "rows": 1, "columns": {"text": digest}}

    def adopt(self, table: str, files: list[Path], rows: int, columns: dict[str, str]) -> None:
        """Add a table that the caller wrote into this folder file by file, with the hashes it took on the way."""
        self.tables[table] = {"files": [file.name for file in files], "rows": rows, "columns": columns}

    def commit(self, parts: dict[str, Any], metadata: dict[str, Any]) -> Partition:
        """Write the manifest; from here on the partition exists."""
        content = {name: table["columns"] for name, table in self.tables.items()}
        manifest = {
            "asset": self.asset,
            "layer": self.layer,
            "fingerprint": self.fingerprint,
            "parts": parts,
            "content_hash": combined_hash(content),
            "tables": self.tables,
            "metadata": metadata,
        }
        write_aside(self.folder / "manifest.json", json.dumps(manifest, indent=1).encode())
        (self.folder / "failed.json").unlink(missing_ok=True)
        self.committed = True
        return Partition(self.folder, manifest)


def write_aside(file: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old or the new one, never a half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        settle(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def settle(aside: Path, file: Path) -> None:
    """Flush a finished file to the disk and give it its name, which a loss of power does not undo."""
    flush(aside)
    aside.rename(file)
    flush(file.parent)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def combined_hash(parts: Any) -> str:
    """A hash of plain JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


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
