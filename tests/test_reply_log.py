"""The reply log loses nothing it has confirmed, whoever is killed and whoever writes beside it; what is damaged is named."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from interp_assets.study import PROJECT
from resources import reply_log, reply_rows
from resources.errors import NotNow
from resources.reply_log import LoggedReply, ReplyLog, Spent

COUNT = 2000


def key_of(number: int) -> bytes:
    return random.Random(number).randbytes(16)


def text_of(number: int) -> str:
    """Some replies are longer than a page."""
    return f'{{"text":"reply {number} {"word " * (2500 if number % 200 == 7 else number % 30)}"}}'


def entry(number: int) -> tuple[bytes, str, int, int, int]:
    return key_of(number), text_of(number), number, number // 2, 3


def logged(number: int) -> LoggedReply:
    return LoggedReply(*entry(number)[1:])


def found(file: Path, numbers: range) -> set[int]:
    """Which replies are there; each must be as it was written."""
    with ReplyLog(file) as log:
        replies = log.look_up([key_of(number) for number in numbers])
    there = {number for number in numbers if key_of(number) in replies}
    assert all(replies[key_of(number)] == logged(number) for number in there)
    return there


WRITER = """
import os, sys
from pathlib import Path
from resources.reply_log import ReplyLog
from tests.test_reply_log import entry
log, start = ReplyLog(Path(sys.argv[1])), int(sys.argv[2])
"""
APPENDING = (
    f"{WRITER}\nfor n in range(start, start + {COUNT}): log.append('study', 'engine', *entry(n)); print(n, flush=True)"
)
"Reports each reply when it has been appended."


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT)


def run(code: str, *arguments: object) -> tuple[str, str]:
    process = start(code, *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store" / "replies.sqlite"


@pytest.fixture
def filled(file: Path) -> Path:
    with ReplyLog(file) as log:
        log.append_many("study", "engine", map(entry, range(COUNT)))
    return file


@pytest.fixture(scope="module")
def left_by_a_killed_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log whose last replies stand in the write-ahead log only."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(APPENDING, folder / "replies.sqlite", 0)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == COUNT - 1:
            process.kill()
    process.wait()
    return folder


@pytest.fixture
def killed(left_by_a_killed_process: Path, file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    for source in left_by_a_killed_process.iterdir():
        (file.parent / source.name).write_bytes(source.read_bytes())
    return file


def beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


# --- looking up, forgetting, totals ---


def test_what_was_appended_is_found(filled: Path) -> None:
    assert found(filled, range(COUNT + 50)) == set(range(COUNT))


def test_the_first_reply_stays_and_both_are_paid_for(file: Path) -> None:
    with ReplyLog(file) as log:
        log.append("one", "small", b"key", "first", 10, 5, 1)
        log.append("two", "small", b"key", "second", 20, 0, 2)
        assert log.look_up([b"key", b"other"]) == {b"key": LoggedReply("first", 10, 5, 1)}
        assert log.spent("one") == {"small": Spent(1, 10, 5, 1)}
        assert log.spent("two") == {"small": Spent(1, 20, 0, 2)}
        assert log.spent("three") == {}


def test_what_is_forgotten_is_asked_again_and_stays_paid_for(file: Path) -> None:
    with ReplyLog(file) as log:
        for number in range(3):
            log.append("study", "engine", *entry(number))
        assert log.forget([key_of(0), key_of(1), key_of(77), key_of(1)]) == 2
        assert set(log.look_up([key_of(n) for n in range(3)])) == {key_of(2)}
        assert log.forget([key_of(0)]) == 0
        log.append("study", "engine", key_of(0), "anew", 100, 0, 7)
        assert log.look_up([key_of(0)]) == {key_of(0): LoggedReply("anew", 100, 0, 7)}
        assert log.spent("study") == {"engine": Spent(4, 103, 1, 16)}


def test_totals_are_kept_by_study_and_engine(file: Path) -> None:
    expected: dict[tuple[str, str], Spent] = {}
    with ReplyLog(file) as log:
        for number in range(60):
            payer = f"study{number % 3}", f"engine{number % 2}"
            log.append(*payer, *entry(number))
            before = expected.get(payer, Spent())
            expected[payer] = Spent(*(a + b for a, b in zip(before, (1, number, number // 2, 3), strict=True)))
    with ReplyLog(file) as log:
        for study in ("study0", "study1", "study2"):
            assert log.spent(study) == {engine: spent for (of, engine), spent in expected.items() if of == study}


def test_what_arrives_together_is_kept_together(file: Path) -> None:
    with ReplyLog(file) as log:
        log.append("study", "engine", *entry(0))
        with pytest.raises(Exception, match="str"):
            log.append_many("study", "engine", [entry(1), (key_of(2), "text", "many", 0, 0)])  # type: ignore[list-item]
        assert log.spent("study")["engine"].calls == 1
    assert found(file, range(3)) == {0}


# --- killed, at once, forked ---

REPORTING_TOO_EARLY = (
    f"{WRITER}\nlog.append_many('study', 'engine', (print(n, flush=True) or entry(n) for n in range({COUNT})))"
)


def reported_and_lost(code: str, file: Path, after: int) -> set[int]:
    """Kill a writer some time after it has reported so many replies; which of those reported are not there."""
    process = start(code, file, 0)
    assert process.stdout is not None
    reported = [process.stdout.readline() for _ in range(after)]
    time.sleep(random.Random(after).random() / 50)
    process.kill()
    reported += process.stdout.readlines()
    process.wait()
    numbers = {int(line) for line in reported if line.endswith("\n")}
    assert len(numbers) >= after
    return numbers - found(file, range(COUNT))


@pytest.mark.parametrize("after", [1, 10, 60, 300, 900])
def test_a_killed_process_loses_nothing_that_it_reported(file: Path, after: int) -> None:
    assert reported_and_lost(APPENDING, file, after) == set()
    with ReplyLog(file) as log:
        assert log.spent("study")["engine"].calls == len(found(file, range(COUNT)))


def test_control_a_report_before_the_commit_is_noticed(file: Path) -> None:
    assert reported_and_lost(REPORTING_TOO_EARLY, file, 50)


def test_processes_append_at_once(file: Path) -> None:
    """Half of the replies are appended by both."""
    writers = [start(APPENDING, file, begin) for begin in (0, COUNT // 2)]
    for writer in writers:
        _, err = writer.communicate(timeout=60)
        assert (writer.returncode, err) == (0, "")
    assert found(file, range(2 * COUNT)) == set(range(COUNT * 3 // 2))
    with ReplyLog(file) as log:
        assert log.spent("study")["engine"].calls == 2 * COUNT
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT sum(live), count(*) FROM replies").fetchone() == (COUNT * 3 // 2, 2 * COUNT)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_fork_opens_the_log_for_itself(filled: Path) -> None:
    with ReplyLog(filled) as log:
        log.append("study", "engine", *entry(COUNT))
        child = os.fork()
        if child == 0:
            own = log._connection is None
            log.append("study", "engine", *entry(COUNT + 1))
            log.close()
            os._exit(0 if own else 1)
        assert os.waitpid(child, 0)[1] == 0
        log.append("study", "engine", *entry(COUNT + 2))
    assert found(filled, range(COUNT + 3)) == set(range(COUNT + 3))


def test_a_full_disk_is_said_and_loses_nothing_that_was_reported(file: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))"
    process = start(f"{limit}\n{APPENDING}", file, 0)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(rf"OSError: {file}: (disk I/O error|database or disk is full)", err)
    reported = {int(line) for line in out.split()}
    assert 10 < len(reported) < COUNT
    assert reported <= found(file, range(COUNT))


def test_a_file_held_by_another_program_is_said(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_rows, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(filled, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ReplyLog(filled) as log:
        with pytest.raises(NotNow, match=rf"{filled} is held by another program"):
            log.append("study", "engine", *entry(COUNT))
        other.close()
        log.append("study", "engine", *entry(COUNT))
    assert found(filled, range(COUNT, COUNT + 1)) == {COUNT}


# --- damage ---


def test_control_nothing_is_said_of_a_sound_log(killed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert beside(killed, "-wal").stat().st_size > 1_000_000
    assert found(killed, range(COUNT)) == set(range(COUNT))
    assert capfd.readouterr().err == ""


def test_a_torn_write_ahead_log_is_named_and_repaired(killed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wal = beside(killed, "-wal")
    os.truncate(wal, wal.stat().st_size - 100)
    there = found(killed, range(COUNT))
    assert there >= set(range(COUNT - 1))
    said = capfd.readouterr().err
    assert said.startswith(f"reply log {wal}: its end is torn (")
    assert said.count("\n") == 1
    assert found(killed, range(COUNT)) == there
    assert capfd.readouterr().err == ""


def test_replies_behind_a_broken_page_of_the_write_ahead_log_are_saved(
    killed: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite reads up to there only: without our saving, most would be lost."""
    wal = beside(killed, "-wal")
    content = bytearray(wal.read_bytes())
    content[len(content) // 3] ^= 1
    wal.write_bytes(content)
    copies = {path.name: path.read_bytes() for path in killed.parent.iterdir()}
    assert len(found(killed, range(COUNT))) >= COUNT - 1
    assert f"{wal}: its end is torn" in capfd.readouterr().err
    with ReplyLog(killed) as log:
        assert log.spent("study")["engine"].calls >= COUNT - 1

    for path in killed.parent.iterdir():
        path.unlink()
    for name, bytes_ in copies.items():
        (killed.parent / name).write_bytes(bytes_)
    monkeypatch.setattr(reply_log, "sound", lambda records: iter(()))
    assert len(found(killed, range(COUNT))) < COUNT // 2  # control


Damage = Callable[[Path, random.Random], object]


def write_at(file: Path, offset: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(content)


def some_page(file: Path, chance: random.Random) -> int:
    return 4096 * chance.randrange(file.stat().st_size // 4096)


def flip(file: Path, chance: random.Random) -> None:
    for _ in range(20):
        place = chance.randrange(file.stat().st_size)
        write_at(file, place, bytes([file.read_bytes()[place] ^ 1 << chance.randrange(8)]))


DAMAGES: dict[str, tuple[Damage, float]] = {
    "cut to half": (lambda file, chance: os.truncate(file, file.stat().st_size // 2), 0.35),
    "cut within a page": (lambda file, chance: os.truncate(file, file.stat().st_size - 1000), 0.9),
    "cut to nothing": (lambda file, chance: os.truncate(file, 0), 0),
    "no header": (lambda file, chance: write_at(file, 0, bytes(4096)), 1),
    "no root page": (lambda file, chance: write_at(file, 4096, bytes(4096)), 1),
    "a page of zeros": (lambda file, chance: write_at(file, some_page(file, chance), bytes(4096)), 0.95),
    "a page of noise": (lambda file, chance: write_at(file, some_page(file, chance), chance.randbytes(4096)), 0.95),
    "flipped bits": (flip, 0.7),
    "gone but for its write-ahead log": (lambda file, chance: file.unlink(), 0.9),
}
"What is done to a file, and how large a share of the replies is kept at least."


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("seed", range(2))
def test_damage_is_named_and_what_can_be_read_is_kept(
    filled: Path, left_by_a_killed_process: Path, capfd: pytest.CaptureFixture[str], name: str, seed: int
) -> None:
    damage, share = DAMAGES[name]
    if name.endswith("write-ahead log"):
        beside(filled, "-wal").write_bytes((left_by_a_killed_process / "replies.sqlite-wal").read_bytes())
    damage(filled, random.Random(seed))
    damaged = filled.read_bytes() if filled.exists() else b""
    there = found(filled, range(COUNT))
    assert share * COUNT <= len(there) <= COUNT
    said = capfd.readouterr().err
    lost = "all others" if name == "cut to nothing" else f"{COUNT - len(there):,}"
    assert f"reply log {filled} is damaged (" in said or name.startswith(("flipped", "a page"))
    if said:
        assert f"{len(there):,} replies were saved, {lost} are lost and will be asked again" in said
        assert beside(filled, ".damaged").read_bytes() == damaged
    # What is lost is asked again and then there; what it cost the first time stays counted.
    with ReplyLog(filled) as log:
        log.append_many("study", "engine", [entry(number) for number in range(COUNT) if number not in there])
        if name != "cut to nothing":
            assert log.spent("study")["engine"].calls == COUNT + COUNT - len(there)
    assert found(filled, range(COUNT)) == set(range(COUNT))
    assert capfd.readouterr().err == ""


def alter_a_reply(file: Path) -> int:
    """Change one letter of a reply on the disk; its number."""
    content = file.read_bytes()
    place = content.index(b"reply 1234 ")
    write_at(file, place, b"r3ply")
    return 1234


def test_an_altered_reply_is_not_used(filled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    number = alter_a_reply(filled)
    assert found(filled, range(COUNT)) == set(range(COUNT)) - {number}
    assert f"{filled} is damaged (reply {number + 1} does not fit its checksum)" in capfd.readouterr().err


def test_control_without_checksums_it_would_be(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = alter_a_reply(filled)
    monkeypatch.setattr(reply_rows.Row, "is_sound", lambda self: True)
    with ReplyLog(filled) as log:
        assert "r3ply" in log.look_up([key_of(number)])[key_of(number)].reply


def test_an_altered_total_is_not_believed(filled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ReplyLog(filled) as log:
        expected = log.spent("study")
    with sqlite3.connect(filled) as connection:
        connection.execute("UPDATE totals SET prompt_tokens = 1")
    connection.close()
    with ReplyLog(filled) as log:
        assert log.spent("study") == expected
    assert "what study has spent does not fit its checksum" in capfd.readouterr().err


def test_a_second_damage_counts_only_what_it_took(filled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.truncate(filled, filled.stat().st_size // 2)
    left = len(found(filled, range(COUNT)))
    capfd.readouterr()
    os.truncate(filled, filled.stat().st_size // 2)
    again = len(found(filled, range(COUNT)))
    assert f"{again:,} replies were saved, {left - again:,} are lost" in capfd.readouterr().err
    with ReplyLog(filled) as log:
        assert log.spent("study")["engine"].calls == COUNT


AFTERWARDS = ("", ".lock", ".damaged", ".damaged-wal")


class Killed(BaseException):
    pass


def test_a_repair_that_is_killed_goes_on(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each of its renames in turn; what there is of the file, and its write-ahead log, is put aside."""
    os.truncate(killed, killed.stat().st_size // 2)
    damaged = {path.name: path.read_bytes() for path in killed.parent.iterdir()}
    there = None
    for passing in range(10):
        for path in killed.parent.iterdir():
            path.unlink()
        for name, content in damaged.items():
            (killed.parent / name).write_bytes(content)
        left, rename = passing, Path.rename

        def last_rename(source: Path, target: Path, rename: Callable[[Path, Path], Path] = rename) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", last_rename)
            try:
                found(killed, range(COUNT))
            except Killed:
                pass
            else:
                break
        there = there or found(killed, range(COUNT))
        assert found(killed, range(COUNT)) == there
        assert len(there) > COUNT // 3
        for suffix in ("", "-wal"):
            assert beside(killed, f".damaged{suffix}").read_bytes() == damaged[killed.name + suffix]
        assert {path.name for path in killed.parent.iterdir()} <= {killed.name + s for s in AFTERWARDS}
    assert passing == 5


COUNTING = f"{WRITER}\nprint(len(log.look_up([entry(n)[0] for n in range({COUNT})])))"


def test_processes_that_meet_the_damage_at_once_repair_it_once(filled: Path) -> None:
    os.truncate(filled, filled.stat().st_size // 2)
    readers = [start(COUNTING, filled, 0) for _ in range(3)]
    ends = [reader.communicate(timeout=60) for reader in readers]
    assert len({out for out, _ in ends}) == 1
    assert int(ends[0][0]) > COUNT // 3
    assert sum("is damaged" in err for _, err in ends) == 1


def test_who_has_the_file_open_goes_on_in_the_repaired_one(filled: Path) -> None:
    """Its connection leads to the file that was put aside, and its closing must not tidy up beside the new one."""
    with ReplyLog(filled) as first, ReplyLog(filled) as second:
        for number, log in enumerate((first, second)):
            log.append("study", "engine", *entry(COUNT + number))
        alter_a_reply(filled)
        _, err = run(COUNTING, filled, 0)
        assert "is damaged" in err
        beside(filled, ".damaged").unlink()
        first.append("study", "engine", *entry(COUNT + 2))
        second.append("study", "engine", *entry(COUNT + 3))
    assert found(filled, range(COUNT + 4)) == set(range(COUNT + 4)) - {1234}


def test_something_else_under_that_name_is_put_aside(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file.parent.mkdir()
    file.write_text("not a database " * 1000)
    with ReplyLog(file) as log:
        log.append("study", "engine", *entry(0))
    assert found(file, range(1)) == {0}
    assert capfd.readouterr().err.count("is damaged") == 1
    assert beside(file, ".damaged").read_text().startswith("not a database")


def test_a_place_that_cannot_be_written_is_said(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(OSError, match=str(file)), ReplyLog(file) as log:
        log.look_up([b"key"])
