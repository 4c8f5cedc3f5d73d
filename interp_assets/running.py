"""`interp run`: carry out what is due in one process, in order, through the Dagster instance that the UI shows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp_assets.freshness import Freshness, partition_label
from interp_assets.graph import Asset, layers_of
from interp_assets.job import load_stage, wanted_layers
from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import Study

if TYPE_CHECKING:
    from interp_assets.dagster_runs import DagsterRuns


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
    runner = Runner(study, [key for key in known if layers is None or key in layers])
    for asset in wanted.values():
        for layer in wanted_layers(study, asset, layers):
            runner.bring_up_to_date(asset, layer)
    runner.summary()
    return 0 if not runner.not_fresh else 1


def needed_for(freshness: Freshness, until: str) -> list[str]:
    """An asset and all it is made from, in topological order."""
    needed = {until}
    for asset in reversed(freshness.assets.values()):
        if asset.name in needed:
            needed |= {read.asset for read in asset.reads}
    return [name for name in freshness.assets if name in needed]


class Runner:
    """Runs partitions one by one, inputs first, and says what it does. Dagster is loaded when something is due."""

    def __init__(self, study: Study, layers: list[str]) -> None:
        self.study = study
        self.layers = layers
        self.counts = {"made": 0, "fresh": 0, "failed": 0, "blocked": 0}
        self.not_fresh: set[str] = set()
        "Labels of partitions that this run could not bring up to date."
        self._dagster: DagsterRuns | None = None
        self.started = time.monotonic()

    def bring_up_to_date(self, asset: Asset, layer: str | None) -> None:
        label = partition_label(asset.name, layer)
        if asset.scope != "study" and (in_the_way := self.inputs_not_fresh(asset, layer)):
            self.leave("blocked", label, "; ".join(f"{each} is not up to date" for each in in_the_way))
            return
        state, reasons = Freshness(self.study).own_state(asset, layer)
        if state == "fresh":
            self.counts["fresh"] += 1
        elif state == "failed":
            self.leave("failed", label, f"{reasons[0]} (tried again when its input changes)")
        else:
            self.make(asset, layer, label, "; ".join(reasons))

    def inputs_not_fresh(self, asset: Asset, layer: str | None) -> list[str]:
        sources = [Freshness(self.study).assets[read.asset] for read in asset.reads]
        labels = [partition_label(source.name, layer if source.per_layer else None) for source in sources]
        return [label for label in dict.fromkeys(labels) if label in self.not_fresh]

    def make(self, asset: Asset, layer: str | None, label: str, why: str) -> None:
        dagster = self.loaded(asset)
        print(f"{'make':8} {label}: {why}", flush=True)
        before = time.monotonic()
        try:
            problem = dagster.materialize(asset, layer)
        except BaseException:
            print(f"{'stopped':8} {label}", flush=True)
            raise
        if problem is not None:
            self.leave("failed", label, problem)
            return
        self.counts["made"] += 1
        print(f"{'made':8} {label} in {time.monotonic() - before:.1f} s", flush=True)

    def loaded(self, asset: Asset) -> DagsterRuns:
        """Dagster, and the libraries that the asset needs: on the first call this takes a while, so it says so."""
        if self._dagster is None:
            print(f"{'load':8} Dagster, torch, transformers (once, about ten seconds)", flush=True)
            quiet_libraries()
            from interp_assets.dagster_runs import DagsterRuns

            load_stage(asset)
            self._dagster = DagsterRuns(self.study, self.layers)
        return self._dagster

    def leave(self, state: str, label: str, reason: str) -> None:
        self.not_fresh.add(label)
        self.counts[state] += 1
        print(f"{state:8} {label}: {reason}", flush=True)

    def summary(self) -> None:
        said = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "nothing to do"
        print(f"\n{self.study.name}: {said}; {time.monotonic() - self.started:.0f} s")
        freshness = Freshness(self.study)
        report = freshness.current("score_report", None)
        if report is not None:
            print(f"report:  {report.files('page')[0]}")
        for asset in reversed(freshness.assets.values()):
            layer = next((x for x in layers_of(self.study, asset) if freshness.current(asset.name, x)), None)
            if layer is not None:
                print(f"tables:  interp path {self.study.name} {asset.name} {layer}")
                break
        print("lineage: make ui")


def quiet_libraries() -> None:
    """Model loading has its own bars and notes, which would stand between our lines. Set before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
