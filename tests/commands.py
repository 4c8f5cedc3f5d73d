"""The `interp` command as a user starts it: a process of its own, on studies and a Dagster instance of their own."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from interp_assets.study import PROJECT

PATIENCE = 120.0


def settle_in(root: Path, study: Path, name: str = "tiny") -> Path:
    """A folder with the study as `studies/<name>.yaml`, all that it refers to, and a Dagster home; root itself."""
    shutil.copytree(study.parent, root, dirs_exist_ok=True)
    (root / "studies").mkdir()
    (root / "study.yaml").rename(root / "studies" / f"{name}.yaml")
    (root / "home").mkdir()
    shutil.copy(PROJECT / "dagster.yaml", root / "home")
    return root


def start(root: Path, *arguments: str, file_size: int | None = None) -> subprocess.Popen[str]:
    """Start a command; `file_size` is the largest file, in bytes, that it can write."""

    def prepare() -> None:
        # Whoever runs the tests in the background hands down an ignored SIGINT.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    return subprocess.Popen(
        [sys.executable, "-m", "interp_assets.cli", *arguments],
        cwd=root,
        env={**os.environ, "INTERP_STUDIES": str(root / "studies"), "DAGSTER_HOME": str(root / "home")},
        preexec_fn=prepare,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def interp(root: Path, *arguments: str, file_size: int | None = None) -> subprocess.CompletedProcess[str]:
    return finish(start(root, *arguments, file_size=file_size))


def wait_until(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running command does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
