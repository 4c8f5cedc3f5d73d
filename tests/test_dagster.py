"""Studies as Dagster sees them: lineage, partitions, checks, harvests; on a real instance on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import networkx as nx
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_assets.dagster_assets import PLAN_TAG, asset_key, definitions_of
from interp_assets.definitions import load_all
from interp_assets.freshness import Freshness
from interp_assets.graph import assets_of
from interp_assets.study import PROJECT, Study, load_study
from tests.tiny import make_corpus, make_model, make_sae, write_study

GOOD, BAD = "embed_tokens", "layers.0"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two layers, of which one's SAE does not fit what its hookpoint holds."""
    make_model(tmp_path / "model")
    make_sae(tmp_path / "saes", GOOD)
    make_sae(tmp_path / "saes", BAD)
    weights = load_file(tmp_path / "saes" / BAD / "sae.safetensors")
    weights["W_dec"] = torch.randn(weights["W_dec"].shape, generator=torch.Generator().manual_seed(0)) * 3
    save_file(weights, tmp_path / "saes" / BAD / "sae.safetensors")
    make_corpus(tmp_path / "corpus.parquet")
    saes = [{"path": "saes", "hookpoints": [GOOD, BAD]}]
    return load_study(write_study(tmp_path / "study.yaml", saes=saes))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "home")) as instance:
        yield instance


def run(
    study: Study, asset: str, layer: str | None, instance: dg.DagsterInstance, **tags: str
) -> dg.ExecuteInProcessResult:
    job = definitions_of(study).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=[asset_key(study, asset)],
        partition_key=layer,
        raise_on_error=False,
        tags=tags,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )


def test_one_pass_serves_all_layers_and_each_fails_alone(study: Study, instance: dg.DagsterInstance) -> None:
    for layer in (GOOD, BAD):
        assert run(study, "sae_weights", layer, instance).success
    assert run(study, "corpus", None, instance).success
    tags = {PLAN_TAG: f"{GOOD},{BAD}"}
    assert run(study, "activation_cache", GOOD, instance, **tags).success

    # The same pass has recorded why the other layer failed; its own run says so and makes nothing.
    freshness = Freshness(study)
    state, reasons = freshness.own_state(freshness.assets["activation_cache"], BAD)
    assert state == "failed"
    assert "variance unexplained" in reasons[0]
    result = run(study, "activation_cache", BAD, instance, **tags)
    assert not result.success
    key = asset_key(study, "activation_cache")
    assert instance.get_materialized_partitions(key) == {GOOD}
    assert checks_by_partition(instance) == {GOOD: True, BAD: False}

    # A later pass of the sound layer must not hide the failure of the other.
    assert run(study, "activation_cache", GOOD, instance, **tags).success
    assert checks_by_partition(instance) == {GOOD: True, BAD: False}


def checks_by_partition(instance: dg.DagsterInstance) -> dict[str, bool]:
    """The latest evaluation of the proof of load of each partition."""
    found: dict[str, bool] = {}
    for run_record in reversed(instance.get_run_records()):
        for entry in instance.all_logs(
            run_record.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ):
            evaluation = entry.dagster_event.event_specific_data
            found[evaluation.partition or run_record.dagster_run.tags["dagster/partition"]] = evaluation.passed
    return found


def test_materializations_carry_content_hash_counts_and_tables(study: Study, instance: dg.DagsterInstance) -> None:
    for asset, layer in (("sae_weights", GOOD), ("corpus", None), ("activation_cache", GOOD), ("examples", GOOD)):
        assert run(study, asset, layer, instance).success
    event = instance.get_latest_materialization_event(asset_key(study, "examples"))
    assert event is not None
    materialization = event.asset_materialization
    partition = Freshness(study).current("examples", GOOD)
    assert partition is not None
    assert materialization.tags["dagster/data_version"] == partition.content_hash
    metadata = materialization.metadata
    assert metadata["dagster/row_count"].value == len(partition.read("examples"))
    assert metadata["latents_interpreted"].value >= 40
    assert len(metadata["some_examples"].records) > 3
    assert not metadata["reused"].value

    again = run(study, "examples", GOOD, instance)
    assert again.success
    event = instance.get_latest_materialization_event(asset_key(study, "examples"))
    assert event.asset_materialization.metadata["reused"].value
    assert event.asset_materialization.tags["dagster/data_version"] == partition.content_hash


def test_lineage_is_the_graph(study: Study) -> None:
    graph = definitions_of(study).resolve_asset_graph()
    for asset in assets_of(study).values():
        node = graph.get(asset_key(study, asset.name))
        assert {key.path[0] for key in [node.key, *node.parent_keys]} == {study.name}
        assert node.parent_keys == {asset_key(study, read.asset) for read in asset.reads}
        assert (node.group_name, node.code_version) == (asset.group, asset.code_version)
        assert node.is_partitioned == asset.per_layer
        assert node.description
        assert node.kinds


def test_the_readme_shows_the_graph_of_the_demo() -> None:
    """Scores that read examples stand together, and an arrow is left out where a longer way says the same."""
    text = (PROJECT / "README.md").read_text()
    shown = set(re.findall(r"^  (\w+) --> (\w+)$", text, flags=re.MULTILINE))
    demo = assets_of(load_study(PROJECT / "studies" / "smollm2_demo.yaml"))
    together = {name for name in demo if name.startswith("scores/")} - {"scores/intervention"}

    def named(asset: str) -> str:
        return "scores" if asset in together else asset.removeprefix("scores/")

    edges = {(named(read.asset), named(asset.name)) for asset in demo.values() for read in asset.reads}
    assert shown == set(nx.transitive_reduction(nx.DiGraph(edges)).edges)
    assert all(name.removeprefix("scores/") in text for name in together)


def test_a_broken_study_is_one_asset_and_the_others_load(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "bro-ken.yaml").write_text("subject_model: 3\n")
    fine = study.file.read_text().replace("./model", "../model").replace("path: ", "path: ")
    (folder / "fine.yaml").write_text(fine.replace("../model", "./model"))
    keys = {tuple(key.path) for key in load_all(folder).resolve_asset_graph().get_all_asset_keys()}
    assert ("bro_ken", "unreadable_study") in keys
    assert ("tiny", "activation_cache") in keys
    description = load_all(folder).resolve_asset_graph().get(dg.AssetKey(["bro_ken", "unreadable_study"])).description
    assert "subject_model" in description
