"""`interp plan` where nothing has changed: as a command, imports included, on 3 and on 150 layers of eleven assets."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measuring import quick, seconds, show
from interp_assets.freshness import Freshness
from interp_assets.study import PROJECT, Study
from tests.seeded import seed, unmade_study

JUDGE = {"engine": "oracle"}


def main() -> None:
    for count in (3, 150):
        with tempfile.TemporaryDirectory() as folder:
            study = seeded(Path(folder), count)
            states = {state.state for state in Freshness(study).states()}
            assert states == {"fresh"}, states
            taken = [seconds(lambda: plan(study)) for _ in range(3 if quick() else 7)]  # noqa: B023
            show(f"plan_of_{count}_layers_partitions", len(Freshness(study).states()))
            show(f"plan_of_{count}_layers_seconds", float(np.median(taken)))
    imports = [seconds(lambda: command("-c", "import interp_assets.cli, interp_assets.plan")) for _ in range(3)]
    show("imports_alone_seconds", float(np.median(imports)))
    show("plan_of_150_layers_over_imports_ratio", float(np.median(taken) / np.median(imports)))


def seeded(folder: Path, count: int) -> Study:
    """A study whose partitions are all made up and fresh; of their tables there are only the hashes."""
    scorers = {"embedding": {"model": "./model"}, "detection": JUDGE, "fuzzing": JUDGE}
    examples = {"test": {"activating": 50, "non_activating": 50}}
    layers = [f"layers.{i}" for i in range(count)]
    study = unmade_study(folder, layers, scorers=scorers, examples=examples, alignment={})
    seed(study)
    return study


def plan(study: Study) -> None:
    found = json.loads(command("-m", "interp_assets.cli", "plan", str(study.file), "--json"))
    assert {each["state"] for each in found["partitions"]} == {"fresh"}


def command(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=PROJECT).stdout


if __name__ == "__main__":
    main()
