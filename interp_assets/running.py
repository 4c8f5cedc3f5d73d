"""`interp run`: carry out what is due in one process, in order, through the Dagster instance that the UI shows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp_assets.asset import Asset
from interp_assets.ctrl_c import ending_at_once
from interp_assets.differences import in_short
from interp_assets.freshness import Freshness, partition_label
from interp_assets.job import CHANGED_MEANWHILE, load_stage, say_waiting, wanted_partitions
from interp_assets.partitions import layer_keys, layers_touched, partitions_of
from interp_assets.proof_limits import in_words
from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import Study
from resources.language_models.given_up import GIVEN_UP
from resources.leases import Leases

if TYPE_CHECKING:
    from interp_assets.dagster_runs import DagsterRuns


TRIES = 3
"Times that a run begins again because a file was changed under it."


def run_study(study: Study, layers: Sequence[str] | None, until: str | None) -> int:
    """Make every partition asked for that is not fresh; 0 where all of them are fresh in the end, 1 otherwise.

    Raises:
        StudyError: a layer or an asset that the study does not have.
        NotNow: an engine that has work to do is not there.
    """
    freshness = Freshness(study)
    known = layer_keys(study)
    if unknown := [layer for layer in layers or () if layer not in known]:
        raise StudyError(f"--layers: {study.name} has no layer {unknown[0]!r}; {listed(known)}")
    if until is not None and until not in freshness.assets:
        raise StudyError(f"--until: {study.name} has no asset {until!r}; {listed(freshness.assets)}")
    print(f"{study.name}: {study.file}")
    quiet_libraries()
    with study_lease(study).acquire(STUDY_LEASE, waiting=say_waiting):
        check_engines(Freshness(study), layers, until)
        for attempt in range(TRIES):
            wanted = wanted_nodes(Freshness(study), layers, until)
            touched = {layer for asset, key in wanted for layer in layers_touched(study, asset, key)}
            runner = Runner(study, [key for key in known if key in touched])
            for asset, key in wanted:
                runner.bring_up_to_date(asset, key)
            if not runner.inputs_moved or attempt == TRIES - 1:
                break
            print(f"{'again':8} {study.name}: {runner.inputs_moved[-1]}", flush=True)
    runner.summary()
    return 1 if runner.not_fresh or runner.counts["partial"] else 0


def check_engines(look: Freshness, layers: Sequence[str] | None, until: str | None) -> None:
    """
    Raises:
        NotNow: an engine that this run will ask is not there.
    """
    wanted = {(asset.name, key) for asset, key in wanted_nodes(look, layers, until) if asset.engines}
    due = [each for each in look.states() if (each.asset, each.partition) in wanted and look.is_due(each.state)]
    if due:
        from interp_assets.engine_trial import require_engines

        require_engines(due, look)


STUDY_LEASE = "interp_run"
"Held by `interp run` for a study; meanwhile the automation starts nothing for it."


def study_lease(study: Study) -> Leases:
    return Leases(study.path(study.storage) / "leases" / study.name, f"interp run {study.name}")


def needed_for(freshness: Freshness, until: str | None) -> list[Asset]:
    """An asset and all it is made from, in topological order; all assets where None."""
    if until is None:
        return [*freshness.assets.values()]
    needed = {until}
    for asset in reversed(freshness.assets.values()):
        if asset.name in needed:
            needed |= {read.asset for read in asset.reads}
    return [asset for asset in freshness.assets.values() if asset.name in needed]


def wanted_nodes(
    freshness: Freshness, layers: Sequence[str] | None, until: str | None
) -> list[tuple[Asset, str | None]]:
    """The partitions that are about the layers asked for (about any where None), and those of other layers that they are
    made from, as where latents are drawn along the alignment; inputs first."""
    study, assets = freshness.study, needed_for(freshness, until)
    nodes = {(asset.name, key) for asset in assets for key in wanted_partitions(study, asset, layers)}
    for asset in reversed(assets):
        if asset.scope != "study":
            for key in partitions_of(study, asset):
                nodes |= {*freshness.inputs(asset, key)} if (asset.name, key) in nodes else set()
    return [(asset, key) for asset in assets for key in partitions_of(study, asset) if (asset.name, key) in nodes]


class Runner:
    """Runs partitions one by one, inputs first, and says what it does. Dagster is loaded when something is due."""

    def __init__(self, study: Study, layers: list[str]) -> None:
        self.study = study
        self.layers = layers
        self.counts = {"made": 0, "recorded": 0, "fresh": 0, "partial": 0, "failed": 0, "blocked": 0}
        self.not_fresh: set[str] = set()
        "Labels of partitions that this run could not bring up to date."
        self.inputs_moved: list[str] = []
        "Why results were thrown away: a file was changed while they were made."
        self._dagster: DagsterRuns | None = None
        self._look = Freshness(study)
        self.started = time.monotonic()

    def bring_up_to_date(self, asset: Asset, key: str | None) -> None:
        label = partition_label(asset.name, key)
        if asset.scope != "study" and (in_the_way := self.inputs_not_fresh(asset, key)):
            self.leave("blocked", label, "; ".join(f"{each} is not up to date" for each in in_the_way))
            return
        state, reasons = self._look.own_state(asset, key)
        if state == "fresh" and self._look.recorded(asset, key):
            self.counts["fresh"] += 1
        elif state == "partial" and not self._look.is_due(state):
            self.count_partial(label, reasons[0])
        elif state == "failed":
            self.leave("failed", label, f"{reasons[0]} (tried again when its input changes, or by interp retry)")
        else:
            self.make(asset, key, label, in_short(reasons), state == "fresh")

    def inputs_not_fresh(self, asset: Asset, key: str | None) -> list[str]:
        labels = [partition_label(*each) for each in self._look.inputs(asset, key)]
        return [label for label in labels if label in self.not_fresh]

    def make(self, asset: Asset, key: str | None, label: str, why: str, lies_ready: bool) -> None:
        dagster = self.loaded(asset)
        if not lies_ready:
            print(f"{'make':8} {label}: {why}", flush=True)
        before = time.monotonic()
        try:
            problem = dagster.materialize(asset, key, why)
        except BaseException:
            print(f"{'stopped':8} {label}", flush=True)
            raise
        self._look = Freshness(self.study)
        if problem is not None:
            if self._look.own_state(asset, key)[0] != "failed" and CHANGED_MEANWHILE in problem:
                self.inputs_moved.append(problem)
            self.leave("failed", label, problem)
            return
        state, reasons = self._look.own_state(asset, key)
        if state == "partial":
            self.count_partial(label, reasons[0])
            return
        self.counts["recorded" if lies_ready else "made"] += 1
        said = f"recorded {label}: {why}" if lies_ready else f"made     {label} in {time.monotonic() - before:.1f} s"
        print(said, flush=True)
        made = self._look.current(asset.name, key)
        if made is not None and (proof := made.metadata.get("proof")):
            print(f"{'proof':8} {label}: {in_words(proof)}", flush=True)
        if made is not None and (warning := made.metadata.get("warning")):
            print(f"{'warning':8} {label}: {warning}", flush=True)

    def count_partial(self, label: str, reason: str) -> None:
        """What a budget ended: what is there is kept and read by others, the run as a whole is not complete."""
        self.counts["partial"] += 1
        print(f"{'partial':8} {label}: {reason}", flush=True)

    def loaded(self, asset: Asset) -> DagsterRuns:
        """Dagster, and the libraries that the asset needs: on the first call this takes a while, so it says so."""
        if self._dagster is None:
            print(f"{'load':8} Dagster, torch, transformers (once, about ten seconds)", flush=True)
            with ending_at_once():
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
        if self.counts["partial"] and (reached := freshness.budget_reached):
            print(f"budget:  {reached}; with a larger one in {self.study.file} the next run goes on")
        for why in GIVEN_UP.values():
            print(f"gone:    {why}; once it answers: interp run {self.study.called}")
        if failed := failed_rows_in(freshness):
            name = self.study.called
            print(f"failed:  {failed:,} rows; why: interp status {name}; to ask again: interp retry {name}")
        report = freshness.current("score_report", None)
        if report is not None:
            print(f"report:  {report.files('page')[0]}")
        for asset in reversed(freshness.assets.values()):
            key = next((x for x in partitions_of(self.study, asset) if x and freshness.current(asset.name, x)), None)
            if key is not None:
                print(f"tables:  interp path {self.study.called} {asset.name} {key}")
                break
        print("lineage: make ui")


def failed_rows_in(freshness: Freshness) -> int:
    """How many rows failed in what is stored now."""
    stored = (
        freshness.current(asset.name, key)
        for asset in freshness.assets.values()
        for key in partitions_of(freshness.study, asset)
    )
    return sum(sum(each.metadata.get("failed_rows", {}).values()) for each in stored if each is not None)


def quiet_libraries() -> None:
    """Model loading has its own bars and notes, which would stand between our lines. Set before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
