"""The rows of the reply log in their SQLite file, and what of them can be saved from a damaged one."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from resources.sqlite_pages import PAGE, records_of

# A table in the order of arrival with an index beside it: only the index, a fifth of the file, is written at random.
LIVE_KEYS = "CREATE UNIQUE INDEX live_keys ON replies (key) WHERE live"
SCHEMA = (
    "CREATE TABLE replies (number INTEGER PRIMARY KEY, key BLOB, study TEXT, engine TEXT, reply TEXT,"
    " prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, appended INTEGER, checksum INTEGER,"
    " live INTEGER)",
    LIVE_KEYS,
    "CREATE TABLE totals (study TEXT, engine TEXT, calls INTEGER, prompt_tokens INTEGER, cached_tokens INTEGER,"
    " completion_tokens INTEGER, checksum INTEGER, UNIQUE (study, engine))",
)
# The live reply that is there first stays.
INSERT_REPLY = (
    "INSERT INTO replies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,"
    " ?11 AND NOT EXISTS (SELECT 1 FROM replies WHERE key = ?2 AND live))"
)
SET_TOTAL = (
    "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (study, engine) DO UPDATE SET calls = excluded.calls,"
    " prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,"
    " completion_tokens = excluded.completion_tokens, checksum = excluded.checksum"
)
SAVE_REPLY = (
    "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (number) DO UPDATE SET live = min(live, excluded.live)"
)
KEEP_FIRST_LIVE = (
    "UPDATE replies SET live = 0 WHERE number IN (SELECT number FROM (SELECT number,"
    " row_number() OVER (PARTITION BY key ORDER BY number) AS place FROM replies WHERE live) WHERE place > 1)"
)
TOTALS_OF_REPLIES = (
    "SELECT study, engine, count(*), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens) FROM replies"
    " GROUP BY study, engine"
)
BUSY_SECONDS = 60.0
CACHE_KB = 65_536
CHECKPOINT_PAGES = 16_000
MANY_KEYS, READERS = 1_000, 8


class LoggedReply(NamedTuple):
    reply: str
    "JSON."
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Spent(NamedTuple):
    """What a study has paid for, whether or not the replies are still used."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Total(NamedTuple):
    """What one study has paid to one engine. The calls of all totals add up to the rows of `replies`."""

    study: str
    engine: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    checksum: int

    @classmethod
    def of(cls, study: str, engine: str, spent: Sequence[int]) -> Total:
        return cls(study, engine, *spent, checksum(study, engine, *spent))  # type: ignore[call-arg]

    def is_sound(self) -> bool:
        return self.checksum == checksum(*self[:-1])


LOST = ("", "")
"Payer of the rows that earlier damage took: its calls are counted below zero."


class Row(NamedTuple):
    number: int | None
    key: bytes
    study: str
    engine: str
    reply: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    appended: int
    "Seconds since 1970."
    checksum: int
    live: int
    "1: answers look-ups. 0: forgotten, or a second reply to the same request."

    @classmethod
    def of(cls, key: bytes, study: str, engine: str, reply: str, *numbers: int) -> Row:
        """A new row; the numbers are its tokens and the time."""
        check = checksum(key.hex(), study, engine, reply, *numbers)
        return cls(None, key, study, engine, reply, *numbers, check, 1)  # type: ignore[call-arg]

    def is_sound(self) -> bool:
        return self.checksum == checksum(self.key.hex(), *self[2:9])


class Damaged(Exception):
    """The file is not what was written; the message says how that shows."""


def checksum(*content: object) -> int:
    return zlib.crc32("\0".join(map(str, content)).encode())


def connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # A damaged text must be read before its checksum can tell.
    connection.text_factory = lambda text: text.decode(errors="replace")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    return connection


def create(file: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE}")
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    spent: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        total = spent.setdefault((row.study, row.engine), [0, 0, 0, 0])
        for i, number in enumerate((1, row.prompt_tokens, row.cached_tokens, row.completion_tokens)):
            total[i] += number
    with transaction(connection):
        connection.executemany(INSERT_REPLY, rows)
        for payer, more in spent.items():
            before = next((total for total in read_totals(connection, payer[0]) if total.engine == payer[1]), None)
            sums = [a + b for a, b in zip(before[2:6], more, strict=True)] if before else more
            connection.execute(SET_TOTAL, Total.of(*payer, sums))


def read_totals(connection: sqlite3.Connection, study: str) -> list[Total]:
    totals = [Total(*values) for values in connection.execute("SELECT * FROM totals WHERE study = ?", (study,))]
    if not all(total.is_sound() for total in totals):
        raise Damaged(f"what {study} has spent does not fit its checksum")
    return totals


def read_replies(file: Path, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, LoggedReply]:
    """The live replies of some keys; many of them over several connections, whose waits for the disk overlap."""
    if len(keys) < MANY_KEYS:
        return read_some(connection, keys)

    def read_part(part: Sequence[bytes]) -> dict[bytes, LoggedReply]:
        with closing(connect(file)) as own:
            return read_some(own, part)

    size = -(-len(keys) // READERS)
    found: dict[bytes, LoggedReply] = {}
    with ThreadPoolExecutor(READERS) as readers:
        for part in readers.map(read_part, [keys[start : start + size] for start in range(0, len(keys), size)]):
            found |= part
    return found


def read_some(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, LoggedReply]:
    found = {}
    for key in keys:
        values = connection.execute("SELECT * FROM replies WHERE key = ? AND live", (key,)).fetchone()
        if values is not None:
            row = Row(*values)
            if row.key != key or not row.is_sound():
                raise Damaged(f"reply {row.number} does not fit its checksum")
            found[key] = LoggedReply(row.reply, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    return found


def sound(records: Iterable[tuple[int, list[Any]]]) -> Iterator[Row | Total]:
    """Those records that are ours and as they were written."""
    for number, values in records:
        found: Row | Total
        if len(values) == len(Row._fields) and isinstance(values[1], bytes) and values[-1] in (0, 1):
            found = Row(number, *values[1:])
        elif len(values) == len(Total._fields):
            found = Total(*values)
        else:
            continue
        if found.is_sound():
            yield found


def fill(new: Path, broken: Path, broken_wal: Path) -> tuple[int, int | None]:
    """Copy what can be read into an empty log; how many replies were kept and lost, None where nothing tells."""
    spent: dict[tuple[str, str], list[int]] = {}

    def rows() -> Iterator[Row]:
        for found in sound(records_of(broken, broken_wal)):
            if isinstance(found, Row):
                yield found
            else:
                # Of several states of a total the one with the most calls is the latest.
                spent[found[:2]] = max(spent.get(found[:2], []), list(found[2:6]))

    connection = connect(new)
    # Until it gets its name, a file that a kill leaves half done is made anew: nothing has to protect it.
    for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "DROP INDEX live_keys"):
        connection.execute(statement)
    with transaction(connection):
        connection.executemany(SAVE_REPLY, rows())
        connection.execute(KEEP_FIRST_LIVE)
        connection.execute(LIVE_KEYS)
        known = bool(spent)
        (kept,) = connection.execute("SELECT count(*) FROM replies").fetchone()
        for study, engine, *sums in connection.execute(TOTALS_OF_REPLIES).fetchall():
            # Money that was spent stays spent, also for replies that are lost.
            spent[study, engine] = max(spent.get((study, engine), []), sums)
        lost = sum(calls for calls, *_ in spent.values()) - kept
        spent[LOST] = [spent.get(LOST, [0])[0] - lost, 0, 0, 0]
        connection.executemany(SET_TOTAL, [Total.of(*payer, sums) for payer, sums in spent.items()])
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    with new.open("rb") as written:
        os.fsync(written.fileno())
    return kept, lost if known else None
