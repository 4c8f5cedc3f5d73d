"""A study's assets as Dagster sees them: lineage, partitions, pools, metadata, checks. The computing is elsewhere."""

# No postponed annotations here: Dagster reads the type of `context` itself.

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import psutil

from interp_assets.asset import Asset
from interp_assets.graph import assets_of
from interp_assets.job import Made, make_partition
from interp_assets.partitions import layer_keys, layer_pairs, pair_key, partitions_of, partitions_read
from interp_assets.run_processes import IN_PROGRESS, PROCESS_TAG, process_name
from interp_assets.setting_errors import StudyError
from interp_assets.study import Study, load_study
from interp_assets.tables import AUXILIARY
from resources.errors import NotNow, UnusableInput
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition

PLAN_TAG = "interp/layers"
"Run tag: the layers that the plan behind this run makes, comma-separated."

WHY_TAG = "interp/why"
"Run tag: why the automation asked for this run."

PROOF_OF_LOAD = "proof_of_load"

POOLS = ("gpu", "llm")

# The partition of a check is recorded with it, so that one layer's pass never hides another's failure.
warnings.filterwarnings("ignore", message=".*partitions_def on an AssetCheckSpec", category=dg.PreviewWarning)


def asset_key(study: Study, asset: str) -> dg.AssetKey:
    return dg.AssetKey([study.name, *asset.split("/")])


ConditionOf = Callable[[Study], dg.AutomationCondition]


def definitions_of(*studies: Study, condition_of: ConditionOf | None = None) -> dg.Definitions:
    """Everything that some studies hold, with one place for loaded models; made by itself where there is a condition."""
    return dg.Definitions(
        assets=[
            asset for study in studies for asset in study_assets(study, condition_of(study) if condition_of else None)
        ],
        resources={"models": LoadedModels()},
        executor=dg.in_process_executor,
    )


def study_assets(study: Study, condition: dg.AutomationCondition | None = None) -> list[dg.AssetsDefinition]:
    assets = assets_of(study)
    layers = dg.StaticPartitionsDefinition(layer_keys(study))
    pairs = dg.StaticPartitionsDefinition([pair_key(*pair) for pair in layer_pairs(study)])
    partitions = {"layer": layers, "pair": pairs}
    return [one_asset(study, asset, assets, partitions.get(asset.scope), condition) for asset in assets.values()]


def dependency(study: Study, asset: Asset, source: Asset) -> dg.AssetDep:
    """A pair reads both of its layers, a layer the pairs that its draws follow; other partitions read their like, or all
    of them."""
    if {asset.scope, source.scope} != {"layer", "pair"}:
        return dg.AssetDep(asset_key(study, source.name))
    readers: dict[str, set[str]] = {str(key): set() for key in partitions_of(study, source)}
    for reader in partitions_of(study, asset):
        for read in partitions_read(study, asset, reader, source):
            readers[str(read)].add(str(reader))
    return dg.AssetDep(asset_key(study, source.name), partition_mapping=dg.StaticPartitionMapping(readers))


def one_asset(
    study: Study,
    asset: Asset,
    assets: dict[str, Asset],
    partitions: dg.PartitionsDefinition | None,
    condition: dg.AutomationCondition | None,
) -> dg.AssetsDefinition:
    key, file = asset_key(study, asset.name), study.file
    checks = []
    if asset.name == "activation_cache":
        description = "The SAE reconstructs what this hookpoint holds, with the L0 it was published with."
        checks = [
            dg.AssetCheckSpec(
                PROOF_OF_LOAD, asset=key, blocking=True, description=description, partitions_def=partitions
            )
        ]

    @dg.asset(
        key=key,
        deps=[dependency(study, asset, assets[name]) for name in dict.fromkeys(read.asset for read in asset.reads)],
        partitions_def=partitions,
        group_name=asset.group,
        kinds=set(asset.kinds),
        description=asset.description,
        code_version=asset.code_version,
        pool=asset.pool,
        check_specs=checks,
        automation_condition=condition,
        output_required=False,
    )
    def compute(context: dg.AssetExecutionContext, models: dg.ResourceParam[LoadedModels]) -> Iterator[Any]:
        layer = context.partition_key if context.has_partition_key else None
        context.instance.add_run_tags(context.run_id, {PROCESS_TAG: process_name(psutil.Process())})
        try:
            # Read anew: the file may have changed since this code location was loaded.
            current = load_study(file)
            made = make_partition(current, asset.name, layer, models, also_wanted(context, key))
        except UnusableInput as error:
            if checks:
                yield proof_result(key, False, {"reason": str(error)} | error.details.get("proof", {}))
            raise dg.Failure(description=str(error), allow_retries=False) from None
        except (NotNow, StudyError) as error:
            raise dg.Failure(description=str(error)) from None
        if checks:
            yield proof_result(key, True, made.partition.metadata.get("proof", {}))
        yield materialization(made, key, context.run.tags.get(WHY_TAG))

    return compute


def proof_result(key: dg.AssetKey, passed: bool, proof: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(asset_key=key, check_name=PROOF_OF_LOAD, passed=passed, metadata=proof)


def materialization(made: Made, key: dg.AssetKey, why: str | None) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        asset_key=key,
        data_version=dg.DataVersion(made.partition.content_hash),
        metadata=materialization_metadata(made, why or "asked for by hand"),
    )


def materialization_metadata(made: Made, why: str) -> dict[str, Any]:
    return shown_metadata(made.partition) | {"asked_for_because": why, "reused": made.reused}


def shown_metadata(partition: Partition) -> dict[str, Any]:
    """A manifest's metadata in Dagster's types, with row counts, paths and the fingerprint."""
    shown: dict[str, Any] = {}
    for name, value in partition.metadata.items():
        if isinstance(value, dict) and "markdown" in value:
            shown[name] = dg.MetadataValue.md(value["markdown"])
        elif isinstance(value, dict) and "table" in value:
            records = [dg.TableRecord(row) for row in value["table"]]
            shown[name] = dg.MetadataValue.table(records) if records else "none"  # Dagster refuses an empty table
        elif isinstance(value, dict) and "path" in value:
            shown[name] = dg.MetadataValue.path(value["path"])
        elif isinstance(value, dict):
            shown[name] = dg.MetadataValue.json(value)
        else:
            shown[name] = value
    rows = {name: table["rows"] for name, table in partition.tables.items()}
    shown["dagster/row_count"] = sum(count for name, count in rows.items() if name not in AUXILIARY)
    shown["rows"] = dg.MetadataValue.json(rows)
    shown["folder"] = dg.MetadataValue.path(str(partition.folder))
    shown["fingerprint"] = partition.fingerprint
    parts = partition.parts
    shown["inputs"] = dg.MetadataValue.json(parts["inputs"] | parts["files"])
    return shown


def also_wanted(context: dg.AssetExecutionContext, key: dg.AssetKey) -> list[str]:
    """Other layers of this asset that are about to be made: in the same plan, or by runs queued and started."""
    found = [layer for layer in context.run.tags.get(PLAN_TAG, "").split(",") if layer]
    if context.has_partition_key:
        for run in context.instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
            if run.asset_selection and key in run.asset_selection:
                found.append(run.tags.get("dagster/partition", ""))
    known = context.assets_def.partitions_def
    layers = known.get_partition_keys() if known is not None else []
    return [layer for layer in dict.fromkeys(found) if layer in layers]


def set_up_pools(instance: dg.DagsterInstance) -> None:
    """Give the pools their limit before the first burst of runs, which would pass a limit that is set on its way."""
    storage = instance.event_log_storage
    known = {pool.name for pool in storage.get_pool_limits()}
    for pool in POOLS:
        if pool not in known:
            storage.set_concurrency_slots(pool, instance.global_op_concurrency_default_limit or 1)
