"""How files of each kind, and data sets of the hub, are read text by text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from interp_assets.corpus.files import WHAT_IS_READ, Kind, kind_of
from interp_assets.corpus.tables import arrow_texts, csv_texts, parquet_texts
from interp_assets.corpus.texts import json_rows, line_rows, plain_texts, text_in
from interp_assets.settings import Corpus
from resources.errors import NotNow, UnusableInput, install_command
from resources.tokenizers import first_line

Reader = Callable[[Path, Kind, str], Iterator[str | None]]


def texts_of(file: Path, column: str) -> Iterator[str | None]:
    """
    Raises:
        UnusableInput: not readable as what its name says, or without the named column.
    """
    kind = kind_of(file)
    if kind is None:
        raise UnusableInput(f"{file}: not a file of a kind that is read: {WHAT_IS_READ}")
    name, read = READERS[kind.suffix]
    try:
        yield from read(file, kind, column)
    except (OSError, ValueError, pa.ArrowException) as error:
        # pyarrow says OSError of damaged files too; those of the operating system carry a number.
        if getattr(error, "errno", None):
            raise
        raise UnusableInput(f"{file}: not a readable {name} file ({first_line(error)})") from None


def from_lines(file: Path, kind: Kind, column: str) -> Iterator[str | None]:
    return (text_in(row, column, where) for where, row in line_rows(file, kind))


def from_json(file: Path, kind: Kind, column: str) -> Iterator[str | None]:
    return (text_in(row, column, where) for where, row in json_rows(file, kind))


READERS: dict[str, tuple[str, Reader]] = {
    ".parquet": ("Parquet", parquet_texts),
    ".arrow": ("Arrow", arrow_texts),
    ".feather": ("Arrow", arrow_texts),
    ".jsonl": ("JSONL", from_lines),
    ".ndjson": ("JSONL", from_lines),
    ".json": ("JSON", from_json),
    ".csv": ("CSV", csv_texts),
    ".tsv": ("TSV", csv_texts),
    ".txt": ("text", plain_texts),
}


def hub_texts(corpus: Corpus) -> Iterator[str | None]:
    """
    Raises:
        UnusableInput: the data set has no such column, or the column holds no text.
        NotNow: the hub was not reached, or has no such data set: it may tomorrow.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise NotNow(f"corpus {corpus.path}: reading a hub data set needs: {install_command('datasets')}") from None
    name, _, configuration = corpus.path.partition(":")
    try:
        rows: Any = load_dataset(name, configuration or None, split=corpus.split, streaming=True)
        for number, row in enumerate(rows, 1):
            if corpus.column not in row:
                raise UnusableInput(f"corpus {corpus.path}: no column {corpus.column!r}; there are: {', '.join(row)}")
            yield text_in(row, corpus.column, f"corpus {corpus.path}: row {number}")
    except (OSError, ValueError) as error:
        raise NotNow(f"corpus {corpus.path}: cannot be read from the hub ({first_line(error)})") from None
