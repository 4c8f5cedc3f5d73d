"""`interp run`: carry out what is due in one process, in order, through the Dagster instance that the UI shows."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Sequence

from interp_assets.freshness import Freshness, partition_label
from interp_assets.graph import Asset
from interp_assets.job import wanted_layers
from interp_assets.study import PROJECT, Study, StudyError, listed


def run_study(study: Study, layers: Sequence[str] | None, until: str | None) -> int:
    """Make every partition asked for that is not fresh; 0 where all of them are fresh in the end, 1 otherwise.

    Raises:
        StudyError: a layer or an asset that the study does not have.
    """
    freshness = Freshness(study)
    known = [layer.key for layer in study.layers]
    if unknown := [layer for layer in layers or () if layer not in known]:
        raise StudyError(f"--layers: {study.name} has no layer {unknown[0]!r}; {listed(known)}")
    if until is not None and until not in freshness.assets:
        raise StudyError(f"--until: {study.name} has no asset {until!r}; {listed(freshness.assets)}")
    wanted = {name: freshness.assets[name] for name in (needed_for(freshness, until) if until else freshness.assets)}
    print(f"{study.name}: {study.file}")
    runner = Runner(study, wanted_layers(study, next(a for a in freshness.assets.values() if a.per_layer), layers))
    fresh = True
    for asset in wanted.values():
        for layer in wanted_layers(study, asset, layers):
            fresh &= runner.bring_up_to_date(asset, layer)
    runner.summary()
    return 0 if fresh else 1


def needed_for(freshness: Freshness, until: str) -> list[str]:
    """An asset and all it is made from, in topological order."""
    needed = {until}
    for asset in reversed(freshness.assets.values()):
        if asset.name in needed:
            needed |= {read.asset for read in asset.reads}
    return [name for name in freshness.assets if name in needed]


class Runner:
    """Runs partitions one by one and says what it does. Dagster is loaded when something is due."""

    def __init__(self, study: Study, layers: Sequence[str | None]) -> None:
        self.study = study
        self.layers = [layer for layer in layers if layer]
        self.counts = {"made": 0, "fresh": 0, "failed": 0, "blocked": 0}
        self._dagster: DagsterRuns | None = None
        self.started = time.monotonic()

    def bring_up_to_date(self, asset: Asset, layer: str | None) -> bool:
        """Whether the partition is fresh now."""
        label = partition_label(asset.name, layer)
        freshness = Freshness(self.study)
        state = next(s for s in freshness.states() if (s.asset, s.layer) == (asset.name, layer))
        if state.state == "fresh":
            self.counts["fresh"] += 1
            return True
        if state.state in ("failed", "blocked"):
            self.counts[state.state] += 1
            print(f"{state.state:8} {label}: {'; '.join(state.reasons)}", flush=True)
            return False
        print(f"{'make':8} {label}: {'; '.join(state.reasons)}", flush=True)
        before = time.monotonic()
        self._dagster = self._dagster or DagsterRuns(self.study, self.layers)
        reason = self._dagster.materialize(asset, layer)
        if reason is None:
            self.counts["made"] += 1
            print(f"{'made':8} {label} in {time.monotonic() - before:.1f} s", flush=True)
            return True
        self.counts["failed"] += 1
        print(f"{'failed':8} {label}: {reason}", flush=True)
        return False

    def summary(self) -> None:
        said = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "nothing to do"
        print(f"\n{self.study.name}: {said}; {time.monotonic() - self.started:.0f} s")
        report = Freshness(self.study).current("score_report", None)
        if report is not None:
            print(f"report:  {report.files('page')[0]}")
        print(f"tables:  interp path {self.study.name} examples {self.study.layers[0].key}")
        print("lineage: make ui")


class DagsterRuns:
    """One Dagster run for each partition, in this process, on the project's instance."""

    def __init__(self, study: Study, layers: list[str]) -> None:
        import dagster as dg

        from interp_assets.dagster_assets import PLAN_TAG, asset_key, definitions_of

        warnings.filterwarnings("ignore", category=dg.BetaWarning)
        warnings.filterwarnings("ignore", category=dg.PreviewWarning)
        quiet_libraries()
        self.study = study
        self.key = asset_key
        self.tags = {PLAN_TAG: ",".join(layers)}
        self.instance = open_instance()
        self.job = definitions_of(study).resolve_implicit_global_asset_job_def()

    def materialize(self, asset: Asset, layer: str | None) -> str | None:
        """Run one partition; None where it succeeded, else the reason why not."""
        result = self.job.execute_in_process(
            instance=self.instance,
            asset_selection=[self.key(self.study, asset.name)],
            partition_key=layer,
            raise_on_error=False,
            tags=self.tags,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        if result.success:
            return None
        for event in result.all_events:
            failure = event.step_failure_data if event.is_step_failure else None
            if failure is not None:
                if failure.user_failure_data and failure.user_failure_data.description:
                    return failure.user_failure_data.description
                error = failure.error
                while error is not None and error.cause is not None:
                    error = error.cause
                if error is not None and "KeyboardInterrupt" in (error.cls_name or ""):
                    raise KeyboardInterrupt
                return error.message.strip() if error is not None else "unknown"
        raise KeyboardInterrupt


def open_instance():  # type: ignore[no-untyped-def]
    """The project's Dagster instance, the one that `make ui` opens; DAGSTER_HOME names another."""
    from dagster import DagsterInstance

    if os.environ.get("DAGSTER_HOME"):
        return DagsterInstance.get()
    # The folders in dagster.yaml are relative to the project, so it is entered once study paths are absolute.
    os.chdir(PROJECT)
    return DagsterInstance.from_config(str(PROJECT))


def quiet_libraries() -> None:
    """Model loading has its own bars and notes, which would stand between our lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
