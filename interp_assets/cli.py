"""The `interp` command: run a study, see where it stands, find its tables, check the machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from interp_assets.setting_errors import StudyError, listed
from interp_assets.study import PROJECT, Study, load_study, studies_folder
from resources.errors import NotNow, UnusableInput, one_line

EXAMPLES = """\
examples:
  interp run smollm2_demo                          make everything that is missing or stale
  interp run studies/mine.yaml --layers layers.10  only one layer
  interp run smollm2_demo --until examples         stop after the examples
  interp status smollm2_demo                       what is fresh, stale, missing, failed, and why
  interp path smollm2_demo scores/fuzzing/trials layers.9
  interp path smollm2_demo score_report/page       the report's HTML file
  interp doctor                                    versions, devices, weights, ports
"""


GOES_ON = "What was finished is kept; the same command goes on from there."


class UserError(Exception):
    """A mistake in how the command was used; the message is shown without a traceback."""


def find_study(name: str) -> Study:
    """A study by its file's path or by its name in the studies folder."""
    file = Path(name) if Path(name).suffix in (".yaml", ".yml") else studies_folder() / f"{name}.yaml"
    if not file.is_file():
        there = sorted(file.stem for file in studies_folder().glob("*.yaml"))
        raise UserError(f"no study {name!r} ({file.resolve()}); in {studies_folder()} {listed(there)}")
    return load_study(file)


def command_run(arguments: argparse.Namespace) -> int:
    from interp_assets.running import run_study

    return run_study(find_study(arguments.study), arguments.layers, arguments.until)


def command_status(arguments: argparse.Namespace) -> int:
    from interp_assets.freshness import Freshness

    study = find_study(arguments.study)
    states = Freshness(study).states()
    width = max(len(state.label) for state in states)
    for state in states:
        print(f"{state.state:8} {state.label:{width}}  {'; '.join(state.reasons)}".rstrip())
    counted = {
        name: sum(state.state == name for state in states)
        for name in ("fresh", "stale", "missing", "failed", "blocked")
    }
    print(f"\n{study.name}: " + ", ".join(f"{count} {name}" for name, count in counted.items() if count))
    return 0


def command_path(arguments: argparse.Namespace) -> int:
    from interp_assets.freshness import Freshness, partition_label
    from interp_assets.graph import partitions_of
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


def command_doctor(arguments: argparse.Namespace) -> int:
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

    run = command("run", command_run, "make everything of a study that is missing or stale")
    run.add_argument("study", metavar="STUDY", help=study)
    run.add_argument("--layers", nargs="+", metavar="LAYER", help="only these layers")
    run.add_argument("--until", metavar="ASSET", help="stop after this asset and what it needs")
    status = command("status", command_status, "show what is fresh, stale, missing or failed, and why")
    status.add_argument("study", metavar="STUDY", help=study)
    path = command("path", command_path, "print the files of a table, one a line")
    path.add_argument("study", metavar="STUDY", help=study)
    path.add_argument("asset", metavar="ASSET", help="an asset, or one table of it as asset/table")
    path.add_argument("layer", metavar="LAYER", nargs="?", help="a layer key, where the asset has layers")
    command("doctor", command_doctor, "check versions, devices, weights and ports")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parser().parse_args(arguments)
    try:
        return parsed.function(parsed)
    except (UserError, StudyError, UnusableInput, NotNow) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped. {GOES_ON}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, MemoryError) as error:
        print(f"error: {one_line(str(error)) or 'out of memory'}. {GOES_ON}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
