"""Which files a corpus is read from, by their names alone: a file, or the shards of a folder. Imports nothing large."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import NamedTuple

TABLES = (".parquet", ".arrow", ".feather")
"Read at places that their footers or headers name, so never from a stream that has to be unpacked."
LINES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"As pyarrow calls them."
CORPUS_FILES = (*TABLES, *LINES)
WHAT_IS_READ = f"{', '.join(CORPUS_FILES)}, of which {', '.join(LINES)} also packed as {', '.join(COMPRESSIONS)}"


class Kind(NamedTuple):
    """How a file is read."""

    suffix: str
    "One of CORPUS_FILES."
    compression: str | None
    "A value of COMPRESSIONS."

    @property
    def shown(self) -> str:
        return self.suffix + next((suffix for suffix, name in COMPRESSIONS.items() if name == self.compression), "")


def kind_of(file: Path) -> Kind | None:
    """How a file is read by its name, whatever its case; None where it is not."""
    name = PurePath(file.name.lower())
    if (compression := COMPRESSIONS.get(name.suffix)) is not None:
        inner = PurePath(name.stem).suffix
        return Kind(inner, compression) if inner in LINES else None
    return Kind(name.suffix, None) if name.suffix in CORPUS_FILES else None


def suffix_of(file: Path) -> str:
    """The part of a file's name that says how it is read: of a packed one, what is in it too."""
    return "".join(file.suffixes[-2:]) if file.suffix.lower() in COMPRESSIONS else file.suffix


def corpus_files(path: Path) -> list[Path]:
    """The files of a corpus in the order in which they are read; none where there are none at that place."""
    return shards(path) if path.is_dir() else [path] if path.is_file() else []


def shards(folder: Path) -> list[Path]:
    """The files of a folder that hold text, by name. A plain .json beside them describes them, as in `datasets`."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and not file.name.startswith((".", "_"))
        and (kind := kind_of(file)) is not None
        and kind != Kind(".json", None)
    )


def why_not_read(path: Path) -> str | None:
    """What stands in the way of reading a corpus from a place that exists, or None."""
    if not path.is_dir():
        if kind_of(path) is not None:
            return None
        found = f"a {suffix_of(path)} file" if path.suffix else "a file without suffix"
        return f"is {found}; what is read: {WHAT_IS_READ}"
    kinds = sorted({kind.shown for file in shards(path) if (kind := kind_of(file)) is not None})
    if len(kinds) > 1:
        return (
            f"is a folder that holds files of several kinds, {', '.join(kinds)}; the shards of a corpus are of one kind"
        )
    if kinds:
        return None
    below = sorted(each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    there = f" (folders below it are not looked into; there are: {', '.join(below[:8])})" if below else ""
    return f"is a folder that holds no shards of text{there}; what is read: {WHAT_IS_READ}"
