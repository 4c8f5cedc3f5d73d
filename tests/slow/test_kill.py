"""A run that is killed, or whose disk is full, or that finds its newest files cut off: the next one ends as if nothing
had been, and asks no language model twice."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from interp_assets.freshness import Freshness
from interp_assets.study import Study, load_study
from resources.reply_log import ReplyLog
from tests.changed_study import changed
from tests.slow_engine import asked, start

KILLS = 20
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def file(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of some hundreds of calls, nothing made yet."""
    root = shutil.copytree(
        tiny_file.parent, tmp_path_factory.mktemp("kill") / "world", ignore=shutil.ignore_patterns("store")
    )
    fewer = {
        f"scorers.{method}.{kind}": 2
        for method in ("detection", "fuzzing")
        for kind in ("activating", "non_activating")
    }
    return changed(root / "study.yaml", fewer, "study.yaml")


@pytest.fixture(scope="module")
def undisturbed(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[str], float]:
    """The content of every asset, what was asked, and the seconds that it took."""
    mine = copy_of(file, tmp_path_factory.mktemp("undisturbed") / "world")
    before = time.monotonic()
    end(mine)
    seconds = time.monotonic() - before
    assert len(asked(mine)) == len(set(asked(mine))) > 300
    return contents(load_study(mine)), sorted(asked(mine)), seconds


def copy_of(file: Path, root: Path) -> Path:
    return shutil.copytree(file.parent, root) / file.name


def end(file: Path) -> None:
    process = start(file)
    process.join(120)
    assert process.exitcode == 0


def contents(study: Study) -> dict[str, str]:
    freshness = Freshness(study)
    assert {state.state for state in freshness.states()} == {"fresh"}
    made = {state.asset: freshness.current(state.asset, state.partition) for state in freshness.states()}
    return {name: partition.content_hash for name, partition in made.items() if partition is not None}


def test_killed_at_twenty_moments(
    file: Path, undisturbed: tuple[dict[str, str], list[str], float], tmp_path: Path
) -> None:
    whole, questions, seconds = undisturbed
    draw = random.Random(7)
    killed_while_asking = 0
    for number in range(KILLS):
        mine = copy_of(file, tmp_path / f"{number}")
        process = start(mine)
        if number % 2:
            process.join(draw.uniform(0.1, 0.95) * seconds)
        else:  # in the midst of asking, however fast the machine is by now
            enough = draw.randrange(1, len(questions) // 2)
            while process.is_alive() and len(asked(mine)) < enough:
                time.sleep(0.01)
        process.kill()
        process.join()
        killed_while_asking += 0 < len(asked(mine)) < len(questions)
        end(mine)
        assert contents(load_study(mine)) == whole, number
        again = len(asked(mine)) - len(set(asked(mine)))
        assert again <= 1, number  # the one that was in flight
        assert sorted(set(asked(mine))) == questions
        shutil.rmtree(mine.parent)
    assert killed_while_asking >= KILLS // 4  # control: not all of them came too early or too late


def test_a_full_disk(file: Path, undisturbed: tuple[dict[str, str], list[str], float], tmp_path: Path) -> None:
    whole, questions, _ = undisturbed
    mine = copy_of(file, tmp_path / "world")
    disk = mine.parent / "store"
    disk.mkdir()
    size = MEGABYTE // 4
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a small disk needs the right to mount one ({mounted.stderr.decode().strip()})")
    try:
        failures = 0
        while True:
            process = start(mine)
            process.join(120)
            if process.exitcode == 0:
                break
            assert process.exitcode == 1
            failures += 1
            size += MEGABYTE // 4
            subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        assert failures >= 3
        assert contents(load_study(mine)) == whole
        assert sorted(set(asked(mine))) == questions
        assert len(asked(mine)) - len(questions) <= failures
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def newest(root: Path, pattern: str) -> Path:
    return max(root.rglob(pattern), key=lambda found: found.stat().st_mtime_ns)


@pytest.mark.parametrize("pattern", ["*.parquet", "manifest.json", "replies.sqlite", "file_hashes.json", "tiny/**/all"])
def test_what_a_power_cut_leaves_of_the_newest_file(
    file: Path,
    undisturbed: tuple[dict[str, str], list[str], float],
    tmp_path: Path,
    pattern: str,
) -> None:
    whole, questions, _ = undisturbed
    mine = copy_of(file, tmp_path / "world")
    end(mine)
    victim = newest(mine.parent / "store", pattern)
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) * 2 // 3])
    reasons = [reason for state in Freshness(load_study(mine)).states() for reason in state.reasons]
    end(mine)
    assert contents(load_study(mine)) == whole
    lost = len(asked(mine)) - len(questions)
    if pattern == "replies.sqlite":
        # Tables are whole, so nothing is asked; the log says what it lost when it is needed next.
        other = changed(mine, {"scorers.fuzzing.instructions": "Decide."}, "study.yaml")
        end(other)
        assert str(victim) in (mine.parent / "said").read_text()
        with ReplyLog(victim) as log:
            assert sum(spent.calls for spent in log.spent("tiny").values()) > 0
    else:
        assert lost == 0
    if pattern in ("*.parquet", "manifest.json"):
        assert any(reason.startswith(f"damaged: {victim}") for reason in reasons)


def test_control_a_kill_without_a_log_asks_twice(file: Path, tmp_path: Path) -> None:
    mine = copy_of(file, tmp_path / "world")
    process = start(mine)
    while len(asked(mine)) < 150:
        time.sleep(0.01)
    process.kill()
    process.join()
    for part in (mine.parent / "store").glob("replies.sqlite*"):
        part.unlink()
    end(mine)
    assert len(asked(mine)) - len(set(asked(mine))) > 20


def test_the_process_was_killed_and_not_merely_asked_to_end(file: Path, tmp_path: Path) -> None:
    mine = copy_of(file, tmp_path / "world")
    process = start(mine)
    process.join(0.2)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
