"""What a partition's result depends on, as one fingerprint; and whether what is stored still is that result.

    fingerprint = hash(code version, identity settings, content of outside files, content hashes of the columns read)

Imports neither torch nor Dagster: `interp status` answers at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from interp_assets.graph import Asset, assets_of, layers_of
from interp_assets.study import Study
from resources.errors import NotNow
from resources.table_store import Partition, TableStore, combined_hash, write_aside

State = Literal["fresh", "stale", "missing", "failed", "blocked"]


class Fingerprint(NamedTuple):
    value: str
    parts: dict[str, Any]
    "What went in, by name; kept in the manifest so that a change can be explained."


class InputMissing(NotNow):
    """An input has never been made."""

    def __init__(self, label: str) -> None:
        super().__init__(f"{label} was never made; make it first")
        self.label = label


@dataclass(frozen=True)
class PartitionState:
    asset: str
    layer: str | None
    state: State
    reasons: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return partition_label(self.asset, self.layer)


def partition_label(asset: str, layer: str | None) -> str:
    return f"{asset}[{layer}]" if layer else asset


class Freshness:
    """Answers for one study; create a new one per look, since it remembers what it has hashed."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.assets = assets_of(study)
        self.store = TableStore(study.path(study.storage))
        self.file_hashes = FileHashes(self.store.root / "file_hashes.json")
        self._files: dict[tuple[str, ...], str] = {}

    def current(self, asset: str, layer: str | None) -> Partition | None:
        """The partition that the study completed last, stale or not."""
        return self.store.pointed(self.study.name, asset, layer)

    def fingerprint(self, asset: Asset, layer: str | None) -> Fingerprint:
        """
        Raises:
            InputMissing: an input was never made (a `study` asset records that as part of its fingerprint instead).
        """
        parts: dict[str, Any] = {"code": asset.code_version, "settings": asset.settings, "files": {}, "inputs": {}}
        if layer is not None:
            parts["settings"] = asset.settings | {"hookpoint": self.study.layer(layer).hookpoint}
        for name, files in self.outside_files(asset, layer).items():
            parts["files"][name] = self._content(files)
        for read in asset.reads:
            source = self.assets[read.asset]
            for of_layer in (
                layers_of(self.study, source) if asset.scope == "study" else [layer if source.per_layer else None]
            ):
                label = partition_label(read.asset, of_layer)
                partition = self.current(read.asset, of_layer)
                if partition is None:
                    if asset.scope != "study":
                        raise InputMissing(label)
                    parts["inputs"][label] = "missing"
                    continue
                columns = partition.tables[read.table]["columns"]
                chosen = columns if read.columns is None else {name: columns[name] for name in read.columns}
                parts["inputs"][label] = combined_hash(chosen)
        if asset.scope == "study":
            parts["states"] = self._layer_problems(asset)
        return Fingerprint(combined_hash([asset.name, parts]), parts)

    def _layer_problems(self, asset: Asset) -> dict[str, str]:
        """Failed partitions among what a study-wide asset reads: shown in it, so part of what it is made from."""
        states = self.states(until=asset.name)
        return {s.label: s.state for s in states if s.state in ("failed", "blocked")}

    def outside_files(self, asset: Asset, layer: str | None) -> dict[str, list[Path]]:
        found = {name: files if isinstance(files, list) else [files] for name, files in asset.files.items()}
        # Whoever reads the hash of an SAE reads its weights too, and they must be those that were hashed.
        if layer is not None and (asset.name == "sae_weights" or any(r.asset == "sae_weights" for r in asset.reads)):
            found["sae"] = self.study.layer(layer).location.files()
        return {
            name: existing for name, files in found.items() if (existing := [file for file in files if file.is_file()])
        }

    def _content(self, files: list[Path]) -> str:
        key = tuple(map(str, files))
        if key not in self._files:
            # Of a single file only the suffix tells how it is read; among several each name has its meaning.
            names = [file.name for file in files] if len(files) > 1 else [files[0].suffix]
            hashes = [self.file_hashes.sha256(file) for file in files]
            self._files[key] = combined_hash(list(zip(names, hashes, strict=True)))
        return self._files[key]

    def states(self, until: str | None = None) -> list[PartitionState]:
        """The state of every partition, inputs before what reads them; stops before `until` where given."""
        found: dict[tuple[str, str | None], PartitionState] = {}
        for asset in self.assets.values():
            if asset.name == until:
                break
            for layer in layers_of(self.study, asset):
                found[asset.name, layer] = self._state(asset, layer, found)
        return list(found.values())

    def _state(
        self, asset: Asset, layer: str | None, known: dict[tuple[str, str | None], PartitionState]
    ) -> PartitionState:
        inputs: list[PartitionState] = []
        for read in asset.reads:
            source = self.assets[read.asset]
            for of_layer in (
                layers_of(self.study, source) if asset.scope == "study" else [layer if source.per_layer else None]
            ):
                inputs.append(known[read.asset, of_layer])
        own, reasons = self.own_state(asset, layer)
        if asset.scope != "study" and (failed := [i.label for i in inputs if i.state in ("failed", "blocked")]):
            return PartitionState(
                asset.name, layer, "blocked", tuple(f"{label} failed" for label in dict.fromkeys(failed))
            )
        moving = [i.label for i in inputs if i.state in ("stale", "missing")]
        if own == "fresh" and moving:
            return PartitionState(
                asset.name, layer, "stale", tuple(f"{label} is to be made anew" for label in dict.fromkeys(moving))
            )
        return PartitionState(asset.name, layer, own, reasons)

    def own_state(self, asset: Asset, layer: str | None) -> tuple[State, tuple[str, ...]]:
        """The state of one partition given its inputs as they lie there, and the reasons."""
        last = self.current(asset.name, layer)
        try:
            now = self.fingerprint(asset, layer)
        except InputMissing as missing:
            return "missing", (f"{missing.label} is missing",)
        if failure := self.store.failure(asset.name, layer, now.value):
            return "failed", (failure["reason"],)
        if last is None:
            return "missing", ("never made",)
        if last.fingerprint == now.value:
            return "fresh", ()
        return "stale", tuple(differences(last.manifest["parts"], now.parts))


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What changed between the parts of two fingerprints, one short sentence each."""
    found = []
    if before["code"] != after["code"]:
        found.append(f"code version {before['code']} -> {after['code']}")
    for key, old, new in changed_leaves(before["settings"], after["settings"]):
        found.append(f"{key}: {old!r} -> {new!r}")
    found += [f"{name} file changed" for name, _, _ in changed_leaves(before["files"], after["files"])]
    found += [f"{name} changed" for name, _, _ in changed_leaves(before["inputs"], after["inputs"])]
    found += [
        f"{name}: {old} -> {new}"
        for name, old, new in changed_leaves(before.get("states", {}), after.get("states", {}))
    ]
    return found or ["changed"]


def changed_leaves(before: Any, after: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    before, after = json.loads(json.dumps(before)), json.loads(json.dumps(after))
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in sorted(set(before) | set(after)):
            found += changed_leaves(before.get(name), after.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if before == after else [(key, before, after)]


class FileHashes:
    """SHA-256 of files, remembered by path, size and modification time."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self.known: dict[str, list[Any]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.known = json.loads(memory.read_text())

    def sha256(self, file: Path) -> str:
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        remembered = self.known.get(str(file))
        if remembered is None or remembered[:2] != stamp:
            with file.open("rb") as opened:
                remembered = [*stamp, hashlib.file_digest(opened, "sha256").hexdigest()]
            self.known[str(file)] = remembered
            write_aside(self.memory, json.dumps(self.known, indent=0).encode())
        return remembered[2]
