"""Stories of an `interp run` that is stopped from outside, and of what the same command does afterwards."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

from tests.changed_study import changed
from tests.commands import Command, End, interp, settle_in
from tests.refusals import GOOD
from tests.tiny import make_corpus

RUN = ("run", "long", "--until", "activation_cache", "--layers", GOOD)
LARGEST_FILE = 450_000
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


def long_study(two_layers: Path, root: Path) -> Path:
    """A study whose pass over the corpus takes a second or so."""
    file = settle_in(root, two_layers, "long")
    make_corpus(root / "corpus.parquet", documents=800)
    return changed(file, {"corpus.tokens": 65_536, "subject_model.batch_tokens": 64}, "long.yaml")


def copy_of(study: Path, root: Path) -> Path:
    return shutil.copytree(study.parents[1], root)
