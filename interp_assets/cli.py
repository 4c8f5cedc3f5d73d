"""The `interp` command: run a study, see where it stands, find its tables, check the machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from interp_assets.ctrl_c import GOES_ON, stopped
from interp_assets.from_hub import get_models
from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import PROJECT, Study, load_study, studies_folder
from resources.errors import NotNow, UnusableInput, one_line

EXAMPLES = """\
examples:
  interp init demo/saes                            write a study for SAEs that you have
  interp run smollm2_demo                          make everything that is missing or stale
  interp run studies/mine.yaml --layers layers.10  only one layer
  interp run smollm2_demo --until examples         stop after the examples
  interp plan smollm2_demo                         what a run would make anew, why, and what it costs
  interp status smollm2_demo                       what is fresh, stale, missing, failed, and why
  interp retry smollm2_demo explanations           ask again for the explanations that failed
  interp accept smollm2_demo examples              the code moved, the results did not
  interp clean                                     remove old results that no study uses
  interp path smollm2_demo scores/fuzzing/trials layers.9
  interp path smollm2_demo score_report/page       the report's HTML file
  interp inspect path/to/saes                      what an SAE is: format, shapes, what it reads and writes
  interp doctor                                    versions, devices, weights, ports
  interp doctor smollm2_demo                       its engines: what they can do, how fast, hours and money for all
"""


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
        from interp_assets.doctor_study import examine_study

        return examine_study(study)
    from interp_assets.doctor import examine

    return examine(PROJECT)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="interp",
        description="Explain the latents of sparse autoencoders, and test every explanation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    study = "a study file, or the name of one in studies/"

    def command(name: str, function: object, help: str) -> argparse.ArgumentParser:
        own_examples = [line for line in EXAMPLES.splitlines() if line.startswith(f"  interp {name}")]
        one = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog="\n".join(["examples:", *own_examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(function=function)
        return one

    init = command(
        "init", command_init, "write a study file for SAEs in a folder or on the hub, and say what it assumes"
    )
    init.add_argument("path", metavar="PATH|HUB_NAME", help="a folder, or owner/name or owner/name/folder on the hub")
    init.add_argument(
        "--output", metavar="FILE", help="the study file, which ends in .yaml; studies/<name>.yaml if left out"
    )
    init.add_argument("--model", metavar="PATH|HUB_NAME", help="the subject model, where the SAEs do not name it")
    init.add_argument("--corpus", metavar="PATH|HUB_NAME", help="the text")
    run = command("run", command_run, "make everything of a study that is missing or stale")
    run.add_argument("study", metavar="STUDY", help=study)
    run.add_argument("--layers", nargs="+", metavar="LAYER", help="only these layers")
    run.add_argument("--until", metavar="ASSET", help="stop after this asset and what it needs")
    status = command("status", command_status, "show what is fresh, stale, missing or failed, and why")
    status.add_argument("study", metavar="STUDY", help=study)
    status.add_argument("--json", action="store_true", help="as JSON, for programs")
    plan = command("plan", command_plan, "show what a run would make anew and why, and what that takes")
    plan.add_argument("study", metavar="STUDY", help=study)
    plan.add_argument("--json", action="store_true", help="as JSON, for programs")
    path = command("path", command_path, "print the files of a table, one a line")
    path.add_argument("study", metavar="STUDY", help=study)
    path.add_argument("asset", metavar="ASSET", help="an asset, or one table of it as asset/table")
    path.add_argument("layer", metavar="LAYER", nargs="?", help="a layer key, where the asset has layers")
    accept = command("accept", command_accept, "record that results are unchanged although their code moved")
    accept.add_argument("study", metavar="STUDY", help=study)
    accept.add_argument("asset", metavar="ASSET")
    accept.add_argument("layer", metavar="LAYER", nargs="?", help="only this layer or pair of layers")
    retry = command("retry", command_retry, "try again what failed, and ask again for replies that were unusable")
    retry.add_argument("study", metavar="STUDY", help=study)
    retry.add_argument("asset", metavar="ASSET", nargs="?", help="only this asset and what it needs")
    retry.add_argument("layer", metavar="LAYER", nargs="?", help="only this layer or pair of layers")
    clean = command("clean", command_clean, "remove old results that no study uses any more")
    clean.add_argument(
        "study", metavar="STUDY", nargs="?", help="only the storage of this study; of all in studies/ if left out"
    )
    inspect = command("inspect", command_inspect, "show what SAEs are, from their settings and headers")
    inspect.add_argument(
        "path", metavar="PATH", help="a folder of SAEs or a single one, or a hub name that was fetched"
    )
    inspect.add_argument(
        "--model", metavar="FOLDER", help="the subject model, by whose settings names of hooks are understood"
    )
    inspect.add_argument("--json", action="store_true", help="as JSON, for programs")
    doctor = command("doctor", command_doctor, "check versions, devices, weights and ports; or the engines of a study")
    doctor.add_argument(
        "study", metavar="STUDY", nargs="?", help="start its engines, ask 20 prompts of each, forecast hours and money"
    )
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parser().parse_args(arguments)
    try:
        return parsed.function(parsed)
    except (UserError, StudyError, UnusableInput, NotNow) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return stopped()
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, MemoryError) as error:
        print(f"error: {one_line(str(error)) or 'out of memory'}. {GOES_ON}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
