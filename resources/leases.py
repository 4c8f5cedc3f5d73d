"""Leases on devices and studies, held by processes: `flock` on files in one folder of a local disk.

Whoever starts the work (`interp run`, the UI, the daemon), the system frees a lease when its process ends, however that
ends. Within a process a lease is shared: threads and stages that take the same name hold it together.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

from resources.errors import NotNow, one_line

SECONDS_BETWEEN_TRIES = 0.2

Waiting = Callable[[str], None]
"Told in one line what is waited for and who holds it; told again when that changes."


class Taken(NotNow):
    """Others hold all slots of a name."""


class Holder(NamedTuple):
    slot: int
    pid: int | None
    "None where another program holds it, which leaves no word of itself."
    doing: str = ""
    since: str = ""

    def __str__(self) -> str:
        who = "another program" if self.pid is None else f"process {self.pid} ({self.doing}) since {self.since}"
        return f"slot {self.slot} is held by {who}"


class Lease(ExitStack):
    """Held until it is released or the process ends; also a context manager."""

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        self.close()


class Leases:
    """The leases of one folder.

    Args:
        doing: what this process does, for those who wait for it to read.
    """

    def __init__(self, folder: Path, doing: str) -> None:
        self.folder = folder.resolve()
        self.doing = one_line(doing)

    def acquire(self, name: str, count: int = 1, waiting: Waiting | None = None) -> Lease:
        """Take one of the `count` slots of a name, or share the one that this process holds.

        Raises:
            Taken: all are taken and `waiting` is None; where it is given, this waits until one is free.
        """
        return self.acquire_all({name: count}, waiting)

    def acquire_all(self, counts: Mapping[str, int], waiting: Waiting | None = None) -> Lease:
        """One slot of each name, given with the number of its slots; where it raises, none is kept.

        They are taken in sorted order: processes that take all they need at once never wait for each other in a circle.
        """
        with Lease() as lease:
            for name in sorted(counts):
                lease.callback(self._wait_for(name, counts[name], waiting).leave)
            return lease.pop_all()

    def holders(self, name: str) -> list[Holder]:
        """Who holds slots of a name at present, this process included."""
        found: list[Holder] = []
        for number in itertools.count():
            try:
                found += self._look(name, number)
            except FileNotFoundError:
                return found  # slots are tried in order, so no later one was ever taken
        return found

    def holder(self, name: str) -> Holder | None:
        return next(iter(self.holders(name)), None)

    def is_taken(self, name: str) -> bool:
        return self.holder(name) is not None

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{quote(name, safe='')}.{number}"

    def _wait_for(self, name: str, count: int, waiting: Waiting | None) -> _Slot:
        said = ""
        while (slot := self._try(name, count)) is None:
            holders = [holder for holder in self.holders(name) if holder.slot < count]
            # Fewer than there are slots: one was freed just now, or was only being looked at.
            if len(holders) == count:
                held = f"{name}: {'; '.join(map(str, holders))}"
                if waiting is None:
                    raise Taken(f"{held}; when that has ended, run this again")
                if held != said:
                    waiting(f"waiting for {held}")
                    said = held
            time.sleep(SECONDS_BETWEEN_TRIES)
        return slot

    def _try(self, name: str, count: int) -> _Slot | None:
        key = (self.folder, name)
        with _guard:
            for number in range(count):
                if key not in _held and (file := self._locked(name, number)):
                    _held[key] = _Slot(key, file)
            slot = _held.get(key)
            if slot is not None:
                slot.leases += 1
            return slot

    def _locked(self, name: str, number: int) -> IO[str] | None:
        """The locked file of a slot, in which now stands who holds it; None where another has it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self._file(name, number).open("a+")  # as all files of Python, not inherited by other programs
        except OSError as error:
            raise NotNow(f"{self.folder}: no lease can be taken there ({error.strerror})") from None
        if not _lock(file, fcntl.LOCK_EX):
            file.close()
            return None
        file.truncate(0)
        said = {"pid": os.getpid(), "doing": self.doing, "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        print(json.dumps(said), file=file, flush=True)
        return file

    def _look(self, name: str, number: int) -> list[Holder]:
        """Who holds a slot, if anyone. Raises FileNotFoundError where nobody ever did."""
        with _guard, self._file(name, number).open() as file:
            if _lock(file, fcntl.LOCK_SH):
                return []  # what stands in the file is left of a process that was killed
            try:
                said = json.loads(file.read())
                return [Holder(number, said["pid"], said["doing"], said["since"])]
            except (ValueError, TypeError, KeyError):
                return [Holder(number, None)]


@dataclass(eq=False)
class _Slot:
    """A slot that this process holds, for some number of leases."""

    key: tuple[Path, str]
    file: IO[str]
    leases: int = 0

    def leave(self) -> None:
        with _guard:
            self.leases -= 1
            if self.leases == 0 and _held.get(self.key) is self:  # not so in a forked child
                del _held[self.key]
                self.file.truncate(0)
                self.file.close()


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


_held: dict[tuple[Path, str], _Slot] = {}
_guard = threading.RLock()
"Held while a lock file is open that `_held` does not list, so that no fork happens then; never while waiting."


def _close_in_child() -> None:
    """A forked child would keep its parent's leases beyond the parent's end."""
    for slot in _held.values():
        slot.file.close()
    _held.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_close_in_child)


def slots_folder() -> Path:
    """Where the leases on this machine's devices are: INTERP_SLOTS_DIR, or else a folder of the user's own.

    Raises:
        NotNow: that folder is not the user's.
    """
    if chosen := os.environ.get("INTERP_SLOTS_DIR"):
        return Path(chosen)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "interp-slots"
    folder = Path(tempfile.gettempdir()) / f"interp-slots-{os.getuid()}"
    if not folder.is_symlink():
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
        raise NotNow(f"{folder} was not made by you, so it is not used; name another folder in INTERP_SLOTS_DIR")
    return folder


def slot_count(name: str) -> int:
    """How many processes may hold a name at once: what INTERP_SLOTS says, as in `gpu=2,llm=8`, else 1.

    Raises:
        NotNow: INTERP_SLOTS says something else.
    """
    text = os.environ.get("INTERP_SLOTS", "")
    counts: dict[str, int] = {}
    for entry in text.split(",") if text.strip() else []:
        key, _, value = (part.strip() for part in entry.partition("="))
        if not key or key in counts or not value.isdecimal() or int(value) < 1:
            raise NotNow(f"INTERP_SLOTS={text!r}: {entry!r} is not a new name and a number from 1, as in gpu=2,llm=8")
        counts[key] = int(value)
    return counts.get(name, 1)
