"""A lease belongs to one process, says whose it is, and is free as soon as that process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resources import leases as module
from resources.errors import NotNow
from resources.leases import Leases, Taken, slot_count, slots_folder
from tests.commands import PATIENCE

TAKE = """
lease = Leases(folder, "run of study a").acquire("gpu")
"""
SAY = """
print(os.getpid(), flush=True)
time.sleep(1000)
"""
FORK = """
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(1000)
os.wait()
"""


class Process:
    """A Python process, and its child where it has one."""

    def __init__(self, folder: Path, script: str, before: str = "") -> None:
        head = f"import os, sys, time, fcntl, threading, pathlib\nfolder = pathlib.Path({str(folder)!r})\n"
        program = head + before + "\nfrom resources import leases\nfrom resources.leases import Leases\n" + script
        self.popen = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        self.pid = self.popen.pid
        self.speaker = self.pid

    def ready(self) -> Process:
        """Wait until it, or its child, has said its number."""
        self.speaker = int(self.heard())
        return self

    def heard(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def end(self) -> None:
        self.kill()
        if self.speaker != self.pid:
            os.kill(self.speaker, signal.SIGKILL)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


Start = Callable[..., Process]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "slots"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[Process] = []

    def one(script: str, before: str = "") -> Process:
        started.append(Process(folder, script, before))
        return started[-1]

    yield one
    for process in started:
        process.end()


@pytest.fixture
def ours(folder: Path) -> Leases:
    return Leases(folder, "the test")


def soon(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_process_is_told_who_holds_it_and_gets_it_when_that_is_killed(start: Start, ours: Leases) -> None:
    assert ours.holder("gpu") is None
    process = start(TAKE + SAY).ready()
    with pytest.raises(Taken, match=rf"^gpu: slot 0 is held by process {process.pid} \(run of study a\) since 2\d+-"):
        ours.acquire("gpu")
    holder = ours.holder("gpu")
    assert holder is not None and (holder.pid, holder.doing) == (process.pid, "run of study a")
    assert not ours.is_taken("llm")
    process.kill()
    assert "run of study a" in (ours.folder / "gpu.0").read_text()
    assert not ours.is_taken("gpu")  # though the file still says so
    ours.acquire("gpu").release()


KEEPS = "os.register_at_fork = lambda **hooks: None\n"
INHERITS = """
import io
opened = io.open
def inherited(*arguments, **options):
    file = opened(*arguments, **options)
    os.set_inheritable(file.fileno(), True)
    return file
io.open = inherited
"""
EXEC = """
import subprocess
print(subprocess.Popen(["sleep", "1000"], close_fds=False).pid, flush=True)
time.sleep(1000)
"""
# One thread forks while another is taking the lease.
MEANWHILE = """
lock, begun = leases._lock, threading.Event()
def slowly(file, kind):
    locked = lock(file, kind)
    begun.set()
    time.sleep(0.3)
    return locked
leases._lock = slowly
threading.Thread(target=Leases(folder, "").acquire, args=("gpu",)).start()
begun.wait()
"""
HEEDLESS = """
register = os.register_at_fork
os.register_at_fork = lambda before=None, after_in_parent=None, **hooks: register(**hooks)
"""


@pytest.mark.parametrize(
    ("script", "before", "freed"),
    [
        pytest.param(TAKE + FORK, "", True, id="forked"),
        pytest.param(TAKE + FORK, KEEPS, False, id="control-forked"),
        pytest.param(TAKE + EXEC, "", True, id="executed"),
        pytest.param(TAKE + EXEC, INHERITS, False, id="control-executed"),
        pytest.param(MEANWHILE + FORK, "", True, id="forked-meanwhile"),
        pytest.param(MEANWHILE + FORK, HEEDLESS, False, id="control-forked-meanwhile"),
    ],
)
def test_a_child_that_lives_on_does_not_keep_it(
    start: Start, ours: Leases, script: str, before: str, freed: bool
) -> None:
    process = start(script, before).ready()
    assert process.speaker != process.pid and ours.is_taken("gpu")
    process.kill()
    assert ours.is_taken("gpu") is not freed
    os.kill(process.speaker, 0)


def test_a_forked_child_neither_frees_it_nor_has_it(start: Start, ours: Leases) -> None:
    child = """
if os.fork() == 0:
    lease.release()
    Leases(folder, "the child").acquire("gpu", waiting=lambda line: print(os.getpid(), flush=True))
    time.sleep(1000)
os.wait()
"""
    process = start(TAKE + child).ready()
    assert [holder.pid for holder in ours.holders("gpu")] == [process.pid]
    process.kill()
    soon(lambda: [holder.pid for holder in ours.holders("gpu")] == [process.speaker])


def test_held_until_all_of_a_process_have_released_it(start: Start, ours: Leases, folder: Path) -> None:
    def taken() -> bool:
        return start("print(Leases(folder, '').is_taken('gpu'))").heard() == "True\n"

    first = ours.acquire("gpu")
    found = []
    thread = threading.Thread(target=lambda: found.append(Leases(folder / ".." / "slots", "").acquire("gpu")))
    thread.start()
    thread.join(PATIENCE)
    first.release()
    first.release()
    assert taken()
    with found[0]:
        assert taken()
    assert not taken()
    assert (folder / "gpu.0").read_text() == ""


def test_as_many_as_there_are_slots(start: Start, ours: Leases) -> None:
    script = TAKE.replace('"gpu"', '"llm", 2')
    one = start(script + SAY).ready()
    other = start(script + SAY).ready()
    assert [(holder.slot, holder.pid) for holder in ours.holders("llm")] == [(0, one.pid), (1, other.pid)]
    with pytest.raises(Taken, match=rf"slot 0 is held by process {one.pid} .*; slot 1 is held by process {other.pid} "):
        ours.acquire("llm", 2)
    with ours.acquire("llm", 3):
        assert ours.holders("llm")[2].pid == os.getpid()
    one.kill()
    with ours.acquire("llm", 2):
        assert [holder.pid for holder in ours.holders("llm")] == [os.getpid(), other.pid]


def test_waiting_is_told_once_and_again_when_the_holder_changes(start: Start, ours: Leases) -> None:
    first = start(TAKE + SAY).ready()
    second = []
    lines = []

    def waiting(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            first.kill()
            second.append(start(TAKE.replace("study a", "study b") + SAY).ready())
        else:
            # Longer than several tries take.
            threading.Timer(5 * module.SECONDS_BETWEEN_TRIES, second[0].popen.kill).start()

    before = time.process_time()
    with ours.acquire("gpu", waiting=waiting):
        assert [line.partition(" since ")[0] for line in lines] == [
            f"waiting for gpu: slot 0 is held by process {first.pid} (run of study a)",
            f"waiting for gpu: slot 0 is held by process {second[0].pid} (run of study b)",
        ]
    assert time.process_time() - before < 0.5


def test_ctrl_c_ends_the_waiting(start: Start, ours: Leases) -> None:
    # Whoever runs the tests in the background hands down an ignored SIGINT.
    before = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script = 'Leases(folder, "").acquire_all({"gpu": 1, "a": 1}, lambda line: print(os.getpid(), flush=True))'
    with ours.acquire("gpu"):
        process = start(f"try:\n    {script}\nexcept KeyboardInterrupt:\n    sys.exit(7)", before).ready()
        assert ours.is_taken("a")
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(PATIENCE) == 7
        assert ours.is_taken("gpu") and not ours.is_taken("a")


@pytest.mark.parametrize("held", ["a", "b"])
def test_several_are_taken_in_the_order_of_their_names(start: Start, ours: Leases, held: str) -> None:
    """Whatever order they are asked in: one who waits for b has a, one who waits for a does not have b."""
    with ours.acquire(held):
        script = 'Leases(folder, "").acquire_all({"b": 1, "a": 1}, lambda line: print(os.getpid(), flush=True))'
        start(script).ready()
        assert [ours.is_taken(name) for name in ("a", "b")] == [True, held == "b"]


def test_all_or_none(start: Start, ours: Leases) -> None:
    start(TAKE + SAY).ready()
    with pytest.raises(Taken):
        ours.acquire_all({"gpu": 1, "a": 1})
    assert not ours.is_taken("a")
    with ours.acquire_all({"llm": 1, "a": 1}):
        assert ours.is_taken("a") and ours.is_taken("llm")
    assert not ours.is_taken("a") and not ours.is_taken("llm")


def test_looking_does_not_take(ours: Leases) -> None:
    """A lease is had by who asks for it while another process looks; an exclusive lock is what takes it."""
    ours.acquire("gpu").release()
    with (ours.folder / "gpu.0").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert not ours.is_taken("gpu")
        threading.Timer(0.1, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        ours.acquire("gpu").release()
        fcntl.flock(look, fcntl.LOCK_EX)
        with pytest.raises(Taken, match=r"^gpu: slot 0 is held by another program; when that has ended"):
            ours.acquire("gpu")


def test_names_that_are_paths(ours: Leases) -> None:
    names = ["study a/b", "../gpu", "layers.0", "layers"]
    with ours.acquire_all(dict.fromkeys(names, 1)):
        assert all(ours.is_taken(name) for name in names)
        assert not ours.is_taken("b")
        assert len(list(ours.folder.iterdir())) == len(names)
    assert [file.name for file in ours.folder.parent.iterdir()] == [ours.folder.name]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotNow, match=r"file/slots: no lease can be taken there \(Not a directory\)"):
        Leases(tmp_path / "file" / "slots", "").acquire("gpu")


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("INTERP_SLOTS_DIR", "XDG_RUNTIME_DIR", "INTERP_SLOTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    return monkeypatch


def test_where_slots_are(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / f"interp-slots-{os.getuid()}"
    assert slots_folder() == slots_folder() == own
    assert own.stat().st_mode & 0o777 == 0o700
    variables.setenv("XDG_RUNTIME_DIR", str(tmp_path / "no_session"))
    assert slots_folder() == own
    variables.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert slots_folder() == tmp_path / "interp-slots"
    variables.setenv("INTERP_SLOTS_DIR", str(tmp_path / "chosen"))
    assert slots_folder() == tmp_path / "chosen"


def test_a_folder_that_somebody_else_has_laid_out(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / f"interp-slots-{os.getuid()}"
    own.symlink_to(tmp_path)
    with pytest.raises(NotNow, match=f"^{own} was not made by you.*INTERP_SLOTS_DIR"):
        slots_folder()
    stranger = os.getuid() + 1
    variables.setattr(os, "getuid", lambda: stranger)
    (tmp_path / f"interp-slots-{stranger}").mkdir()
    with pytest.raises(NotNow, match=f"interp-slots-{stranger} was not made by you"):
        slots_folder()


def test_slot_counts(variables: pytest.MonkeyPatch) -> None:
    assert slot_count("gpu") == 1
    variables.setenv("INTERP_SLOTS", " gpu=2, llm = 8")
    assert [slot_count(name) for name in ("gpu", "llm", "cpu")] == [2, 8, 1]


@pytest.mark.parametrize(
    "text", ["gpu", "gpu=", "gpu=two", "gpu=0", "gpu=-1", "gpu=2;llm=8", "gpu=1,gpu=2", "=2", "gpu=2,"]
)
def test_slot_counts_that_make_no_sense(variables: pytest.MonkeyPatch, text: str) -> None:
    variables.setenv("INTERP_SLOTS", text)
    with pytest.raises(NotNow, match=rf"^INTERP_SLOTS='{text}': .* as in gpu=2,llm=8$"):
        slot_count("llm")
