"""What each `interp` command does with its arguments; the heavy parts are imported where they are used."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from interp_assets.from_hub import get_models
from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import PROJECT, Study, load_study, studies_folder


class UserError(Exception):
    """A mistake in how the command was used; the message is shown without a traceback."""


def find_study(name: str, get: bool = False) -> Study:
    """A study by its file's path, which may also end in .yml, or by its name in the studies folder.

    Args:
        get: fetch what it names on the hub and is not here.
    """
    file = Path(name) if Path(name).suffix in (".yaml", ".yml") else studies_folder() / f"{name}.yaml"
    if not file.is_file():
        there = sorted(file.stem for file in studies_folder().glob("*.yaml"))
        raise UserError(f"no study {name!r} ({file.resolve()}); in {studies_folder()} {listed(there)}")
    study = load_study(file, get)
    if get:
        get_models(study)
    return study


def command_init(arguments: argparse.Namespace) -> int:
    from interp_assets.new_study import told, write_study

    study, found = write_study(arguments.path, arguments.output, arguments.model, arguments.corpus)
    print("\n".join(told(study, found)))
    return 0


def command_run(arguments: argparse.Namespace) -> int:
    from interp_assets.running import run_study

    return run_study(find_study(arguments.study, get=True), arguments.layers, arguments.until)


def command_plan(arguments: argparse.Namespace) -> int:
    from resources.tokenizers import do_without_torch

    do_without_torch()
    from interp_assets import plan

    study = find_study(arguments.study)
    listed = plan.plan(study)
    print(plan.as_json(study, listed)) if arguments.json else plan.print_plan(study, listed)
    return 0


def command_status(arguments: argparse.Namespace) -> int:
    from interp_assets import plan

    study = find_study(arguments.study)
    listed = plan.status(study)
    print(plan.as_json(study, listed)) if arguments.json else plan.print_status(study, listed)
    return 0


def command_accept(arguments: argparse.Namespace) -> int:
    from interp_assets.freshness import partition_label
    from interp_assets.upkeep import accept

    study = find_study(arguments.study)
    accepted = False
    for asset, key, partition in accept(study, arguments.asset, arguments.layer):
        from interp_assets.dagster_runs import record

        # Each as it comes: what stops the next leaves this one told and recorded.
        print(f"accepted {partition_label(asset.name, key)}: {partition.metadata['accepted']}", flush=True)
        record(study, asset, key, partition)
        accepted = True
    if not accepted:
        print(f"{arguments.asset}: nothing to accept, it is fresh")
    return 0


def command_retry(arguments: argparse.Namespace) -> int:
    from interp_assets.running import run_study
    from interp_assets.upkeep import forget_failures

    study = find_study(arguments.study, get=True)
    again = forget_failures(study, arguments.asset, arguments.layer)
    for label, reason in again.items():
        print(f"retry    {label}: {reason}")
    if not again:
        print(f"{study.name}: nothing there can be asked for again")
        return 0
    return run_study(study, layers_of(study, arguments.asset, arguments.layer), arguments.asset)


def layers_of(study: Study, asset: str | None, key: str | None) -> list[str] | None:
    """The layers that a partition is about; None where no layer or pair is named."""
    from interp_assets.graph import assets_of
    from interp_assets.partitions import layers_touched

    return layers_touched(study, assets_of(study)[asset], key) if asset and key else None


def command_clean(arguments: argparse.Namespace) -> int:
    from interp_assets.freshness import Freshness
    from interp_assets.upkeep import clean

    studies = [find_study(arguments.study)] if arguments.study else readable_studies()
    by_root: dict[Path, list[Study]] = {}
    for study in studies:
        by_root.setdefault(study.path(study.storage), []).append(study)
    for root, sharing in by_root.items():
        files, size = clean(Freshness(sharing[0]).store, sharing) if root.is_dir() else (0, 0)
        print(f"{root}: {files} files removed, {size / 2**20:,.1f} MB")
    return 0


def readable_studies() -> list[Study]:
    found = []
    for file in sorted(studies_folder().glob("*.yaml")):
        try:
            found.append(load_study(file))
        except StudyError as error:
            print(f"note: {error}", file=sys.stderr)
    return found


def command_path(arguments: argparse.Namespace) -> int:
    from interp_assets.freshness import Freshness, partition_label
    from interp_assets.partitions import partitions_of
    from interp_assets.tables import AUXILIARY

    freshness = Freshness(find_study(arguments.study))
    asset, _, table = arguments.asset.rpartition("/")
    if arguments.asset in freshness.assets or not asset:
        asset, table = arguments.asset, ""
    if asset not in freshness.assets:
        raise UserError(f"{arguments.study} has no asset {arguments.asset!r}; {listed(freshness.assets)}")
    node = freshness.assets[asset]
    layer = arguments.layer
    layers = partitions_of(freshness.study, node)
    if node.partitioned and layer not in layers:
        problem = (
            f"{asset} has one table for each {node.scope}; name one" if layer is None else f"no {node.scope} {layer!r}"
        )
        raise UserError(f"{problem}; {listed(layers)}")
    if not node.partitioned and layer is not None:
        raise UserError(f"{asset} is one for all layers; leave {layer!r} out")
    partition = freshness.current(asset, layer)
    if partition is None:
        _, reasons = freshness.own_state(node, layer)
        label = partition_label(asset, layer)
        raise UserError(f"{label}: {'; '.join(reasons)}; run: interp run {arguments.study} --until {asset}")
    if table and table not in partition.tables:
        raise UserError(f"{asset} has no table {table!r}; {listed(partition.tables)}")
    state, reasons = freshness.own_state(node, layer)
    if state != "fresh":
        print(f"note: {state}: {'; '.join(reasons)}", file=sys.stderr)
    for name in [table] if table else [name for name in partition.tables if name not in AUXILIARY]:
        for file in partition.files(name):
            print(file)
    return 0


def command_inspect(arguments: argparse.Namespace) -> int:
    from interp_assets.inspecting import inspect

    return inspect(arguments.path, arguments.model, arguments.json)


def command_doctor(arguments: argparse.Namespace) -> int:
    if arguments.study is not None:
        from interp_assets.running import quiet_libraries

        study = find_study(arguments.study)
        quiet_libraries()
        if arguments.judge:
            from interp_assets.doctor_judge import examine_judges

            return examine_judges(study)
        from interp_assets.doctor_study import examine_study

        return examine_study(study)
    if arguments.judge:
        raise UserError("--judge examines the judges of a study; name one: interp doctor STUDY --judge")
    from interp_assets.doctor import examine

    return examine(PROJECT)
