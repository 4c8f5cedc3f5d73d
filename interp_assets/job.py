"""Make one partition: look whether it is there, draw it up, commit it, point the study at it. Knows no Dagster."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from interp_assets.freshness import Fingerprint, Freshness, InputMissing, differences, partition_label
from interp_assets.graph import Asset, layers_of
from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import Study
from resources.errors import NotNow, UnusableInput
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


class InputChanged(NotNow):
    """A file was changed while it was read."""


COMPUTES: dict[str, Any] = {}
"""How each asset is made; filled by `<stage>/assets.py` when the stage is first needed. A function of a Job that
returns Metadata; of several Jobs that returns the outcome of each layer, Metadata or UnusableInput, where the asset
harvests."""


def load_stage(asset: Asset) -> None:
    """Import what makes an asset, with the libraries that it needs."""
    if asset.name not in COMPUTES:
        importlib.import_module(f"interp_assets.{asset.group}.assets")


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
        NotNow: an earlier asset is missing, another process is making this partition, or an input changed meanwhile.
    """
    freshness = Freshness(study)
    if asset_name not in freshness.assets:
        raise StudyError(f"{study.name} has no asset {asset_name!r} any more; {listed(freshness.assets)}")
    asset = freshness.assets[asset_name]
    store = freshness.store
    fingerprint = freshness.fingerprint(asset, layer)
    if failure := store.failure(asset_name, layer, fingerprint.value):
        raise UnusableInput(failure["reason"], {"proof": failure["proof"]} if "proof" in failure else None)
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
        if made_meanwhile := store.partition(asset.name, layer, fingerprint.value):
            return made_meanwhile
        jobs = [Job(freshness.study, asset, layer, freshness, models, draft, fingerprint)]
        for other in others:
            if job := _sibling(freshness, asset, other, models, drafts):
                jobs.append(job)
        outcomes: dict[str | None, Metadata | UnusableInput]
        try:
            load_stage(asset)
            function = COMPUTES[asset.name]
            outcomes = function(jobs) if asset.harvests else {layer: function(jobs[0])}
        except UnusableInput as error:
            outcomes = {layer: error}
        changes = {job.layer: _changes_since(job) for job in jobs}
        for job in jobs:
            outcome = outcomes.get(job.layer)
            if outcome is None or changes[job.layer]:
                continue
            if isinstance(outcome, UnusableInput):
                failure = {"reason": str(outcome), "parts": job.fingerprint.parts} | outcome.details
                store.record_failure(asset.name, job.layer, job.fingerprint.value, failure)
            else:
                seconds = {"seconds": round(time.time() - started, 2)}
                job.draft.commit(job.fingerprint.parts, outcome | seconds)
    if changed := changes[layer]:
        raise InputChanged(f"{jobs[0].label}: {'; '.join(changed)} while it was being made; run it again")
    own = outcomes[layer]
    if isinstance(own, UnusableInput):
        raise own
    partition = store.partition(asset.name, layer, fingerprint.value)
    assert partition is not None
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


def _changes_since(job: Job) -> list[str]:
    """What is no longer as it was when the partition was begun; such a result belongs to no fingerprint."""
    now = Freshness(job.study).fingerprint(job.asset, job.layer)
    return [] if now.value == job.fingerprint.value else differences(job.fingerprint.parts, now.parts)


def wanted_layers(study: Study, asset: Asset, layers: Sequence[str] | None) -> list[str | None]:
    """The partitions of an asset among the layers asked for (all where None)."""
    return [layer for layer in layers_of(study, asset) if layer is None or layers is None or layer in layers]
