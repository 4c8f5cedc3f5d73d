"""Parquet tables and their manifests on a local disk, keyed by fingerprint.

    <root>/<asset>/<partition>/<fingerprint>/manifest.json    the only commit point: lists the files below
    <root>/<asset>/<partition>/<fingerprint>/<table>-<hash>.parquet
    <root>/pointers/<study>/<asset>/<partition>               which fingerprint a study completed last

A file that no manifest lists is garbage of an interrupted run. Nothing here knows what the tables mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from resources.content_hash import combined_hash
from resources.durable_files import FileHashes, write_aside
from resources.errors import NotNow
from resources.leases import SECONDS_BETWEEN_TRIES, Waiting
from resources.partition_files import MANIFEST, NOTE_FAILED, NOTE_RETRY, Draft, Partition

UNPARTITIONED = "all"
LOCK = ".lock"
FINGERPRINT = re.compile(r"[0-9a-f]{16}")


class Busy(NotNow):
    """Another process is writing the same partition."""


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
