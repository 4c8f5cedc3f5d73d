"""Which process carries out a Dagster run, so that runs whose process was killed can be told from living ones."""

from __future__ import annotations

import contextlib
import socket

import dagster as dg
import psutil

PROCESS_TAG = "interp/process"

IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def end_runs_of_killed_processes(instance: dg.DagsterInstance) -> None:
    """A run whose process was killed would count as in progress forever, and hold its place in the pools."""
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition(" ")
        # A run that is carried out again inherits the tags of the first one.
        if host == socket.gethostname() and run.parent_run_id is None and not is_alive(process):
            instance.report_run_failed(run, "The process that carried out this run was killed.")


def process_name(process: psutil.Process) -> str:
    return f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"


def is_alive(process: str) -> bool:
    """Whether a process is there and is the one that had that number then."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process_name(psutil.Process(int(process.split()[0]))).endswith(process)
    return False
