"""Make partitions of a study with damaged input, and look at how they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition

GOOD = "embed_tokens"


def make(root: Path, asset: str, layer: str | None = None) -> Partition:
    """The partition and all it needs; the activation cache in one pass of all layers."""
    study = load_study(root / "study.yaml")
    keys = [each.key for each in study.layers]
    assets = Freshness(study).assets
    for read in dict.fromkeys(read.asset for read in assets[asset].reads):
        for each in keys if assets[read].per_layer else (None,):
            make(root, read, each)
    return make_partition(study, asset, layer, LoadedModels(), keys).partition


def refused(root: Path, asset: str, layer: str | None = None) -> str:
    """Why a partition cannot be made: one line, the same again on the next try, and recorded."""
    with pytest.raises(UnusableInput) as first:
        make(root, asset, layer)
    with pytest.raises(UnusableInput) as again:
        make(root, asset, layer)
    assert str(again.value) == str(first.value)
    assert_recorded(root, asset, layer, str(first.value))
    return str(first.value)


def assert_recorded(root: Path, asset: str, layer: str | None, reason: str) -> None:
    """One line, kept as the reason of a failed partition, in front of blocked ones; and no half-written table."""
    assert reason.strip()
    assert "\n" not in reason
    freshness = Freshness(load_study(root / "study.yaml"))
    states = {(state.asset, state.partition): state for state in freshness.states()}
    assert (states[asset, layer].state, states[asset, layer].reasons) == ("failed", (reason,))
    behind = "activation_cache" if asset == "corpus" else "examples"
    assert states[behind, layer or GOOD].state == "blocked"
    folder = freshness.store.folder(asset, layer)
    assert {file.name for file in folder.rglob("*") if file.is_file()} == {"failed.json", ".lock"}


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
