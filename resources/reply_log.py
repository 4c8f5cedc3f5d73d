"""Every reply of a language model that a study has paid for, so that nothing is ever asked twice.

One SQLite file for a storage root, on a local disk, shared by all its studies and by several processes at once. A
reply is committed as it arrives: killing a process loses nothing that `append` returned from (a loss of power may cost
the last seconds, never the file). Rows are never deleted: a reply that is forgotten still tells what it cost. Neither
prompts nor anything else of a request are kept, only the request's key.

What is damaged is found when it is met: pages that make no sense, a file shorter than it should be, a row that does
not fit its checksum. Then all that can still be read moves to a new file, the damaged one is put aside, and only
what is lost is asked again.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from resources.errors import NotNow
from resources.reply_rows import (
    SCHEMA,
    Damaged,
    LoggedReply,
    Row,
    Spent,
    connect,
    create,
    fill,
    insert,
    read_replies,
    read_totals,
    sound,
    transaction,
)
from resources.sqlite_pages import PAGE, Frame, records_in_frames, wal_frames

Result = TypeVar("Result")

KEYS_AT_ONCE = 10_000
"So many keys are looked up before writers may go on."


class ReplyLog:
    """Opened when first used, and again after a fork. Threads may share one.

    Any method raises OSError where the disk fails or is full, and NotNow where another program holds the file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        "Device and inode of what is open."
        self._lock: Any = None
        self._one_thread = threading.RLock()
        EVERY_LOG.add(self)

    def __enter__(self) -> ReplyLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; using the log again opens it again."""
        with self._one_thread:
            if self._connection is not None:
                # Whoever closes last tidies up, which must not happen while another process repairs the file.
                with self._holding(fcntl.LOCK_EX):
                    self._disconnect()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    # --- what it is for ---

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, LoggedReply]:
        """The replies that are there, by key."""
        found: dict[bytes, LoggedReply] = {}
        wanted = sorted(set(keys))
        for start in range(0, len(wanted), KEYS_AT_ONCE):
            part = wanted[start : start + KEYS_AT_ONCE]
            found |= self._do(fcntl.LOCK_SH, partial(read_replies, self.file, keys=part))
        return found

    def append(
        self,
        study: str,
        engine: str,
        key: bytes,
        reply: str,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
    ) -> None:
        """Keep one reply (JSON); it is safe when this returns.

        Where a reply of that key is there and not forgotten, that one stays; this one only counts as paid for.
        """
        self.append_many(study, engine, [(key, reply, prompt_tokens, cached_tokens, completion_tokens)])

    def append_many(self, study: str, engine: str, replies: Iterable[tuple[bytes, str, int, int, int]]) -> None:
        """Keep replies (key, JSON, prompt, cached and completion tokens) that arrived together: all of them or none."""
        now = int(time.time())
        rows = [Row.of(key, study, engine, reply, *tokens, now) for key, reply, *tokens in replies]
        self._do(fcntl.LOCK_EX, lambda connection: insert(connection, rows))

    def forget(self, keys: Iterable[bytes]) -> int:
        """Have requests asked again; what their replies cost stays counted. Returns how many were there."""
        wanted = [(key,) for key in set(keys)]

        def let_go(connection: sqlite3.Connection) -> int:
            with transaction(connection):
                return connection.executemany("UPDATE replies SET live = 0 WHERE key = ? AND live", wanted).rowcount

        return self._do(fcntl.LOCK_EX, let_go) if wanted else 0

    def spent(self, study: str) -> dict[str, Spent]:
        """What a study has paid for, by the engine's name; the same cost however long the log is."""
        totals = self._do(fcntl.LOCK_SH, lambda connection: read_totals(connection, study))
        return {total.engine: Spent(*total[2:6]) for total in totals}

    # --- opening, and one operation at a time ---

    def _do(self, how: int, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """Carry out an operation under the file's lock, shared to read or exclusive to write; after a repair, again."""
        repaired = False
        with self._one_thread, self._holding(how):
            while True:
                try:
                    return operation(self._current_connection())
                except (sqlite3.DatabaseError, Damaged) as error:
                    if repaired or not is_damage(error):
                        self._disconnect()
                        raise self._trouble(error) from error
                    repaired = True
                    # Until this lock is there, another process may have met the damage, too, and repaired it.
                    fcntl.flock(self._lock, fcntl.LOCK_EX)
                    if self._opened in (None, identity_of(self.file)):
                        self._put_aside(error)

    @contextmanager
    def _holding(self, how: int) -> Iterator[None]:
        """SQLite waits for a lock by looking again and again; this waits until it is told."""
        if self._lock is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._beside(".lock").open("w")
        fcntl.flock(self._lock, how)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _current_connection(self) -> sqlite3.Connection:
        if self._connection is None or self._opened != identity_of(self.file):
            # Another process may have put a new file in place of a damaged one.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._disconnect()
            try:
                self._open()
            except BaseException:
                self._disconnect()
                raise
        assert self._connection is not None
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._opened = None

    def _open(self) -> None:
        """Connect, after looks that cost next to nothing at any size. The lock is held exclusively."""
        if self._beside(".repairing").exists():
            self._finish_repair()
        wal = self._beside("-wal")
        if not self.file.exists() and not wal.exists():
            create(self._beside(".new"))
            self._beside(".new").rename(self.file)
        self._opened = identity_of(self.file)
        if self._opened is None:
            raise Damaged("its write-ahead log is there, the file itself is gone")
        whole, odd = divmod(self.file.stat().st_size, PAGE)
        if odd or not whole:
            raise Damaged("it ends within a page" if odd else "it is empty")
        self._connection = connect(self.file)
        schema = {sql for (sql,) in self._connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}
        if schema != set(SCHEMA):
            raise Damaged("its tables are not those of a reply log")
        # From here on no other process closes last, which would take the write-ahead log away.
        frames, torn = wal_frames(wal)
        in_wal = {frame.page for frame in frames if frame.current}
        pages = max([frame.size for frame in frames if frame.current], default=0)
        if any(number not in in_wal for number in range(whole + 1, pages + 1)):
            raise Damaged("it is shorter than it was")
        self._connection.execute("SELECT max(number) FROM replies").fetchone()
        _, read, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._save_unread(frames, read, torn)

    def _save_unread(self, frames: list[Frame], read: int, torn: int) -> None:
        """Keep the replies in that end of the write-ahead log at which SQLite stopped: a broken frame, or none."""
        assert self._connection is not None
        unread = len([i for i, frame in enumerate(frames) if frame.current and i >= read])
        if not (unread or torn or (frames and not read)):
            return
        (newest,) = self._connection.execute("SELECT max(number) FROM replies").fetchone()
        saved: dict[int, Row] = {}
        for found in sound(records_in_frames(self._beside("-wal"), frames[read:])):
            if isinstance(found, Row) and found.number and found.number > (newest or 0):
                saved[found.number] = found
        insert(self._connection, [saved[number] for number in sorted(saved)])
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if unread or torn or saved:
            say(
                f"{self._beside('-wal')}: its end is torn ({unread} pages and {torn} bytes); {len(saved)} replies in it "
                "were saved, any other that was being written is lost and will be asked again"
            )

    # --- repair ---

    def _put_aside(self, error: Exception) -> None:
        """From here on the repair goes on, whichever process opens the file next."""
        say(f"{self.file} is damaged ({error}); what can be read is being saved")
        self._beside(".damaged-wal").unlink(missing_ok=True)
        if self.file.exists():
            self.file.rename(self._beside(".repairing"))
        else:
            self._beside(".repairing").touch()
        # Closed only now: SQLite leaves the write-ahead log of a file that has moved as it is.
        self._disconnect()

    def _finish_repair(self) -> None:
        """Fill a new file with all sound rows of the one put aside. Each step can be repeated after a kill."""
        broken, broken_wal, salvage = (self._beside(s) for s in (".repairing", ".repairing-wal", ".salvage"))
        if not self.file.exists():
            if self._beside("-wal").exists() and self._beside("-wal").stat().st_size:
                self._beside("-wal").rename(broken_wal)
            for suffix in ("-wal", "-shm"):
                self._beside(suffix).unlink(missing_ok=True)
            create(salvage)
            kept, lost = fill(salvage, broken, broken_wal)
            salvage.rename(self.file)
            others = "all others" if lost is None else f"{lost:,}"
            say(
                f"{self.file}: {kept:,} replies were saved, {others} are lost and will be asked again; "
                f"the damaged file is kept as {self._beside('.damaged').name}"
            )
        if broken_wal.exists():
            broken_wal.rename(self._beside(".damaged-wal"))
        broken.rename(self._beside(".damaged"))

    def _beside(self, suffix: str) -> Path:
        return self.file.with_name(self.file.name + suffix)

    def _trouble(self, error: Exception) -> Exception:
        """What an error means that is not damage."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return NotNow(f"{self.file} is held by another program; when that has ended, run this again")
        return OSError(f"{self.file}: {error}")


EVERY_LOG: WeakSet[ReplyLog] = WeakSet()
HELD = threading.local()


def before_fork() -> None:
    """SQLite forbids to carry a connection into a child, even only to close it there."""
    HELD.logs = list(EVERY_LOG)
    for log in HELD.logs:
        log._one_thread.acquire()
        log.close()


def after_fork() -> None:
    for log in HELD.logs:
        log._one_thread.release()
    HELD.logs = []


os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=after_fork)


def say(message: str) -> None:
    print(f"reply log {message}", file=sys.stderr, flush=True)


def identity_of(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, Damaged) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG)
