"""The `interp` command in processes of its own, on studies and a Dagster instance of their own."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from interp_assets.study import PROJECT

PATIENCE = 120.0
NUMBERS = itertools.count()
ENDED = threading.Event()
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.preloaded"])


class End(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@dataclass
class Command:
    """A command that was started; its process is forked from one that has imported the libraries."""

    root: Path
    arguments: tuple[str, ...]
    file_size: int | None = None
    "The largest file, in bytes, that it can write."
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert not ENDED.is_set()
        number = next(NUMBERS)
        self.out, self.err = self.root / f"out{number}", self.root / f"err{number}"
        self.process = PROCESSES.Process(target=carry_out, args=(self,))
        self.process.start()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "process"}

    def wait_until(self, holds: Callable[[], object]) -> None:
        """Wait for something that the running command does."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert self.process.is_alive(), self.err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def send(self, how: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, how)

    def end(self) -> End:
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None
        return End(self.process.exitcode, self.out.read_text(), self.err.read_text())


def end_all() -> None:
    """Stop what is still running, and let nothing new be started."""
    ENDED.set()
    for process in multiprocessing.active_children():
        process.kill()


def carry_out(command: Command) -> None:
    from interp_assets.cli import main

    for descriptor, file in ((1, command.out), (2, command.err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(command.root)
    os.environ |= command.environment
    os.environ |= {"INTERP_STUDIES": str(command.root / "studies"), "DAGSTER_HOME": str(command.root / "home")}
    # Whoever runs the tests in the background hands down an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if command.file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command.file_size, command.file_size))
    sys.exit(main(command.arguments))


def interp(root: Path, *arguments: str, file_size: int | None = None) -> End:
    return Command(root, arguments, file_size).end()


def settle_in(root: Path, study: Path, name: str = "tiny") -> Path:
    """A folder with the study as `studies/<name>.yaml`, all that it refers to, and a Dagster home; the study's file."""
    shutil.copytree(study.parent, root, dirs_exist_ok=True)
    (root / "studies").mkdir()
    (root / "home").mkdir()
    shutil.copy(PROJECT / "dagster.yaml", root / "home")
    return (root / study.name).rename(root / "studies" / f"{name}.yaml")
