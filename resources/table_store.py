"""Parquet tables and their manifests on a local disk, keyed by fingerprint.

    <root>/<asset>/<partition>/<fingerprint>/manifest.json    the only commit point: lists the files below
    <root>/<asset>/<partition>/<fingerprint>/<table>-<hash>.parquet
    <root>/pointers/<study>/<asset>/<partition>               which fingerprint a study completed last

A file that no manifest lists is garbage of an interrupted run. Nothing here knows what the tables mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from resources.content_hash import column_hash, combined_hash
from resources.durable_files import FileHashes, settle, sha256_of, write_aside
from resources.errors import NotNow
from resources.leases import SECONDS_BETWEEN_TRIES, Waiting

UNPARTITIONED = "all"
MANIFEST = "manifest.json"
LOCK = ".lock"
FINGERPRINT = re.compile(r"[0-9a-f]{16}")


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
    def parts(self) -> dict[str, Any]:
        """What the fingerprint was taken of."""
        return self.manifest["parts"]

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
    def __init__(self, root: Path, not_content: Collection[str] = ()) -> None:
        """
        Args:
            not_content: columns that tell how a row came about; they enter no content hash.
        """
        self.root = root
        self.not_content = frozenset(not_content)
        self.hashes = FileHashes(root / "table_hashes.json")

    def folder(self, asset: str, key: str | None, fingerprint: str = "") -> Path:
        return self.root / asset / (key or UNPARTITIONED) / fingerprint

    def partition(self, asset: str, key: str | None, fingerprint: str) -> Partition | None:
        """What is committed under a fingerprint and intact, or None."""
        return self._examine(self.folder(asset, key, fingerprint))[0]

    def damage(self, asset: str, key: str | None, fingerprint: str) -> str | None:
        """What is wrong with a committed partition, or None where it is intact or was never committed."""
        return self._examine(self.folder(asset, key, fingerprint))[1]

    def _examine(self, folder: Path) -> tuple[Partition | None, str | None]:
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            found = Partition(folder, manifest)
            if manifest.pop("checksum") != combined_hash(manifest):
                return None, f"{folder / MANIFEST} is not what was written"
        except (FileNotFoundError, NotADirectoryError):
            return None, None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None, f"{folder / MANIFEST} cannot be read"
        for name, written in manifest["files"].items():
            if problem := self._not_as_written(folder / name, written):
                return None, problem
        return found, None

    def _not_as_written(self, file: Path, written: dict[str, Any]) -> str | None:
        try:
            stat = file.stat()
        except FileNotFoundError:
            return f"{file} is missing"
        if stat.st_size != written["bytes"]:
            return f"{file} has {stat.st_size} bytes, {written['bytes']} were written"
        # Hashed again only where it was touched since.
        if stat.st_mtime_ns != written["modified"] and self.hashes.sha256(file) != written["sha256"]:
            return f"{file} is not what was written"
        return None

    def generations(self, asset: str, key: str | None) -> Iterator[Partition]:
        """All that is committed of a partition, the newest first."""
        manifests = self.folder(asset, key).glob(f"*/{MANIFEST}")
        for manifest in sorted(manifests, key=lambda file: file.stat().st_mtime_ns, reverse=True):
            if found := self._examine(manifest.parent)[0]:
                yield found

    def folders(self) -> list[Path]:
        """The folders of all generations, committed or not. The root may hold what others put there: it is left out."""
        # The name of an asset has one part or two.
        found = [*self.root.glob("*/*/*"), *self.root.glob("*/*/*/*")]
        return sorted(folder for folder in found if FINGERPRINT.fullmatch(folder.name) and self._made(folder))

    def _made(self, folder: Path) -> bool:
        """Whether this store made a folder: its manifest names this place, or it has a writer's lock or a note."""
        if folder.is_symlink() or not folder.is_dir():
            return False
        manifest = read_mapping(folder / MANIFEST)
        asset, partition = str(folder.parent.parent.relative_to(self.root)), folder.parent.name
        own = {"asset": asset, "partition": None if partition == UNPARTITIONED else partition}
        if own | {"fingerprint": folder.name} == {key: manifest.get(key) for key in (*own, "fingerprint")}:
            return True
        if any("reason" in read_mapping(folder / f"{kind}.json") for kind in (NOTE_FAILED, NOTE_RETRY)):
            return True
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (folder / LOCK).read_text().isdecimal()
        return False

    def pointer(self, study: str, asset: str, key: str | None) -> str | None:
        """The fingerprint that a study completed last, or None."""
        with contextlib.suppress(FileNotFoundError):
            return self._pointer(study, asset, key).read_text()
        return None

    def pointed(self, study: str, asset: str, key: str | None) -> Partition | None:
        """What a study completed last, if it is intact, or None."""
        fingerprint = self.pointer(study, asset, key)
        return self.partition(asset, key, fingerprint) if fingerprint else None

    def point(self, study: str, asset: str, key: str | None, fingerprint: str) -> None:
        if self.pointer(study, asset, key) != fingerprint:
            write_aside(self._pointer(study, asset, key), fingerprint.encode())

    def _pointer(self, study: str, asset: str, key: str | None) -> Path:
        return self.root / "pointers" / study / asset / (key or UNPARTITIONED)

    # --- notes beside a partition: it failed for good; its failed rows are to be asked again ---

    def note(self, kind: str, asset: str, key: str | None, fingerprint: str) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((self.folder(asset, key, fingerprint) / f"{kind}.json").read_text())
        return None

    def write_note(self, kind: str, asset: str, key: str | None, fingerprint: str, content: dict[str, Any]) -> None:
        write_aside(self.folder(asset, key, fingerprint) / f"{kind}.json", json.dumps(content, indent=1).encode())

    def remove_note(self, kind: str, asset: str, key: str | None, fingerprint: str) -> None:
        (self.folder(asset, key, fingerprint) / f"{kind}.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def draft(self, asset: str, key: str | None, fingerprint: str, waiting: Waiting | None = None) -> Iterator[Draft]:
        """The one writer of a partition. What is not committed when the block ends is removed.

        Args:
            waiting: told what is waited for, where another process holds this partition.

        Raises:
            Busy: another process holds this partition, and `waiting` was left out.
        """
        folder = self.folder(asset, key, fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        label = f"{asset}[{key}]" if key else asset
        with exclusive(folder / LOCK, f"{label} is being made", waiting):
            committed = self.partition(asset, key, fingerprint)
            kept = {f"{NOTE_FAILED}.json", f"{NOTE_RETRY}.json", LOCK}
            kept |= {MANIFEST, *committed.manifest["files"]} if committed else set()
            draft = Draft(folder, asset, key, fingerprint, self.not_content)
            remove_all_but(folder, kept)
            try:
                yield draft
            finally:
                if not draft.committed:
                    remove_all_but(folder, kept)


NOTE_FAILED, NOTE_RETRY = "failed", "retry"


@contextlib.contextmanager
def exclusive(lock: Path, what: str, waiting: Waiting | None) -> Iterator[None]:
    """Hold a lock file, which the system frees when this process ends.

    Raises:
        Busy: another process holds it, and `waiting` is None.
    """
    said = False
    with lock.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                problem = f"{what} by another process ({file.read() or 'unknown'})"
                if waiting is None:
                    raise Busy(f"{problem}; when that has ended, run this again") from None
                if not said:
                    waiting(f"waiting: {problem}")
                    said = True
                time.sleep(SECONDS_BETWEEN_TRIES)
        file.truncate(0)
        file.write(f"{os.getpid()}")
        file.flush()
        yield


def read_mapping(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it cannot be read or is no mapping."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(file.read_text())
        return content if isinstance(content, dict) else {}
    return {}


def remove_all_but(folder: Path, names: Collection[str]) -> None:
    for file in folder.iterdir():
        if file.name not in names and file.is_file():
            file.unlink(missing_ok=True)


@dataclass
class Draft:
    """A partition being written: tables are added, then committed all at once."""

    folder: Path
    asset: str
    key: str | None
    fingerprint: str
    not_content: frozenset[str]
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

    def adopt_all(self, other: Partition) -> None:
        """Add all tables of another partition, whose files are shared and not copied where the disk can."""
        for name in other.manifest["files"]:
            (self.folder / name).unlink(missing_ok=True)
            os.link(other.folder / name, self.folder / name)
        self.tables = other.tables

    def commit(self, parts: dict[str, Any], metadata: dict[str, Any]) -> Partition:
        """Write the manifest; from here on the partition exists."""
        content = {
            table: {name: digest for name, digest in kept["columns"].items() if name not in self.not_content}
            for table, kept in self.tables.items()
        }
        manifest = {
            "asset": self.asset,
            "partition": self.key,
            "fingerprint": self.fingerprint,
            "parts": parts,
            "content_hash": combined_hash(content),
            "tables": self.tables,
            "files": {name: stamp(self.folder / name) for table in self.tables.values() for name in table["files"]},
            "metadata": metadata,
        }
        manifest = json.loads(json.dumps(manifest))
        with_checksum = {"checksum": combined_hash(manifest), **manifest}
        write_aside(self.folder / MANIFEST, json.dumps(with_checksum, indent=1).encode())
        for note in (NOTE_FAILED, NOTE_RETRY):
            (self.folder / f"{note}.json").unlink(missing_ok=True)
        self.committed = True
        return Partition(self.folder, manifest)


def stamp(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"bytes": stat.st_size, "modified": stat.st_mtime_ns, "sha256": sha256_of(file)}
