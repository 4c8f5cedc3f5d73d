"""Make one partition: look whether it is there, draw it up, commit it, point the study at it. Knows no Dagster."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from interp_assets.asset import Asset
from interp_assets.differences import differences
from interp_assets.freshness import Fingerprint, Freshness, InputMissing, partition_label
from interp_assets.partitions import layers_touched, partitions_of
from interp_assets.provenance import Spent, provenance
from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import Study
from resources.errors import NotNow, UnusableInput
from resources.leases import Waiting
from resources.loaded_models import LoadedModels
from resources.partition_files import NOTE_FAILED, NOTE_RETRY, Draft, Partition
from resources.reply_log import ReplyLog
from resources.table_store import Busy

Metadata = dict[str, Any]
"""What the UI shows of a partition: numbers, texts, {"markdown": text}, {"path": text} or {"table": rows}."""


@dataclass
class Inputs:
    """What one partition is made from."""

    study: Study
    asset: Asset
    key: str | None
    freshness: Freshness

    @property
    def label(self) -> str:
        return partition_label(self.asset.name, self.key)

    @property
    def layer(self) -> str:
        """The layer of a partition that has one."""
        return str(self.key)

    def input(self, asset: str, key: str | None = None) -> Partition:
        """A partition of an earlier asset: of the same layer where that asset has layers and no other is named.

        Raises:
            InputMissing: it was never made.
        """
        source = self.freshness.assets[asset]
        of = (key or self.key) if source.partitioned else None
        partition = self.freshness.current(asset, of)
        if partition is None:
            raise InputMissing(partition_label(asset, of))
        return partition

    def earlier(self) -> Partition | None:
        """The newest generation whose rows may be carried over: the study's own last one if its code was the same."""
        store = self.freshness.store
        own = store.pointed(self.study.name, self.asset.name, self.key)
        if own is not None and own.parts["code"] == self.asset.code_version:
            return own
        generations = store.generations(self.asset.name, self.key)
        return next((each for each in generations if each.parts["code"] == self.asset.code_version), None)

    @cached_property
    def log(self) -> ReplyLog:
        return self.freshness.log

    @property
    def retrying(self) -> bool:
        """Whether the rows that failed are to be made anew."""
        fingerprint = self.freshness.fingerprint(self.asset, self.key).value
        return self.freshness.store.note(NOTE_RETRY, self.asset.name, self.key, fingerprint) is not None


@dataclass
class Job(Inputs):
    """What a stage is given to make one partition."""

    models: LoadedModels
    draft: Draft
    fingerprint: Fingerprint
    spent: Spent = field(default_factory=Spent)
    "What language models were asked for it."


class InputChanged(NotNow):
    """A file was changed while it was read."""


CHANGED_MEANWHILE = "while it was being made; the result was thrown away"


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


def say_waiting(what: str) -> None:
    print(f"{'waiting':8} {what}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Made:
    partition: Partition
    reused: bool
    "It was there already: nothing was computed."


def make_partition(
    study: Study,
    asset_name: str,
    key: str | None,
    models: LoadedModels,
    also_wanted: Sequence[str] = (),
    waiting: Waiting | None = say_waiting,
) -> Made:
    """Make one partition of a study, unless it is there.

    Args:
        also_wanted: other layers that are to be made in the same plan; an asset that harvests commits them too.
        waiting: told what is waited for; where None, nothing is waited for.

    Raises:
        UnusableInput: the input is at fault; recorded, so that it is not tried again until the input changes.
        NotNow: an earlier asset is missing, or an input changed meanwhile; Busy where nothing is waited for.
    """
    freshness = Freshness(study)
    if asset_name not in freshness.assets:
        raise StudyError(f"{study.name} has no asset {asset_name!r} any more; {listed(freshness.assets)}")
    asset = freshness.assets[asset_name]
    store = freshness.store
    fingerprint = freshness.fingerprint(asset, key)
    state, reasons = freshness.own_state(asset, key)
    if state == "failed":
        stored = store.partition(asset_name, key, fingerprint.value)
        measured = store.note(NOTE_FAILED, asset_name, key, fingerprint.value) or (stored.metadata if stored else {})
        raise UnusableInput(reasons[0], {"proof": measured["proof"]} if "proof" in measured else None)
    done = not freshness.is_due(state)
    partition = store.partition(asset_name, key, fingerprint.value) if done else None
    reused = partition is not None
    if partition is None:
        others = [other for other in also_wanted if other != key] if asset.harvests else []
        with models.slots(asset.slots, f"{partition_label(asset_name, key)} of {study.name}", waiting):
            partition, reused = _compute(freshness, asset, key, fingerprint, others, models, waiting)
    store.point(study.name, asset_name, key, partition.fingerprint)
    return Made(partition, reused)


def _compute(
    freshness: Freshness,
    asset: Asset,
    key: str | None,
    fingerprint: Fingerprint,
    others: list[str],
    models: LoadedModels,
    waiting: Waiting | None,
) -> tuple[Partition, bool]:
    store, started = freshness.store, time.time()
    with ExitStack() as drafts:
        draft = drafts.enter_context(store.draft(asset.name, key, fingerprint.value, waiting))
        # Another process may have made it while this one waited for it.
        look = Freshness(freshness.study)
        if not look.is_due(look.own_state(asset, key)[0]) and (
            made_meanwhile := store.partition(asset.name, key, fingerprint.value)
        ):
            return made_meanwhile, True
        jobs = [Job(freshness.study, asset, key, freshness, models, draft, fingerprint)]
        for other in others:
            if job := _sibling(freshness, asset, other, models, drafts):
                jobs.append(job)
        outcomes: dict[str | None, Metadata | UnusableInput]
        why = {job.key: freshness.own_state(asset, job.key)[1] for job in jobs}
        try:
            load_stage(asset)
            function = COMPUTES[asset.name]
            with closing(jobs[0].log):
                outcomes = function(jobs) if asset.harvests else {key: function(jobs[0])}
        except UnusableInput as error:
            outcomes = {key: error}
        changes = {job.key: _changes_since(job) for job in jobs}
        for job in jobs:
            outcome = outcomes.get(job.key)
            if outcome is None or changes[job.key]:
                continue
            if isinstance(outcome, UnusableInput):
                failure = {"reason": str(outcome), "parts": job.fingerprint.parts} | outcome.details
                store.write_note(NOTE_FAILED, asset.name, job.key, job.fingerprint.value, failure)
            else:
                made = {"seconds": round(time.time() - started, 2), "why": "; ".join(why[job.key])}
                job.draft.commit(
                    job.fingerprint.parts, outcome | job.spent.metadata(asset) | made | provenance(job.study, asset)
                )
    if changed := changes[key]:
        raise InputChanged(f"{jobs[0].label}: {'; '.join(changed)} {CHANGED_MEANWHILE}")
    own = outcomes[key]
    if isinstance(own, UnusableInput):
        raise own
    partition = store.partition(asset.name, key, fingerprint.value)
    assert partition is not None
    return partition, False


def _sibling(freshness: Freshness, asset: Asset, key: str, models: LoadedModels, drafts: ExitStack) -> Job | None:
    """Another layer to be made in the same pass, or None where it is there, failed, busy or not ready."""
    try:
        fingerprint = freshness.fingerprint(asset, key)
        if not freshness.is_due(freshness.own_state(asset, key)[0]):
            return None
        draft = drafts.enter_context(freshness.store.draft(asset.name, key, fingerprint.value))
    except (InputMissing, Busy):
        return None
    return Job(freshness.study, asset, key, freshness, models, draft, fingerprint)


def _changes_since(job: Job) -> list[str]:
    """What is no longer as it was when the partition was begun; such a result belongs to no fingerprint."""
    now = Freshness(job.study).fingerprint(job.asset, job.key)
    return [] if now.value == job.fingerprint.value else differences(job.fingerprint.parts, now.parts)


def failed_rows(table: pl.DataFrame) -> dict[str, int]:
    """Why rows of a table failed, and how many for each reason; the most frequent first."""
    failed = table.filter(pl.col("status") == "failed")["reason"].fill_null("unknown")
    return dict(failed.value_counts(sort=True).iter_rows())


def not_asked(table: pl.DataFrame) -> int:
    """How many rows of a table wait for more budget; their partition is `partial`."""
    return int((table["status"] == "not_asked").sum())


def wanted_partitions(study: Study, asset: Asset, layers: Sequence[str] | None) -> list[str | None]:
    """The partitions of an asset that are about the layers asked for (about any where None)."""
    keys = partitions_of(study, asset)
    return [key for key in keys if layers is None or set(layers_touched(study, asset, key)) <= set(layers)]
