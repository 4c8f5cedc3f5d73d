"""A real `interp run` that is stopped from outside: by a full disk, Ctrl-C, or kill -9. The same command goes on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from interp_assets import dagster_runs
from interp_assets.dagster_runs import every_interrupt
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.study import Study, load_study
from resources.loaded_models import LoadedModels
from tests.changed_study import changed
from tests.commands import Command, End, interp, settle_in
from tests.refusals import GOOD
from tests.tiny import make_corpus

RUN = ("run", "long", "--until", "activation_cache", "--layers", GOOD)
LARGEST_FILE = 900_000
"Bytes; less than the spill file takes, more than Dagster's databases do."


@dataclass
class Story:
    """What happened to one folder, command by command, and what lay in the store in between."""

    root: Path
    ends: list[End] = field(default_factory=list)
    files: list[set[str]] = field(default_factory=list)
    "Names of the files of the activation cache after each command."

    @property
    def cache(self) -> Path:
        return self.root / "store" / "activation_cache"

    def remember(self, end: End) -> None:
        self.ends.append(end)
        self.files.append({file.name for file in self.cache.rglob("*") if file.is_file()})

    def run(self, file_size: int | None = None) -> None:
        self.remember(interp(self.root, *RUN, file_size=file_size))

    def stop(self, how: signal.Signals) -> None:
        """Run, and send a signal in the middle of the pass over the corpus."""
        assert not list(self.cache.rglob(".spill.part"))
        command = Command(self.root, RUN)
        command.wait_until(lambda: list(self.cache.rglob(".spill.part")))
        command.send(how)
        self.remember(command.end())


def full_disk_then_killed(root: Path) -> Story:
    story = Story(root)
    story.run(file_size=LARGEST_FILE)
    story.stop(signal.SIGKILL)
    story.run()
    return story


def interrupted(root: Path) -> Story:
    story = Story(root)
    story.stop(signal.SIGINT)
    story.run()
    return story


@pytest.fixture(scope="module")
def long_study(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose pass over the corpus takes a second or two."""
    root = tmp_path_factory.mktemp("long")
    file = settle_in(root, two_layers, "long")
    make_corpus(root / "corpus.parquet", documents=1600)
    changes = {"corpus.tokens": 131_072, "subject_model.batch_tokens": 64}
    return changed(file, changes, "long.yaml")


@pytest.fixture(scope="module", autouse=True)
def stories(long_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Story]]]:
    """Both stories at once, and behind the tests that need neither: starting a process takes long."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            tell.__name__: pool.submit(tell, copy_of(long_study, tmp_path_factory.mktemp(tell.__name__) / "world"))
            for tell in (full_disk_then_killed, interrupted)
        }


def copy_of(study: Path, root: Path) -> Path:
    return shutil.copytree(study.parents[1], root)


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
            assert all(dagster_runs.PROCESS_TAG in run.tags for run in runs)
            assert not instance.get_runs(dg.RunsFilter(statuses=dagster_runs.IN_PROGRESS))


def test_a_living_process_keeps_its_runs() -> None:
    """Control for the above."""
    mine = dagster_runs.process_name(dagster_runs.psutil.Process())
    process = mine.partition(" ")[2]
    assert dagster_runs.is_alive(process)
    assert not dagster_runs.is_alive(f"{process.split()[0]} 1.00")
