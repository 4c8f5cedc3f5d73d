"""A real Dagster daemon on a folder with studies, and what it has done so far."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from interp_assets.due import running
from interp_assets.run_processes import PROCESS_TAG
from interp_assets.study import PROJECT

PATIENCE = 420.0
QUIET_TICKS = 2

# The daemon's own command. It looks at sensors and queue every five seconds; the tests have no such patience.
COMMAND = """
import dagster._daemon.sensor
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._daemon.cli import cli

dagster._daemon.sensor.MIN_INTERVAL_LOOP_TIME = 0.5
QueuedRunCoordinator.dequeue_interval_seconds = 0.3
cli()
"""


def dagster_home(root: Path) -> None:
    """The project's `dagster.yaml` with folders below `root`."""
    settings = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    settings["storage"]["sqlite"]["base_dir"] = str(root / "home" / "storage")
    settings["local_artifact_storage"]["config"]["base_dir"] = str(root / "home")
    settings["compute_logs"]["config"]["base_dir"] = str(root / "home" / "logs")
    (root / "home").mkdir()
    (root / "home" / "dagster.yaml").write_text(yaml.safe_dump(settings))
    place = {"module_name": "tests.warm_location", "working_directory": str(PROJECT)}
    (root / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_module": place}]}))


@dataclass
class Daemon:
    """The daemon of one folder, with `studies/`, `home/` and a `store/` that all studies share."""

    root: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    commits: dict[Path, int] = field(default_factory=dict)
    "When each manifest that was there at the last mark was written."
    runs_before: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # Initialised before several processes come at once.
        self.instance = dg.DagsterInstance.from_config(str(self.root / "home"))

    def start(self) -> None:
        self.starts += 1
        environment = os.environ | {
            "DAGSTER_HOME": str(self.root / "home"),
            "INTERP_STUDIES": str(self.root / "studies"),
            "INTERP_BACK_OFF_SECONDS": "0.3",
            "PYTHONPATH": str(PROJECT),
        }
        with (self.root / f"daemon{self.starts}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "run", "-w", str(self.root / "workspace.yaml")],
                env=environment,
                cwd=self.root,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End the daemon, its code servers and the runs that they carry out."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def wait_until(self, holds: Callable[[], Any], what: str, every: float = 0.3) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := holds()):
            assert self.process is not None and self.process.poll() is None, "the daemon has ended"
            assert time.monotonic() < deadline, f"{what} did not happen; {self.said()}"
            time.sleep(every)
        return found

    def mark(self) -> None:
        """From here on `made` and `runs` count."""
        self.commits = dict(self._commits())
        self.runs_before = {run.run_id for run in self.instance.get_runs()}

    def settled(self) -> None:
        """Wait until no run is in progress and several further ticks have found nothing to do."""
        now = time.time()
        self.wait_until(lambda: self._is_settled(now), "quiet")

    def _is_settled(self, since: float) -> bool:
        for sensor, quiet in (("tiny_files", "nothing has changed"), ("tiny_automation", "nothing is due")):
            ticks = self.ticks(sensor, QUIET_TICKS)
            if len(ticks) < QUIET_TICKS or min(tick.timestamp for tick in ticks) < since:
                return False
            if not all(tick.status == TickStatus.SKIPPED and quiet in (tick.skip_reason or "") for tick in ticks):
                return False
        return not running(self.instance)

    def ticks(self, sensor: str, count: int = 1) -> list[InstigatorTick]:
        """The latest ticks of a sensor, the newest first."""
        for state in self.instance.all_instigator_state():
            if state.instigator_name == sensor:
                return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=count))
        return []

    def said(self) -> dict[str, str]:
        """What each sensor and schedule says: why its latest tick requested nothing, or its error."""
        found = {}
        for state in self.instance.all_instigator_state():
            for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1):
                found[state.instigator_name] = tick.skip_reason or (tick.error.message if tick.error else "")
        return found

    def made(self) -> list[str]:
        """Partitions that were computed since the mark, whichever run committed them."""
        return sorted(
            "{}[{}]".format("/".join(parts[:-3]), parts[-3]).removesuffix("[all]")
            for file, written in self._commits()
            if self.commits.get(file) != written and (parts := file.relative_to(self.root / "store").parts)
        )

    def _commits(self) -> Iterator[tuple[Path, int]]:
        for file in (self.root / "store").rglob("manifest.json"):
            yield file, file.stat().st_mtime_ns

    def runs(self, study: str = "tiny") -> list[str]:
        """Runs since the mark, as `asset[layer]`, with their end where it was not a success."""
        return sorted(
            label + ("" if run.status == dg.DagsterRunStatus.SUCCESS else f" {run.status.value}")
            for run in self.instance.get_runs()
            for key in run.asset_selection or ()
            if run.run_id not in self.runs_before and key.path[0] == study and (label := label_of(key, run))
        )

    def started_run(self, asset: str, layer: str | None) -> dg.DagsterRun:
        """A run that is being carried out, as soon as there is one."""

        def find() -> dg.DagsterRun | None:
            for run in self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
                for key in run.asset_selection or ():
                    if label_of(key, run) == label_of(dg.AssetKey(["tiny", *asset.split("/")]), layer):
                        return run if PROCESS_TAG in run.tags else None
            return None

        return self.wait_until(find, f"a run of {asset}[{layer}]", every=0.05)

    def send(self, run: dg.DagsterRun, how: signal.Signals) -> None:
        """A signal to the process that carries out a run."""
        os.kill(int(run.tags[PROCESS_TAG].split()[1]), how)

    def wait_for_end(self, run: dg.DagsterRun) -> None:
        self.wait_until(lambda: self.instance.get_run_by_id(run.run_id).is_finished, f"the end of {run.run_id}")  # type: ignore[union-attr]


def label_of(key: dg.AssetKey, run: dg.DagsterRun | str | None) -> str:
    layer = run.tags.get("dagster/partition") if isinstance(run, dg.DagsterRun) else run
    return "/".join(key.path[1:]) + (f"[{layer}]" if layer else "")


def replaced(file: Path, content: bytes) -> None:
    """A file gets other content in one step, as `mv` does it."""
    aside = file.with_name(f".{file.name}")
    aside.write_bytes(content)
    aside.rename(file)
