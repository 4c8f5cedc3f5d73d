"""One Dagster run for each partition, in this process, on the project's instance."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.instance.ref import InstanceRef

from interp_assets.asset import Asset
from interp_assets.dagster_assets import PLAN_TAG, WHY_TAG, asset_key, definitions_of, set_up_pools, shown_metadata
from interp_assets.run_processes import PROCESS_TAG, end_runs_of_killed_processes, process_name
from interp_assets.study import PROJECT, Study
from resources.errors import one_line
from resources.leases import Leases
from resources.partition_files import Partition

NO_COPY_OF_OUTPUT = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
"""What this process prints goes to its terminal and nowhere else: Dagster's copying starts four processes for each run,
and takes the terminal away from the progress line."""


class DagsterRuns:
    def __init__(self, study: Study, layers: list[str]) -> None:
        warnings.filterwarnings("ignore", category=dg.BetaWarning)
        warnings.filterwarnings("ignore", category=dg.PreviewWarning)
        self.study = study
        self.tags = {PLAN_TAG: ",".join(layers), PROCESS_TAG: process_name(psutil.Process())}
        self.instance = open_instance()
        end_runs_of_killed_processes(self.instance)
        self.job = definitions_of(study).resolve_implicit_global_asset_job_def()

    def materialize(self, asset: Asset, layer: str | None, why: str) -> str | None:
        """Run one partition; None where it succeeded, else the reason why not.

        Raises:
            OSError, MemoryError: the machine's fault; the next partition would fare no better.
            KeyboardInterrupt: also where the signal came while Dagster was not listening.
        """
        with every_interrupt():
            try:
                self.job.execute_in_process(
                    instance=self.instance,
                    asset_selection=[asset_key(self.study, asset.name)],
                    partition_key=layer,
                    tags=self.tags | {WHY_TAG: why},
                    run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                )
            except DagsterExecutionInterruptedError:
                raise KeyboardInterrupt from None
            except dg.Failure as failure:
                return one_line(failure.description or "unknown")
            except Exception as error:
                if trouble := machine_trouble(error):
                    raise trouble from error
                return f"{type(error).__name__}: {one_line(str(error))} (unexpected; the traceback is under Runs in `make ui`)"
        return None


def record(study: Study, asset: Asset, key: str | None, partition: Partition) -> None:
    """Tell Dagster of a partition that was committed without a run."""
    event = dg.AssetMaterialization(
        asset_key(study, asset.name),
        partition=key,
        metadata=shown_metadata(partition),
        tags={"dagster/data_version": partition.content_hash, "dagster/code_version": asset.code_version},
    )
    open_instance().report_runless_asset_event(event)


def machine_trouble(error: BaseException) -> OSError | MemoryError | None:
    """A full disk, lack of memory and the like, whichever library reports it in its own way."""
    if isinstance(error, OSError | MemoryError):
        return error
    text = one_line(str(error))
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return MemoryError(f"{text}; a smaller batch_tokens or batch_size in the study needs less")
    if found := re.search(r"([^:]+) \(os error (\d+)\)", text):  # as polars tells of it
        return OSError(int(found[2]), found[1].strip())
    if "disk is full" in text or "disk I/O error" in text:  # as SQLite does
        return OSError(text)
    return None


@contextlib.contextmanager
def every_interrupt() -> Iterator[None]:
    """Notices a Ctrl-C that arrives between Dagster's checkpoints, which Dagster would drop at the end of a run.

    Nor is it told of with a traceback where it arrives while something is cleared away, and can be raised to nobody.
    """
    reading, writing = socket.socketpair()
    with reading, writing, quiet_about_interrupts():
        reading.setblocking(False)
        writing.setblocking(False)
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
        with contextlib.suppress(BlockingIOError):
            if {signal.SIGINT, signal.SIGTERM} & set(reading.recv(256)):
                raise KeyboardInterrupt


@contextlib.contextmanager
def quiet_about_interrupts() -> Iterator[None]:
    before = sys.unraisablehook

    def tell(raised: sys.UnraisableHookArgs) -> None:
        if not isinstance(raised.exc_value, KeyboardInterrupt | DagsterExecutionInterruptedError):
            before(raised)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = before


def open_instance() -> dg.DagsterInstance:
    """The project's Dagster instance, the one that `make ui` opens; DAGSTER_HOME names another."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        # The folders in dagster.yaml are relative to the project, so it is entered once study paths are absolute.
        os.chdir(PROJECT)
    folder = Path(home).expanduser() if home else PROJECT
    ref = InstanceRef.from_dir(str(folder), overrides={"compute_logs": NO_COPY_OF_OUTPUT})
    # Two processes that create its databases at once would be in each other's way.
    with Leases(folder / ".dagster", "opening Dagster").acquire("instance", waiting=lambda said: None):
        instance = dg.DagsterInstance.from_ref(ref)
        set_up_pools(instance)
    return instance
