"""What a partition's result depends on, as one fingerprint; and whether what is stored still is that result.

    fingerprint = hash(code version, identity settings, content of outside files, content hashes of the columns read)

Imports neither torch nor Dagster: `interp plan` answers at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from interp_assets.asset import Asset
from interp_assets.budget import Purse
from interp_assets.corpus.files import suffix_of
from interp_assets.differences import differences
from interp_assets.graph import assets_of
from interp_assets.layers import MissingSae
from interp_assets.models_read import control_read, engine_model_files, engine_read, sae_files, tokenizer_files
from interp_assets.partitions import layers_touched, partitions_of, partitions_read
from interp_assets.proof_limits import beyond_limits, outdated
from interp_assets.study import Study
from interp_assets.tables import NOT_CONTENT
from resources.content_hash import combined_hash
from resources.durable_files import FileHashes
from resources.errors import NotNow
from resources.partition_files import NOTE_FAILED, NOTE_RETRY, Partition
from resources.reply_log import ReplyLog
from resources.table_store import TableStore

State = Literal["fresh", "stale", "missing", "failed", "blocked", "partial"]
STATES: tuple[State, ...] = ("fresh", "stale", "missing", "failed", "blocked", "partial")


Node = tuple[str, str | None]
"An asset's name and a partition key."


class Fingerprint(NamedTuple):
    value: str
    parts: dict[str, Any]
    "What went in, by name; kept in the manifest so that a change can be explained."


class InputMissing(NotNow):
    """An input has never been made, was damaged since, or cannot be made."""

    def __init__(self, label: str, problem: str | None = None) -> None:
        super().__init__(f"{label}: {problem}" if problem else f"{label} was never made; make it first")
        self.label = label
        self.problem = problem


@dataclass(frozen=True)
class PartitionState:
    asset: str
    partition: str | None
    state: State
    reasons: tuple[str, ...] = ()
    due_now: bool = False
    "It is to be made, and nothing that it is made from is."
    recorded: bool = True
    "False where it lies ready, yet this study never came to it: kept from other settings, or made beside another layer."
    content_stays: bool = False
    "Only its proof of load is to be made anew, so nothing that reads it is stale for that."

    @property
    def label(self) -> str:
        return partition_label(self.asset, self.partition)


def partition_label(asset: str, key: str | None) -> str:
    return f"{asset}[{key}]" if key else asset


class Freshness:
    """Answers for one study as of one moment: what was looked at once is remembered, so create a new one per look."""

    def __init__(self, study: Study, hashes: type[FileHashes] = FileHashes) -> None:
        """
        Args:
            hashes: how the content of files outside of the store is found out.
        """
        self.study = study
        self.assets = assets_of(study)
        self.store = TableStore(study.path(study.storage), NOT_CONTENT)
        self.file_hashes = hashes(self.store.root / "file_hashes.json")
        self._files: dict[tuple[str, ...], str] = {}
        self._fingerprints: dict[Node, Fingerprint | InputMissing] = {}
        self._current: dict[Node, Partition | None] = {}
        self._own: dict[Node, tuple[State, tuple[str, ...]]] = {}
        self._stopped: dict[Node, bool] = {}
        self.tokens_sent: dict[tuple[str, str, str | None], Any] = {}
        "What `tokens_sent` found in the tables, which is looked up once."

    @cached_property
    def log(self) -> ReplyLog:
        """What language models were ever answered, for all studies of this storage."""
        return ReplyLog(self.store.root / "replies.sqlite")

    @cached_property
    def budget_reached(self) -> str | None:
        return Purse(self.study, self.log).empty()

    def is_due(self, state: State) -> bool:
        """Whether a run would make a partition in this state: what a budget ended only while some of it is left."""
        return state in ("stale", "missing") or (state == "partial" and self.budget_reached is None)

    def current(self, asset: str, key: str | None) -> Partition | None:
        """What is stored for the settings of now, or else what the study completed last; None where that is damaged."""
        if (asset, key) not in self._current:
            found = None
            with contextlib.suppress(InputMissing):
                found = self.store.partition(asset, key, self.fingerprint(self.assets[asset], key).value)
            self._current[asset, key] = found or self.store.pointed(self.study.name, asset, key)
        return self._current[asset, key]

    def inputs(self, asset: Asset, key: str | None) -> Iterator[tuple[str, str | None]]:
        """The partitions that a partition reads, each once; optional ones that cannot be made are left out."""
        seen: dict[tuple[str, str | None], None] = {}
        for read in asset.reads:
            for of in partitions_read(self.study, asset, key, self.assets[read.asset]):
                if not (read.optional and self.stopped(read.asset, of)):
                    seen[read.asset, of] = None
        return iter(seen)

    def stopped(self, name: str, key: str | None) -> bool:
        """Whether a partition cannot be made: it failed, or something that it needs did."""
        if (name, key) not in self._stopped:
            asset, failed = self.assets[name], False
            with contextlib.suppress(NotNow, OSError):  # a file that could not be looked at yet has not failed
                failed = self.own_state(asset, key)[0] == "failed"
            self._stopped[name, key] = failed or any(self.stopped(*each) for each in self.inputs(asset, key))
        return self._stopped[name, key]

    def fingerprint(self, asset: Asset, key: str | None) -> Fingerprint:
        """
        Raises:
            InputMissing: an input was never made (a `study` asset records that as part of its fingerprint instead).
        """
        if (asset.name, key) not in self._fingerprints:
            try:
                self._fingerprints[asset.name, key] = self._fingerprint(asset, key)
            except InputMissing as missing:
                self._fingerprints[asset.name, key] = missing
        found = self._fingerprints[asset.name, key]
        if isinstance(found, InputMissing):
            raise found
        return found

    def _fingerprint(self, asset: Asset, key: str | None) -> Fingerprint:
        if reads_sae(asset):
            for each in layers_touched(self.study, asset, key):
                if isinstance(place := self.study.layer(each).location, MissingSae):
                    raise InputMissing(partition_label("sae_weights", each), place.problem)
        parts: dict[str, Any] = {"code": asset.code_version, "settings": asset.settings, "files": {}, "inputs": {}}
        if asset.per_layer:
            layer = self.study.layer(str(key))
            parts["settings"] = asset.settings | layer.read()
            if reads_sae(asset):
                parts["settings"] |= control_read(self.study, layer)
            if asset.interprets and layer.latents is not None:
                parts["settings"] |= {"latents": layer.latents}
        for name, files in self.outside_files(asset, key).items():
            parts["files"][name] = self.content(files)
        for read in asset.reads:
            for of in partitions_read(self.study, asset, key, self.assets[read.asset]):
                label = partition_label(read.asset, of)
                if read.optional and self.stopped(read.asset, of):
                    parts["inputs"][label] = "cannot be made"
                    continue
                partition = self.current(read.asset, of)
                if partition is None:
                    if asset.scope != "study":
                        raise InputMissing(label)
                    parts["inputs"][label] = "missing"
                    continue
                columns = partition.tables[read.table]["columns"]
                chosen = read.columns or [name for name in columns if name not in NOT_CONTENT]
                # Of an asset of which several tables are read, the others stand under their names.
                label = f"{label}/{read.table}" if label in parts["inputs"] else label
                parts["inputs"][label] = combined_hash({name: columns[name] for name in chosen})
        if asset.scope == "study":
            parts["states"] = self._layer_problems(asset)
        return Fingerprint(combined_hash([asset.name, parts]), parts)

    def _layer_problems(self, asset: Asset) -> dict[str, str]:
        """Failed partitions among what a study-wide asset reads: shown in it, so part of what it is made from."""
        states = self.states(until=asset.name)
        return {s.label: s.state for s in states if s.state in ("failed", "blocked")}

    def outside_files(self, asset: Asset, key: str | None) -> dict[str, list[Path]]:
        found = {name: files if isinstance(files, list) else [files] for name, files in asset.files.items()}
        layers = layers_touched(self.study, asset, key)
        # Whoever reads the hash of an SAE reads its weights too, and they must be those that were hashed.
        if reads_sae(asset):
            for layer in layers:
                name = "sae" if len(layers) == 1 else f"sae {layer}"
                found[name] = sae_files(self.study, self.study.layer(layer))
        # Of a model without its trained weights only its settings are read.
        if "subject_model" in found and any(self.study.layer(layer).untrained is not None for layer in layers):
            found["subject_model"] = tokenizer_files(self.study)
        return {
            name: existing for name, files in found.items() if (existing := [file for file in files if file.is_file()])
        }

    def content(self, files: list[Path]) -> str:
        """A hash of what stands in some files."""
        paths = tuple(map(str, files))
        if paths not in self._files:
            # Of a single file only the suffix tells how it is read; among several each name has its meaning.
            names = [file.name for file in files] if len(files) > 1 else [suffix_of(files[0])]
            hashes = [self.file_hashes.sha256(file) for file in files]
            self._files[paths] = combined_hash(list(zip(names, hashes, strict=True)))
        return self._files[paths]

    def engine_identity(self, name: str) -> dict[str, Any]:
        """What decides the replies of an engine of the study, its model's files included; enters the keys of the log."""
        files = engine_model_files(self.study, name)
        return engine_read(self.study, name) | ({"files": self.content(files)} if files else {})

    def states(self, until: str | None = None) -> list[PartitionState]:
        """The state of every partition, inputs before what reads them; stops before `until` where given."""
        found: dict[tuple[str, str | None], PartitionState] = {}
        for asset in self.assets.values():
            if asset.name == until:
                break
            for key in partitions_of(self.study, asset):
                found[asset.name, key] = self._state(asset, key, found)
        return list(found.values())

    def _state(
        self, asset: Asset, key: str | None, known: dict[tuple[str, str | None], PartitionState]
    ) -> PartitionState:
        inputs = [known[each] for each in self.inputs(asset, key)]
        due = [i for i in inputs if self.is_due(i.state)]
        moving = [i.label for i in due if not i.content_stays]
        stopped = {"failed": "failed", "blocked": "is blocked"}
        failed = tuple(f"{i.label} {stopped[i.state]}" for i in inputs if i.state in stopped)
        if failed and asset.scope != "study":
            return PartitionState(asset.name, key, "blocked", failed)
        own, reasons = self.own_state(asset, key)
        if own in ("fresh", "failed", "partial") and moving:
            own, reasons = "stale", tuple(f"{label} is to be made anew" for label in moving)
        recorded = own not in ("fresh", "partial") or self.recorded(asset, key)
        stays = own == "stale" and not moving and self._proof_alone(asset, key)
        return PartitionState(asset.name, key, own, reasons, self.is_due(own) and not due, recorded, stays)

    def own_state(self, asset: Asset, key: str | None) -> tuple[State, tuple[str, ...]]:
        """The state of one partition given its inputs as they lie there, and the reasons."""
        if (asset.name, key) not in self._own:
            self._own[asset.name, key] = self._look(asset, key)
        return self._own[asset.name, key]

    def _look(self, asset: Asset, key: str | None) -> tuple[State, tuple[str, ...]]:
        store = self.store
        pointer = store.pointer(self.study.name, asset.name, key)
        last = store.partition(asset.name, key, pointer) if pointer else None
        try:
            now = self.fingerprint(asset, key).value
        except InputMissing as missing:
            if missing.problem is not None and asset.name == "sae_weights":
                return "failed", (missing.problem,)
            if last is not None:
                return "stale", (f"{missing.label} is to be made anew",)
            return "missing", (f"{missing.label} is missing",)
        if failure := store.note(NOTE_FAILED, asset.name, key, now):
            proof = failure.get("proof", {})
            if "fvu" not in proof:
                return "failed", (failure["reason"],)
            if why := outdated(proof):
                return "stale" if last else "missing", (why,)
            if problem := beyond_limits(proof, self.study.proof_of_load):
                return "failed", (f"proof of load: {problem}",)
            return "stale" if last else "missing", ("the proof of load holds under the limits of now",)
        if retry := store.note(NOTE_RETRY, asset.name, key, now):
            return "stale", (retry["reason"],)
        stored = store.partition(asset.name, key, now)
        if stored is not None and (why := outdated(stored.metadata.get("proof"))):
            return "stale", (why,)
        if stored is not None and (problem := self._stopped_by_proof(key, stored)):
            return "failed", (problem,)
        if stored is not None and (waiting := stored.metadata.get("not_asked", 0)):
            return "partial", (f"{waiting:,} rows wait: {self.budget_reached or 'there is budget again'}",)
        if stored is not None:
            return "fresh", () if pointer == now else ("it is there already",)
        if damage := store.damage(asset.name, key, now) or (
            store.damage(asset.name, key, pointer) if pointer else None
        ):
            return "missing", (f"damaged: {damage}",)
        if last is None:
            return "missing", ("never made",)
        return "stale", tuple(differences(last.parts, self.fingerprint(asset, key).parts))

    def _proof_alone(self, asset: Asset, key: str | None) -> bool:
        """Whether of what is stored for the settings of now the proof of load alone is to be made anew."""
        stored = None
        with contextlib.suppress(InputMissing):
            stored = self.store.partition(asset.name, key, self.fingerprint(asset, key).value)
        return stored is not None and outdated(stored.metadata.get("proof")) is not None

    def _stopped_by_proof(self, key: str | None, stored: Partition) -> str | None:
        """Why an activation cache may not be used, under the limits of now; controls are never stopped."""
        proof = stored.metadata.get("proof")
        if proof is None or self.study.layer(str(key)).control is not None:
            return None
        problem = beyond_limits(proof, self.study.proof_of_load)
        return f"proof of load: {problem}" if problem else None

    def recorded(self, asset: Asset, key: str | None) -> bool:
        """Whether the study has come to what is stored for the settings of now."""
        return self.store.pointer(self.study.name, asset.name, key) == self.fingerprint(asset, key).value


def reads_sae(asset: Asset) -> bool:
    return asset.name == "sae_weights" or any(read.asset == "sae_weights" for read in asset.reads)
