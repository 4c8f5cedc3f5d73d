"""Looks for files that have changed: SAEs, models, the corpus. A changed SAE becomes a new `sae_weights` partition.

Sizes and times are looked at first, and content is read only where those moved and then held for two ticks: a file that
is still being copied is not taken up. Knows no sensor; the sensor that calls it stands in `automation.py`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from interp_assets.activations import sae_files
from interp_assets.dagster_assets import asset_key, materialization_metadata
from interp_assets.due import DATA_VERSION_TAG, is_read, recorded_versions
from interp_assets.freshness import Freshness, partition_label
from interp_assets.from_hub import moved
from interp_assets.job import make_partition
from interp_assets.models_read import sae_files as files_of_layer
from interp_assets.study import Study
from resources.errors import NotNow, UnusableInput
from resources.loaded_models import LoadedModels

assert sae_files  # imported for what it registers

BYTES_A_TICK = 2 << 30
"After this many no further file is read before the next tick: a sensor has a minute."

GIVEN_TO_COPY_SECONDS = float(os.environ.get("INTERP_GIVEN_TO_COPY_SECONDS", "600"))
"A file whose length does not fit is taken as it is once it has not changed for this long: then its error is seen."

Stamp = list[int]
"Size and modification time."


@dataclass
class Watched:
    """What one tick has found."""

    seen: dict[str, Stamp] = field(default_factory=dict)
    "Files that are not taken up yet, as they are now: what the next tick compares with."
    events: list[dg.AssetMaterialization] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    "What is waited for, and what is wrong, one short sentence each."


def watch(study: Study, instance: dg.DagsterInstance, before: dict[str, Stamp]) -> Watched:
    """Look at every file that a study reads; make the `sae_weights` of layers whose files have changed and hold still.

    Args:
        before: `seen` of the last tick.
    """
    return Watch(study, before).look(instance)


class Watch:
    def __init__(self, study: Study, before: dict[str, Stamp]) -> None:
        self.study = study
        self.before = before
        self.freshness = Freshness(study)
        self.bytes_left = BYTES_A_TICK
        self.found = Watched()

    def look(self, instance: dg.DagsterInstance) -> Watched:
        asset = self.freshness.assets["sae_weights"]
        layers = [layer.key for layer in self.study.layers]
        recorded = recorded_versions(instance, asset_key(self.study, asset.name), list(layers))
        for layer in layers:
            try:
                self._layer(layer, recorded.get(layer))
            except (UnusableInput, NotNow, OSError) as error:
                self.found.notes.append(f"{layer}: {error}")
        for file in self._other_files():
            try:
                if not self._is_known(file) and (why := self._why_not_yet(file)):
                    self.found.notes.append(f"{file} {why}")
            except OSError as error:
                self.found.notes.append(str(error))
        self.found.notes += moved(self.study, self.freshness.store.root / "hub.json")
        return self.found

    def _layer(self, layer: str, recorded: str | None) -> None:
        asset = self.freshness.assets["sae_weights"]
        files = files_of_layer(self.study, self.study.layer(layer))
        if all(map(self._is_known, files)):
            _, reasons = self.freshness.own_state(asset, layer)
            stored = self.freshness.current(asset.name, layer)
            if not reasons and stored is not None and stored.content_hash == recorded:
                return
        waiting = [(file, why) for file in files if (why := self._why_not_yet(file))]
        if waiting:
            self.found.notes += [f"{layer}: {file.name} {why}" for file, why in waiting]
            return
        state, reasons = self.freshness.own_state(asset, layer)
        made = make_partition(self.study, asset.name, layer, LoadedModels())
        if state != "fresh" or made.partition.content_hash != recorded:
            self.found.events.append(
                dg.AssetMaterialization(
                    asset_key(self.study, asset.name),
                    partition=layer,
                    metadata=materialization_metadata(made, "; ".join(reasons) or "not recorded yet"),
                    tags={DATA_VERSION_TAG: made.partition.content_hash},
                )
            )
            self.found.notes.append(f"made {partition_label(asset.name, layer)}")

    def _other_files(self) -> list[Path]:
        """All that the study's assets read outside the store, SAEs left out."""
        assets = self.freshness.assets.values()
        files = [each for asset in assets for each in self.freshness.outside_files(asset, None).values()]
        return list(dict.fromkeys(file for group in files for file in group))

    def _is_known(self, file: Path) -> bool:
        return is_read(self.freshness.file_hashes, file)

    def _why_not_yet(self, file: Path) -> str | None:
        """Read a file, unless it still moves or there is no time for it in this tick: then the reason why not."""
        stat = file.stat()
        stamp = self.found.seen[str(file)] = [stat.st_size, stat.st_mtime_ns]
        if self.before.get(str(file)) != stamp:
            return "has changed; it is read once it holds still"
        if not is_complete(file):
            return "is not as long as its header says; is it still being copied?"
        if not self._is_known(file):
            if self.bytes_left <= 0:
                return "is read in a later tick"
            self.bytes_left -= stat.st_size
            self.freshness.file_hashes.sha256(file)
        return None


def is_complete(file: Path) -> bool:
    """Whether a safetensors file ends where its header says; of other formats, and of old files, it is taken for granted."""
    stat = file.stat()
    if file.suffix != ".safetensors" or time.time() - stat.st_mtime > GIVEN_TO_COPY_SECONDS:
        return True
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > stat.st_size:
            return False
        try:
            header = json.loads(opened.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, AttributeError, LookupError):
            return False
    return stat.st_size == 8 + length + max(ends, default=0)
