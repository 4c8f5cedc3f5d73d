"""Make one partition: look whether it is there, draw it up, commit it, point the study at it. Knows no Dagster."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from interp_assets.freshness import Fingerprint, Freshness, InputMissing, partition_label
from interp_assets.graph import Asset, layers_of
from interp_assets.study import Study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.table_store import Busy, Draft, Partition

Metadata = dict[str, Any]
"""What the UI shows of a partition: numbers, texts, {"markdown": text}, {"path": text} or {"table": rows}."""


@dataclass
class Job:
    """What a stage is given to make one partition."""

    study: Study
    asset: Asset
    layer: str | None
    freshness: Freshness
    models: LoadedModels
    draft: Draft
    fingerprint: Fingerprint

    @property
    def label(self) -> str:
        return partition_label(self.asset.name, self.layer)

    def input(self, asset: str, layer: str | None = None) -> Partition:
        """A partition of an earlier asset: of the same layer where that asset has layers.

        Raises:
            InputMissing: it was never made.
        """
        source = self.freshness.assets[asset]
        of_layer = (layer or self.layer) if source.per_layer else None
        partition = self.freshness.current(asset, of_layer)
        if partition is None:
            raise InputMissing(partition_label(asset, of_layer))
        return partition


Compute = Callable[[Job], Metadata]
Harvest = Callable[[list[Job]], "dict[str, Metadata | UnusableInput]"]

COMPUTES: dict[str, Any] = {}
"How each asset is made; filled by `<stage>/assets.py` when the stage is first needed."


def computes(asset: str) -> Callable[[Any], Any]:
    """Registers a function as the one that makes an asset."""

    def register(function: Any) -> Any:
        COMPUTES[asset] = function
        return function

    return register


@dataclass(frozen=True)
class Made:
    partition: Partition
    reused: bool
    "It was there already: nothing was computed."


def make_partition(
    study: Study, asset_name: str, layer: str | None, models: LoadedModels, also_wanted: Sequence[str] = ()
) -> Made:
    """Make one partition of a study, unless it is there.

    Args:
        also_wanted: other layers that are to be made in the same plan; an asset that harvests commits them too.

    Raises:
        UnusableInput: the input is at fault; recorded, so that it is not tried again until the input changes.
        InputMissing, Busy: an earlier asset is missing; another process is writing this partition.
    """
    freshness = Freshness(study)
    asset = freshness.assets[asset_name]
    store = freshness.store
    fingerprint = freshness.fingerprint(asset, layer)
    if failure := store.failure(asset_name, layer, fingerprint.value):
        raise UnusableInput(failure["reason"], failure)
    partition = store.partition(asset_name, layer, fingerprint.value)
    reused = partition is not None
    if partition is None:
        others = [other for other in also_wanted if other != layer] if asset.harvests else []
        partition = _compute(freshness, asset, layer, fingerprint, others, models)
    store.point(study.name, asset_name, layer, partition.fingerprint)
    return Made(partition, reused)


def _compute(
    freshness: Freshness,
    asset: Asset,
    layer: str | None,
    fingerprint: Fingerprint,
    others: list[str],
    models: LoadedModels,
) -> Partition:
    store, started = freshness.store, time.time()
    with ExitStack() as drafts:
        draft = drafts.enter_context(store.draft(asset.name, layer, fingerprint.value))
        jobs = [Job(freshness.study, asset, layer, freshness, models, draft, fingerprint)]
        for other in others:
            if job := _sibling(freshness, asset, other, models, drafts):
                jobs.append(job)
        outcomes: dict[str | None, Metadata | UnusableInput]
        try:
            importlib.import_module(f"interp_assets.{asset.group}.assets")
            function = COMPUTES[asset.name]
            outcomes = function(jobs) if asset.harvests else {layer: function(jobs[0])}
        except UnusableInput as error:
            outcomes = {layer: error}
        for job in jobs:
            outcome = outcomes.get(job.layer)
            if isinstance(outcome, UnusableInput):
                failure = {"reason": str(outcome), "parts": job.fingerprint.parts} | getattr(outcome, "details", {})
                store.record_failure(asset.name, job.layer, job.fingerprint.value, failure)
            elif outcome is not None and _inputs_held_still(job):
                seconds = {"seconds": round(time.time() - started, 2)}
                job.draft.commit(job.fingerprint.parts, outcome | seconds)
    own = outcomes[layer]
    if isinstance(own, UnusableInput):
        raise own
    partition = store.partition(asset.name, layer, fingerprint.value)
    if partition is None:
        raise RuntimeError(f"{partition_label(asset.name, layer)}: a file it reads changed meanwhile; run it again")
    return partition


def _sibling(freshness: Freshness, asset: Asset, layer: str, models: LoadedModels, drafts: ExitStack) -> Job | None:
    """Another layer to be made in the same pass, or None where it is there, failed, busy or not ready."""
    try:
        fingerprint = freshness.fingerprint(asset, layer)
        if freshness.store.partition(asset.name, layer, fingerprint.value):
            return None
        if freshness.store.failure(asset.name, layer, fingerprint.value):
            return None
        draft = drafts.enter_context(freshness.store.draft(asset.name, layer, fingerprint.value))
    except (InputMissing, Busy):
        return None
    return Job(freshness.study, asset, layer, freshness, models, draft, fingerprint)


def _inputs_held_still(job: Job) -> bool:
    """Whether the partition would still get the fingerprint under which it was begun."""
    return Freshness(job.study).fingerprint(job.asset, job.layer).value == job.fingerprint.value


def wanted_layers(study: Study, asset: Asset, layers: Sequence[str] | None) -> list[str | None]:
    """The partitions of an asset among the layers asked for (all where None)."""
    return [layer for layer in layers_of(study, asset) if layer is None or layers is None or layer in layers]
