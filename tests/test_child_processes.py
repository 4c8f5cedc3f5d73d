"""What a library starts for itself ends with this process, also where that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from interp_assets.study import PROJECT
from resources.child_processes import ChildProcesses

STARTS_TWO = ["sh", "-c", "sleep 600 & wait"]
"A shell and its child."


def gone(pids: list[int], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, pids))


def test_those_that_stay_are_killed_and_others_are_let_alone() -> None:
    before = set(psutil.Process().children(recursive=True))
    other = subprocess.Popen(["sleep", "600"])
    processes = ChildProcesses()
    with processes.watching():
        subprocess.Popen(STARTS_TWO)
        time.sleep(0.5)
    pids = [process.pid for process in processes.found]
    assert len(pids) == 2
    assert all(map(psutil.pid_exists, pids)), "control: they run"
    processes.end(seconds=0.1)
    assert gone(pids)
    assert other.poll() is None
    other.kill()
    other.wait()
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [each for each in left if "resource_tracker" not in " ".join(each.cmdline())]


@pytest.mark.parametrize("when", ["meanwhile", "afterwards"])
def test_none_outlives_a_process_that_is_killed(when: str) -> None:
    script = f"""
import subprocess, time
from resources.child_processes import ChildProcesses
processes = ChildProcesses()
with processes.watching():
    subprocess.Popen({STARTS_TWO})
    while len(processes.found) < 2:
        time.sleep(0.05)
    if {when!r} == "meanwhile":
        print(*[process.pid for process in processes.found], flush=True)
        time.sleep(600)
print(*[process.pid for process in processes.found], flush=True)
time.sleep(600)
"""
    killed = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    assert killed.stdout is not None
    pids = [int(pid) for pid in killed.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(psutil.pid_exists, pids)), "control: they run"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert gone(pids)
