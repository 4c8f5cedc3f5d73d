"""The rows of a SQLite file read page by page, whatever has become of its trees (sqlite.org/fileformat2.html).

SQLite itself reaches a row through the pages above it; where one of those is gone, thousands of sound rows are out of
its reach. Here every page that looks like a leaf of a table is read by itself, also those of the write-ahead log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PAGE = 4096
"Bytes of a page; the files read here are made with it."
TABLE_LEAF = 13
MOST_IN_LEAF = PAGE - 35
LEAST_IN_LEAF = (PAGE - 12) * 32 // 255 - 23
"A longer record keeps between so many bytes and so many in the leaf; the others stand on overflow pages."
WAL_HEADER, FRAME_HEADER = 32, 24

PageAt = Callable[[int], bytes]
"A page by its number, which counts from 1."


class Frame(NamedTuple):
    """One page in a write-ahead log."""

    page: int
    size: int
    "Pages of the whole database where this frame ends a transaction, else 0."
    offset: int
    "Where the page's bytes stand."
    current: bool
    "Written since the log was last begun anew."


def wal_frames(wal: Path) -> tuple[list[Frame], int]:
    """The frames of a write-ahead log in order, and how many bytes of a torn one stand behind them."""
    size = wal.stat().st_size if wal.exists() else 0
    whole, torn = divmod(max(0, size - WAL_HEADER), FRAME_HEADER + PAGE)
    frames = []
    if whole:
        with wal.open("rb") as opened:
            salts = opened.read(WAL_HEADER)[16:24]
            for i in range(whole):
                offset = opened.seek(WAL_HEADER + i * (FRAME_HEADER + PAGE))
                header = opened.read(FRAME_HEADER)
                page, pages = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
                frames.append(Frame(page, pages, offset + FRAME_HEADER, header[8:16] == salts))
    return frames, torn if whole else size


def records_of(database: Path, wal: Path) -> Iterator[tuple[int, list[Any]]]:
    """(rowid, values) of every record in a database's tables; one may come several times, as it was and as it is."""
    frames, _ = wal_frames(wal)
    newest = {frame.page: frame.offset for frame in frames if frame.current}
    with open_or_empty(database) as pages, open_or_empty(wal) as log:

        def page_at(number: int) -> bytes:
            if number in newest:
                return read_at(log, newest[number])
            return read_at(pages, (number - 1) * PAGE)

        for number in range(1, database.stat().st_size // PAGE + 2 if database.exists() else 1):
            yield from records(read_at(pages, (number - 1) * PAGE), page_at)
        for frame in frames:
            yield from records(read_at(log, frame.offset), page_at)


def records_in_frames(wal: Path, frames: list[Frame]) -> Iterator[tuple[int, list[Any]]]:
    """(rowid, values) of every record in some frames of a write-ahead log."""
    newest = {frame.page: frame.offset for frame in frames}
    with open_or_empty(wal) as log:
        for frame in frames:
            yield from records(read_at(log, frame.offset), lambda number: read_at(log, newest[number]))


def open_or_empty(file: Path) -> Any:
    return file.open("rb") if file.exists() else open("/dev/null", "rb")


def read_at(opened: Any, offset: int) -> bytes:
    """A page; one that the file's end cuts short is filled with zeros."""
    opened.seek(offset)
    return opened.read(PAGE).ljust(PAGE, b"\0")


def records(page: bytes, page_at: PageAt) -> Iterator[tuple[int, list[Any]]]:
    """The records of a page, if it is a leaf of a table; those that make no sense are left out."""
    if page[0] != TABLE_LEAF:
        return
    for i in range(min(int.from_bytes(page[3:5], "big"), PAGE // 4)):
        try:
            found = record(page, int.from_bytes(page[8 + 2 * i : 10 + 2 * i], "big"), page_at)
        except (IndexError, KeyError, OverflowError, OSError):
            continue
        yield found


def record(page: bytes, at: int, page_at: PageAt) -> tuple[int, list[Any]]:
    length, at = varint(page, at)
    rowid, at = varint(page, at)
    here = length
    if length > MOST_IN_LEAF:
        here = LEAST_IN_LEAF + (length - LEAST_IN_LEAF) % (PAGE - 4)
        here = LEAST_IN_LEAF if here > MOST_IN_LEAF else here
    content = page[at : at + here]
    following = int.from_bytes(page[at + here : at + here + 4], "big") if here < length else 0
    seen = {0}
    while following not in seen and len(content) < length:
        seen.add(following)
        overflow = page_at(following)
        following = int.from_bytes(overflow[:4], "big")
        content += overflow[4 : 4 + length - len(content)]
    return rowid, values(content)


def values(content: bytes) -> list[Any]:
    end, at = varint(content, 0)
    place = end
    found: list[Any] = []
    while at < end:
        kind, at = varint(content, at)
        size = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind] if kind < 10 else (kind - 12) // 2
        raw = content[place : place + size]
        if len(raw) < size:
            raise IndexError("the record ends early")
        place += size
        if kind >= 12:
            found.append(raw.decode(errors="replace") if kind % 2 else raw)
        else:
            found.append(None if kind == 0 else kind - 8 if kind in (8, 9) else int.from_bytes(raw, "big", signed=True))
    return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, seven bits in each but the last of nine; and where it ends."""
    value = 0
    for place in range(at, at + 8):
        byte = data[place]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
