"""A real `interp run` that is stopped from outside: by a full disk, Ctrl-C, or kill -9. The same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import Future
from pathlib import Path

import dagster as dg
import psutil
import pytest

from interp_assets import run_processes
from interp_assets.dagster_runs import every_interrupt
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.study import PROJECT, Study, load_study
from resources.loaded_models import LoadedModels
from tests.interruptions import Story
from tests.refusals import GOOD


@pytest.fixture(scope="module")
def undisturbed(long_study: Path) -> dict[str, str]:
    """The content of every asset of a run that nothing stopped."""
    study = load_study(long_study)
    models = LoadedModels()
    for asset in ("sae_weights", "corpus", "activation_cache"):
        make_partition(study, asset, None if asset == "corpus" else GOOD, models)
    return contents(study)


def contents(study: Study) -> dict[str, str]:
    freshness = Freshness(study)
    made = {
        name: freshness.current(name, GOOD if asset.per_layer else None) for name, asset in freshness.assets.items()
    }
    return {name: partition.content_hash for name, partition in made.items() if partition is not None}


@pytest.mark.parametrize("passing", [True, False])
def test_a_signal_that_dagster_drops_is_noticed(passing: bool) -> None:
    """Between its checkpoints Dagster only notes a signal, and forgets it when the run ends."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with every_interrupt() if not passing else pytest.raises(KeyboardInterrupt), every_interrupt():
            if passing:
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("told", [KeyboardInterrupt(), ValueError()])
def test_a_signal_that_arrives_while_something_is_cleared_away(
    told: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be raised to nobody; the error of another kind is the control."""
    heard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: heard.append(raised.exc_value))

    class Fleeting:
        def __del__(self) -> None:
            raise told

    with every_interrupt():
        Fleeting()
    assert heard == [] if isinstance(told, KeyboardInterrupt) else heard == [told]


INTERRUPTED_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Signals:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Signals())
"""


@pytest.mark.parametrize("imported", ["yaml", "datetime"])
def test_ctrl_c_while_the_command_is_being_loaded(imported: str) -> None:
    """`datetime` is imported by a library in Rust, which panics where Python would raise KeyboardInterrupt."""
    ends = [
        subprocess.run(
            [sys.executable, "-c", INTERRUPTED_IMPORT + begin, imported], capture_output=True, text=True, cwd=PROJECT
        )
        for begin in ("from interp_assets.__main__ import main; sys.exit(main())", "import interp_assets.cli")
    ]
    assert ends[0].returncode == 130
    assert ends[0].stderr.strip() == "stopped. What was finished is kept; the same command goes on from there."
    assert "Traceback" in ends[1].stderr, "control"


def test_the_command_begins_there() -> None:
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"interp": "interp_assets.__main__:main"}


def test_a_full_disk_is_one_line(stories: dict[str, Future[Story]]) -> None:
    story = stories["full_disk_then_killed"].result()
    end = story.ends[0]
    assert end.returncode == 1
    assert end.stderr.strip().splitlines() == [
        "error: [Errno 27] File too large. What was finished is kept; the same command goes on from there."
    ]
    assert end.stdout.splitlines()[-1] == f"stopped  activation_cache[{GOOD}]"
    assert "made     corpus" in end.stdout
    assert story.files[0] == {".lock"}


def test_after_kill_9_the_same_command_completes(
    stories: dict[str, Future[Story]], undisturbed: dict[str, str]
) -> None:
    story = stories["full_disk_then_killed"].result()
    assert story.ends[1].returncode == -signal.SIGKILL
    assert story.files[1] == {".lock", ".spill.part"}  # control: it was in the middle, and left garbage
    assert story.ends[2].returncode == 0, story.ends[2].stderr
    assert "1 made, 2 fresh" in story.ends[2].stdout
    assert not any("part" in name for name in story.files[2])
    assert "manifest.json" in story.files[2]
    assert contents(load_study(story.root / "studies" / "long.yaml")) == undisturbed


def test_after_ctrl_c_the_same_command_completes(
    stories: dict[str, Future[Story]], undisturbed: dict[str, str]
) -> None:
    story = stories["interrupted"].result()
    assert story.ends[0].returncode == 130
    said = [line for line in story.ends[0].stderr.splitlines() if line.strip()]
    assert said == ["stopped. What was finished is kept; the same command goes on from there."]
    assert story.files[0] == {".lock"}
    assert story.ends[1].returncode == 0, story.ends[1].stderr
    assert contents(load_study(story.root / "studies" / "long.yaml")) == undisturbed


def test_no_run_stays_in_progress(stories: dict[str, Future[Story]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose process was killed is ended by the next command; it would hold its place in the pools forever."""
    for story in (future.result() for future in stories.values()):
        monkeypatch.chdir(story.root)
        with dg.DagsterInstance.from_config(str(story.root / "home")) as instance:
            runs = instance.get_runs()
            assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
            assert all(run_processes.PROCESS_TAG in run.tags for run in runs)
            assert not instance.get_runs(dg.RunsFilter(statuses=run_processes.IN_PROGRESS))


def test_a_living_process_keeps_its_runs() -> None:
    """Control for the above."""
    mine = run_processes.process_name(psutil.Process())
    process = mine.partition(" ")[2]
    assert run_processes.is_alive(process)
    assert not run_processes.is_alive(f"{process.split()[0]} 1.00")
