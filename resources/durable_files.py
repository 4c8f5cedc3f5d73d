"""Small files that are either whole or not there, whatever stops the writer, and hashes of files remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any


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


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class FileHashes:
    """SHA-256 of files, remembered by path, size and modification time."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.known: dict[str, list[Any]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.known = json.loads(memory.read_text())

    def sha256(self, file: Path) -> str:
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        remembered = self.known.get(str(file))
        if remembered is None or remembered[:2] != stamp:
            remembered = [*stamp, sha256_of(file)]
            self.known[str(file)] = remembered
            write_aside(self.memory, json.dumps(self.known, indent=0).encode())
        return remembered[2]
