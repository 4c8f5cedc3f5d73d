"""One partition of tables on disk: committed, which is what its manifest lists, or being written."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from resources.content_hash import column_hash, combined_hash
from resources.durable_files import settle, sha256_of, write_aside

MANIFEST = "manifest.json"
NOTE_FAILED, NOTE_RETRY = "failed", "retry"
"Notes beside a partition: it failed for good; its failed rows are to be asked again."


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
        """Add all tables of another partition, whose files are shared and not copied; or of what is committed here."""
        for name in other.manifest["files"] if other.folder != self.folder else ():
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
