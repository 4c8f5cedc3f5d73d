"""`interp accept`, `interp retry`, `interp clean`: what people decide about results that lie in the store."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from interp_assets.asset import Asset
from interp_assets.differences import differences
from interp_assets.freshness import Fingerprint, Freshness, InputMissing, partition_label
from interp_assets.job import Inputs
from interp_assets.partitions import partitions_of
from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import Study
from interp_assets.tables import calls_behind
from resources.partition_files import MANIFEST, NOTE_FAILED, NOTE_RETRY, Partition
from resources.table_store import LOCK, Busy, TableStore


def chosen(study: Study, asset: str | None, key: str | None) -> Iterator[tuple[Asset, str | None]]:
    """The partitions that a command names.

    Raises:
        StudyError: there is no such asset or partition.
    """
    assets = Freshness(study).assets
    if asset is not None and asset not in assets:
        raise StudyError(f"{study.name} has no asset {asset!r}; {listed(assets)}")
    for each in [assets[asset]] if asset else assets.values():
        keys = partitions_of(study, each)
        if key is not None and asset and key not in keys:
            raise StudyError(f"{asset} has no partition {key!r}; {listed(keys)}")
        for own in keys:
            if key is None or own == key:
                yield each, own


OF_CODE = re.compile(r"code version |engines\..*\.code: ")
"Differences that are of code alone: the asset's own, or that of an engine it asks."


def accept(study: Study, asset: str, key: str | None) -> Iterator[tuple[Asset, str | None, Partition]]:
    """Record that results are what the code of now would give. The tables are kept, their files are shared.

    Returns:
        each as it is committed; before the first, all of them have been looked at.

    Raises:
        StudyError: something else than the code has changed, or there is nothing to accept. Nothing is accepted then.
    """
    return commit_all(study, [*acceptable(study, asset, key)])


class Acceptable(NamedTuple):
    """A result that only the code has left behind."""

    asset: Asset
    key: str | None
    last: Partition
    now: Fingerprint
    changes: list[str]
    "Differences between both, all of code."


def acceptable(study: Study, asset: str, key: str | None) -> Iterator[Acceptable]:
    freshness = Freshness(study)
    for each, own in chosen(study, asset, key):
        label = partition_label(each.name, own)
        if freshness.own_state(each, own)[0] in ("fresh", "partial"):
            continue
        last = freshness.store.pointed(study.name, each.name, own)
        try:
            now = freshness.fingerprint(each, own)
        except InputMissing as missing:
            raise StudyError(f"{label}: {missing}") from None
        if last is None:
            raise StudyError(f"{label}: there is no result to accept; run: interp run {study.called}")
        if last.fingerprint == now.value:
            continue  # nothing but its proof of load is to be made anew
        changes = differences(last.parts, now.parts)
        if others := [change for change in changes if not OF_CODE.match(change)]:
            raise StudyError(f"{label}: more than the code has changed: {'; '.join(others)}")
        yield Acceptable(each, own, last, now, changes)


def commit_all(study: Study, found: list[Acceptable]) -> Iterator[tuple[Asset, str | None, Partition]]:
    store = Freshness(study).store
    for asset, key, last, now, changes in found:
        note = {"accepted": "; ".join(changes), "accepted_from": last.fingerprint}
        with store.draft(asset.name, key, now.value) as draft:
            draft.adopt_all(last)
            made = draft.commit(now.parts, last.metadata | note)
        store.point(study.name, asset.name, key, now.value)
        yield asset, key, made


def forget_failures(study: Study, asset: str | None, key: str | None) -> dict[str, str]:
    """Let what failed be tried again: whole partitions, and rows whose reply was unusable.

    Returns:
        by partition, what will be tried again.
    """
    found = {}
    in_order = {(state.asset, state.partition): state for state in Freshness(study).states()}
    for each, own in chosen(study, asset, key):
        freshness = Freshness(study)
        label = partition_label(each.name, own)
        try:
            now = freshness.fingerprint(each, own).value
        except InputMissing:
            continue
        store = freshness.store
        if failure := store.note(NOTE_FAILED, each.name, own, now):
            store.remove_note(NOTE_FAILED, each.name, own, now)
            found[label] = failure["reason"]
        partition = freshness.current(each.name, own)
        keys = failed_replies(partition) if partition is not None else []
        state = in_order[each.name, own]
        if keys and state.state == "stale" and not state.due_now:
            # Which of them are asked for then is decided by what is made first.
            found[label] = f"{len(keys)} failed replies; what it is made from comes first, then retry again"
        elif keys:
            with Inputs(study, each, own, freshness).log as log:
                log.forget(keys)
            reason = f"{len(keys)} failed replies are asked for again"
            store.write_note(NOTE_RETRY, each.name, own, now, {"reason": reason})
            found[label] = reason
    return found


def failed_replies(partition: Partition) -> list[bytes]:
    """Keys of the replies behind the failed rows of a partition."""
    keys: set[str] = set()
    for name, table in partition.tables.items():
        if {"status", "prompt_hash"} <= set(table["columns"]):
            rows = partition.read(name, ["status", "prompt_hash"]).filter(pl.col("status") == "failed")
            keys |= calls_behind(rows)
    return [bytes.fromhex(key) for key in sorted(keys)]


def clean(store: TableStore, studies: list[Study]) -> tuple[int, int]:
    """Remove generations that no study points at, and files that no manifest lists.

    What another process is writing is left alone, and what the store did not make: its root may be any folder.

    Args:
        studies: those whose storage this is; what lies ready for their settings of now is kept too.

    Returns:
        how many files were removed, and their bytes.
    """
    kept = {
        store.root / pointer.parent.relative_to(folder) / pointer.name / pointer.read_text(errors="replace")
        for folder in (store.root / "pointers").glob("*")
        for pointer in folder.rglob("*")
        if pointer.is_file()
    }
    for study in studies:
        freshness = Freshness(study)
        for asset, key in chosen(study, None, None):
            if partition := freshness.current(asset.name, key):
                kept.add(partition.folder)
            # A note that it failed for good, with the inputs of now, holds.
            with contextlib.suppress(InputMissing):
                kept.add(store.folder(asset.name, key, freshness.fingerprint(asset, key).value))
    files = bytes_ = 0
    for folder in store.folders():
        name = str(folder.parent.parent.relative_to(store.root))
        before = sizes(folder)
        try:
            with store.draft(name, folder.parent.name, folder.name):
                pass  # taking the draft removes what its manifest does not list
            if folder not in kept:
                (folder / MANIFEST).unlink(missing_ok=True)  # first: what has none is absent, not damaged
                shutil.rmtree(folder)
        except Busy:
            continue
        after = sizes(folder) if folder.is_dir() else {}
        gone = [size for name, size in before.items() if name not in after]
        files, bytes_ = files + len(gone), bytes_ + sum(gone)
    return files, bytes_


def sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in folder.iterdir() if file.name != LOCK and file.is_file()}
