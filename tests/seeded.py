"""Studies whose tables are made up: manifests without files, and the materialisations that go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from interp_assets.asset import Asset
from interp_assets.dagster_assets import asset_key
from interp_assets.due import DATA_VERSION_TAG
from interp_assets.freshness import Freshness
from interp_assets.partitions import partitions_of
from interp_assets.study import Study, load_study
from resources.content_hash import combined_hash
from tests.tiny import make_corpus, make_model, make_sae, write_study


def unmade_study(root: Path, layers: list[str], **changes: object) -> Study:
    """A study of a few layers with everything that it refers to; nothing is made."""
    make_model(root / "model")
    for layer in layers:
        make_sae(root / "saes", layer)
    make_corpus(root / "corpus.parquet", documents=4)
    (root / "studies").mkdir()
    settings: dict[str, Any] = {
        "saes": [{"path": "saes", "hookpoints": layers}],
        "explainers": {"quotes": {"kind": "extractive"}},
        "automation": {"watch_seconds": 1},
    }
    return load_study(write_study(root / "studies" / "tiny.yaml", **(settings | changes)))


def read_all_files(study: Study) -> None:
    """Hash every file, as the watcher does once they hold still."""
    freshness = Freshness(study)
    for asset in freshness.assets.values():
        for layer in partitions_of(study, asset):
            for files in freshness.outside_files(asset, layer).values():
                for file in files:
                    freshness.file_hashes.sha256(file)
    assert freshness.file_hashes.known


def seed(study: Study, instance: dg.DagsterInstance | None = None, until: str | None = None) -> None:
    """Make up every partition (those before `until` where given), and record it where an instance is given."""
    read_all_files(study)
    freshness = Freshness(study)
    for asset in freshness.assets.values():
        if asset.name == until:
            return
        for layer in partitions_of(study, asset):
            make_up(freshness, asset, layer)
            if instance is not None:
                record(freshness, asset, layer, instance)


def make_up(freshness: Freshness, asset: Asset, key: str | None, content: str = "") -> None:
    """Commit a partition at its current fingerprint, as its run would; of its tables there are only the hashes."""
    fingerprint = freshness.fingerprint(asset, key)
    columns: dict[str, set[str]] = {}
    for read in (read for other in freshness.assets.values() for read in other.reads if read.asset == asset.name):
        columns.setdefault(read.table, set()).update(read.columns or ("value",))
    with freshness.store.draft(asset.name, key, fingerprint.value) as draft:
        for table, names in columns.items():
            hashes = {each: combined_hash([asset.name, key, table, each, content]) for each in sorted(names)}
            draft.tables[table] = {"files": [], "rows": 1, "columns": hashes}
        draft.commit(fingerprint.parts, {})
    freshness.store.point(freshness.study.name, asset.name, key, fingerprint.value)


def record(freshness: Freshness, asset: Asset, layer: str | None, instance: dg.DagsterInstance) -> None:
    partition = freshness.current(asset.name, layer)
    assert partition is not None
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key(freshness.study, asset.name), partition=layer, tags={DATA_VERSION_TAG: partition.content_hash}
        )
    )
