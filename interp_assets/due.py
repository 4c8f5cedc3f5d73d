"""Which partitions are due now: judged from the files, the store and Dagster's records as they stand.

Nothing here remembers what happened: a change that comes while something runs is still there when that has ended.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

import dagster as dg

from interp_assets.asset import Asset
from interp_assets.dagster_assets import asset_key
from interp_assets.freshness import Freshness, partition_label
from interp_assets.partitions import partitions_of
from interp_assets.run_processes import IN_PROGRESS
from interp_assets.study import Study
from resources.durable_files import FileHashes
from resources.errors import NotNow

FINGERPRINT_TAG = "interp/fingerprint"
"Run tag: what the partition's fingerprint was when the automation asked for the run."

TRY_TAG = "interp/try"
"Run tag: the how manyeth run it is that the automation asks for at this fingerprint since one succeeded."

TRIES = 3
RUNS_AN_HOUR = 5
BACK_OFF_SECONDS = float(os.environ.get("INTERP_BACK_OFF_SECONDS", "60"))
"How long the automation waits after a first failed run; five times as long after the second."

DATA_VERSION_TAG = "dagster/data_version"

Verdict = Literal["at rest", "moving", "held"]
"""moving: due, running, or behind something that is. held: it stays as it is until somebody does something: it failed
because of its input, it failed three times for other reasons, somebody cancelled it, or it reads such a one."""


class Due(NamedTuple):
    """A partition to be requested."""

    asset: str
    partition: str | None
    fingerprint: str
    why: str
    attempt: int


class NotRead(NotNow):
    """A file has changed, and the watcher has yet to read it."""


class ReadFiles(FileHashes):
    """Hashes of files that were read before; nothing is read here, since a sensor's time is limited."""

    def sha256(self, file: Path) -> str:
        if not is_read(self, file):
            if not os.access(file, os.R_OK):
                raise PermissionError(f"{file} cannot be read")
            raise NotRead(f"{file} is new or has changed; the watcher reads it once it holds still")
        return self.known[str(file)][2]


def is_read(hashes: FileHashes, file: Path) -> bool:
    """Whether the hash of a file is known, so that nothing has to be read for it."""
    stat, known = file.stat(), hashes.known.get(str(file))
    return known is not None and known[:2] == [stat.st_size, stat.st_mtime_ns]


class Outlook:
    """What is due in a study, and how everything else stands.

    Attributes:
        due: partitions to be requested now, inputs before what reads them.
        given_up: labels of those that failed too often, or whose run was cancelled.
    """

    def __init__(self, study: Study, instance: dg.DagsterInstance, forget_failures: bool = False) -> None:
        """
        Args:
            forget_failures: request also what failed so often, or so recently, that it would be left alone.
        """
        self.study = study
        self.instance = instance
        self.forget_failures = forget_failures
        self.freshness = Freshness(study, ReadFiles)
        self.running = running(instance)
        self.verdicts: dict[tuple[str, str | None], Verdict] = {}
        self.due: list[Due] = []
        self.given_up: list[str] = []
        for asset in self.freshness.assets.values():
            self._judge(asset)

    def requested(self, asset: str) -> set[str | None]:
        """The partitions of an asset that are to be requested."""
        return {due.partition for due in self.due if due.asset == asset}

    def _judge(self, asset: Asset) -> None:
        partitions, key = partitions_of(self.study, asset), asset_key(self.study, asset.name)
        recorded = recorded_versions(self.instance, key, partitions)
        found: list[tuple[str | None, str, str]] = []
        for partition in partitions:
            verdict = self._by_others(asset, partition)
            if verdict is None:
                verdict, why = self._by_itself(asset, partition, recorded.get(partition))
                if why is not None:
                    found.append((partition, self.freshness.fingerprint(asset, partition).value, why))
            self.verdicts[asset.name, partition] = verdict
        runs = runs_at(self.instance, key, [fingerprint for _, fingerprint, _ in found])
        for partition, fingerprint, why in found:
            self._ask(asset, partition, fingerprint, why, runs.get((fingerprint, partition), []))

    def _by_others(self, asset: Asset, partition: str | None) -> Verdict | None:
        """The verdict where a run of it or its inputs decide."""
        if (asset_key(self.study, asset.name), partition) in self.running:
            return "moving"
        inputs = {self.verdicts[source] for source in self.freshness.inputs(asset, partition)}
        if "moving" in inputs:
            return "moving"
        return "held" if "held" in inputs and asset.scope != "study" else None

    def _by_itself(self, asset: Asset, partition: str | None, recorded: str | None) -> tuple[Verdict, str | None]:
        """The verdict where all inputs are at rest; with a reason where a run is wanted."""
        try:
            state, reasons = self.freshness.own_state(asset, partition)
        except NotRead:
            return "moving", None
        except OSError:  # the watcher tells of it
            return "held", None
        if state in ("failed", "blocked"):
            return "held", None
        stored = self.freshness.current(asset.name, partition)
        if not self.freshness.is_due(state) and stored is not None and stored.content_hash == recorded:
            return "at rest", None
        # The watcher makes these by itself, in no run.
        if asset.name == "sae_weights":
            return "moving", None
        return "moving", "; ".join(reasons) or "it is there, but Dagster has no record of it"

    def _ask(self, asset: Asset, partition: str | None, fingerprint: str, why: str, runs: list[dg.RunRecord]) -> None:
        """Put a partition on the list, unless its runs so far speak against it."""
        attempt = 1 + tries(runs)
        if attempt > 1 and not self.forget_failures:
            if attempt > TRIES:
                self.verdicts[asset.name, partition] = "held"
                self.given_up.append(partition_label(asset.name, partition))
                return
            ended = runs[0].end_time or runs[0].create_timestamp.timestamp()
            if time.time() < ended + BACK_OFF_SECONDS * 5 ** (attempt - 2):
                return
        self.due.append(Due(asset.name, partition, fingerprint, why, 1 if self.forget_failures else attempt))


def running(instance: dg.DagsterInstance) -> set[tuple[dg.AssetKey, str | None]]:
    """Partitions that some run, queued ones included, is about to make."""
    return {
        (key, run.tags.get("dagster/partition"))
        for run in instance.get_runs(dg.RunsFilter(statuses=[*IN_PROGRESS, dg.DagsterRunStatus.CANCELING]))
        for key in run.asset_selection or ()
    }


def recorded_versions(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: list[str | None]
) -> dict[str | None, str | None]:
    """The data version of the latest materialisation of each partition."""
    if partitions == [None]:
        event = instance.get_latest_materialization_event(key)
        found = event.asset_materialization if event else None
        return {None: (found.tags or {}).get(DATA_VERSION_TAG) if found else None}
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {partition: versions.get(DATA_VERSION_TAG) for partition, versions in tags.items()}


def runs_at(
    instance: dg.DagsterInstance, key: dg.AssetKey, fingerprints: list[str]
) -> dict[tuple[str, str | None], list[dg.RunRecord]]:
    """Runs of an asset that the automation asked for at some fingerprints, by those and partition, the newest first."""
    found: dict[tuple[str, str | None], list[dg.RunRecord]] = {}
    if fingerprints:
        for record in instance.get_run_records(dg.RunsFilter(tags={FINGERPRINT_TAG: fingerprints})):
            run = record.dagster_run
            if run.asset_selection and key in run.asset_selection:
                found.setdefault((run.tags[FINGERPRINT_TAG], run.tags.get("dagster/partition")), []).append(record)
    return found


def tries(runs: list[dg.RunRecord]) -> int:
    """How many runs at a fingerprint have come to nothing in a row; TRIES where somebody cancelled the last one.

    Runs that succeed count in the same way where there are many within an hour: somebody may go back and forth between
    two settings, but a partition that is due again whatever its runs do must not be asked for without end.
    """
    if not runs:
        return 0
    last = runs[0].dagster_run
    if last.status == dg.DagsterRunStatus.CANCELED:
        return TRIES
    if last.status != dg.DagsterRunStatus.SUCCESS:
        return int(last.tags.get(TRY_TAG, "1"))
    lately = [run for run in runs if time.time() - run.create_timestamp.timestamp() < 3600]
    return TRIES if len(lately) >= RUNS_AN_HOUR else 0
