"""The `interp` command: run a study, see where it stands, find its tables, check the machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from interp_assets import commands
from interp_assets.ctrl_c import GOES_ON, stopped
from interp_assets.setting_errors import StudyError
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
  interp doctor smollm2_demo --judge               its judges on planted concepts: AUROC, calibration, bias to Yes
"""


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="interp",
        description="Explain the latents of sparse autoencoders, and test every explanation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    study = "a study file, or the name of one in studies/"

    def command(name: str, function: object, help: str) -> argparse.ArgumentParser:
        own_examples = [line for line in EXAMPLES.splitlines() if line.startswith(f"  interp {name}")]
        one = choices.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog="\n".join(["examples:", *own_examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(function=function)
        return one

    init = command(
        "init", commands.command_init, "write a study file for SAEs in a folder or on the hub, and say what it assumes"
    )
    init.add_argument("path", metavar="PATH|HUB_NAME", help="a folder, or owner/name or owner/name/folder on the hub")
    init.add_argument(
        "--output", metavar="FILE", help="the study file, which ends in .yaml; studies/<name>.yaml if left out"
    )
    init.add_argument("--model", metavar="PATH|HUB_NAME", help="the subject model, where the SAEs do not name it")
    init.add_argument("--corpus", metavar="PATH|HUB_NAME", help="the text")
    run = command("run", commands.command_run, "make everything of a study that is missing or stale")
    run.add_argument("study", metavar="STUDY", help=study)
    run.add_argument("--layers", nargs="+", metavar="LAYER", help="only these layers")
    run.add_argument("--until", metavar="ASSET", help="stop after this asset and what it needs")
    status = command("status", commands.command_status, "show what is fresh, stale, missing or failed, and why")
    status.add_argument("study", metavar="STUDY", help=study)
    status.add_argument("--json", action="store_true", help="as JSON, for programs")
    plan = command("plan", commands.command_plan, "show what a run would make anew and why, and what that takes")
    plan.add_argument("study", metavar="STUDY", help=study)
    plan.add_argument("--json", action="store_true", help="as JSON, for programs")
    path = command("path", commands.command_path, "print the files of a table, one a line")
    path.add_argument("study", metavar="STUDY", help=study)
    path.add_argument("asset", metavar="ASSET", help="an asset, or one table of it as asset/table")
    path.add_argument("layer", metavar="LAYER", nargs="?", help="a layer key, where the asset has layers")
    accept = command("accept", commands.command_accept, "record that results are unchanged although their code moved")
    accept.add_argument("study", metavar="STUDY", help=study)
    accept.add_argument("asset", metavar="ASSET")
    accept.add_argument("layer", metavar="LAYER", nargs="?", help="only this layer or pair of layers")
    retry = command(
        "retry", commands.command_retry, "try again what failed, and ask again for replies that were unusable"
    )
    retry.add_argument("study", metavar="STUDY", help=study)
    retry.add_argument("asset", metavar="ASSET", nargs="?", help="only this asset and what it needs")
    retry.add_argument("layer", metavar="LAYER", nargs="?", help="only this layer or pair of layers")
    clean = command("clean", commands.command_clean, "remove old results that no study uses any more")
    clean.add_argument(
        "study", metavar="STUDY", nargs="?", help="only the storage of this study; of all in studies/ if left out"
    )
    inspect = command("inspect", commands.command_inspect, "show what SAEs are, from their settings and headers")
    inspect.add_argument(
        "path", metavar="PATH", help="a folder of SAEs or a single one, or a hub name that was fetched"
    )
    inspect.add_argument(
        "--model", metavar="FOLDER", help="the subject model, by whose settings names of hooks are understood"
    )
    inspect.add_argument("--json", action="store_true", help="as JSON, for programs")
    doctor = command(
        "doctor", commands.command_doctor, "check versions, devices, weights and ports; or the engines of a study"
    )
    doctor.add_argument(
        "study", metavar="STUDY", nargs="?", help="start its engines, ask 20 prompts of each, forecast hours and money"
    )
    doctor.add_argument(
        "--judge", action="store_true", help="instead ask its judges about planted concepts whose answers are known"
    )
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parser().parse_args(arguments)
    try:
        return parsed.function(parsed)
    except (commands.UserError, StudyError, UnusableInput, NotNow) as error:
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
