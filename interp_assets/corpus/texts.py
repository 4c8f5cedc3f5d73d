"""Texts from files of lines: plain text and JSON, packed or not. They are read as a stream, so memory stays bounded."""

from __future__ import annotations

import codecs
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from interp_assets.corpus.files import Kind
from resources.errors import UnusableInput

LONGEST = 1 << 26
"Characters of one row or document. A few packed bytes may say more than memory holds."
CHUNK = 1 << 16

# The longer marks come first: UTF-32's begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"Byte order marks, and the encodings that they announce; these decode them to nothing."

Row = tuple[str, Any]
"Where it stands, in words, and what stands there."


@contextmanager
def unpacked(file: Path, compression: str | None) -> Iterator[BinaryIO]:
    """The bytes of a file as a stream, unpacked as they are read."""
    with file.open("rb") as raw:
        yield io.BufferedReader(pa.CompressedInputStream(raw, compression)) if compression else raw


def encoding_of(stream: BinaryIO) -> str:
    """What the byte order mark at the beginning of a stream announces; UTF-8 without one."""
    beginning = stream.peek(4)[:4]  # type: ignore[attr-defined]
    return next((encoding for mark, encoding in MARKS if beginning.startswith(mark)), "utf-8")


def decoded(stream: BinaryIO, newline: str | None = "\n") -> io.TextIOWrapper:
    encoding = encoding_of(stream)
    # What is no UTF-8 becomes lone surrogates, which `lines_of` finds in their line.
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(stream, encoding, errors, newline)


def lines_of(stream: io.TextIOWrapper, file: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; of one that is longer than LONGEST, its parts.

    Raises:
        UnusableInput: a line is not UTF-8.
    """
    number, ended = 0, True
    while line := stream.readline(LONGEST):
        number += ended
        ended = line.endswith("\n")
        if not encodable(line):
            raise UnusableInput(
                f"{file}: line {number} is not UTF-8; write the file anew, such as by: "
                f"iconv -f WINDOWS-1252 -t UTF-8 {file.name}"
            )
        # Files that were put one behind the other have a byte order mark in their midst too.
        yield number, line.removeprefix("\ufeff")


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: half of a surrogate pair stands for no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_texts(file: Path, kind: Kind, column: str) -> Iterator[str]:
    """Documents of a text file are what empty lines separate; one longer than LONGEST is read as several."""
    with unpacked(file, kind.compression) as stream:
        lines = (line for _, line in lines_of(decoded(stream, newline=None), file))
        for blank, group in itertools.groupby(lines, key=lambda line: not line.strip()):
            if not blank:
                yield from joined(group)


def joined(lines: Iterator[str]) -> Iterator[str]:
    parts: list[str] = []
    length = 0
    for line in lines:
        if parts and length + len(line) > LONGEST:
            yield "".join(parts).rstrip("\n")
            parts, length = [], 0
        parts.append(line)
        length += len(line)
    yield "".join(parts).rstrip("\n")


def line_rows(file: Path, kind: Kind) -> Iterator[Row]:
    """The values of a file with one on each line; empty lines are passed over."""
    with unpacked(file, kind.compression) as stream:
        yield from rows_in_lines(decoded(stream), file)


def rows_in_lines(stream: io.TextIOWrapper, file: Path) -> Iterator[Row]:
    for number, line in lines_of(stream, file):
        where = f"{file}: line {number}"
        if len(line) >= LONGEST:
            raise UnusableInput(f"{where} is longer than {LONGEST:,} characters")
        if line.strip():
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UnusableInput(f"{where} is not JSON ({error})") from None


def json_rows(file: Path, kind: Kind) -> Iterator[Row]:
    """The values of a file that holds a list of them, or one on each line."""
    with unpacked(file, kind.compression) as stream:
        text = decoded(stream)
        is_list = first_sign(text) == "["
    with unpacked(file, kind.compression) as stream:
        text = decoded(stream)
        yield from rows_in_list(text, file) if is_list else rows_in_lines(text, file)


def first_sign(stream: io.TextIOWrapper) -> str:
    """The first character that is no white space; none where there is none near the beginning."""
    return stream.read(CHUNK).lstrip()[:1]


def rows_in_list(stream: io.TextIOWrapper, file: Path) -> Iterator[Row]:
    """The members of one JSON list, without the whole of it in memory."""
    decoder = json.JSONDecoder()
    text = stream.read(CHUNK).lstrip()[1:]
    for number in itertools.count(1):
        where = f"{file}: row {number}"
        while True:
            text = text.lstrip()
            if number > 1:
                text = text.removeprefix(",").lstrip()
            if text.startswith("]"):
                return
            try:
                row, end = decoder.raw_decode(text)
                break
            except (ValueError, RecursionError) as error:
                # It may go on: as much again is read, so that a long row is not decoded all too often.
                more = stream.read(max(CHUNK, len(text)))
                if not more or len(text) + len(more) > LONGEST:
                    raise UnusableInput(f"{where} is not JSON ({error})") from None
                text += more
        yield where, row
        text = text[end:]


def text_in(row: Any, column: str, where: str) -> str | None:
    """The text of one row.

    Raises:
        UnusableInput: it has none under that name, or something else.
    """
    if not isinstance(row, dict):
        raise UnusableInput(f"{where} is not an object with a text under {column!r}")
    if column not in row:
        raise UnusableInput(f"{where} has no {column!r}; there are: {', '.join(row) or 'none'}")
    value = row[column]
    if not isinstance(value, str | None):
        raise UnusableInput(f"{where}: {column!r} is {type(value).__name__}, not text")
    if value is not None and not encodable(value):
        raise UnusableInput(
            f"{where}: {column!r} holds half of a surrogate pair, which is no character; mend the text or leave it out"
        )
    return value
