"""Two `interp run` of one study at once: the second says what it waits for, and no call is made twice."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from interp_assets.freshness import Freshness
from interp_assets.study import load_study
from resources.content_hash import combined_hash
from tests.commands import Command, settle_in
from tests.interruptions import RUN, copy_of
from tests.refusals import GOOD
from tests.tiny import write_study


@pytest.fixture
def quoted(tiny_file: Path, tmp_path: Path) -> Path:
    """The tiny study, explained by quoting and judged by its own model, which knows words and no JSON; nothing made."""
    shutil.copytree(tiny_file.parent, tmp_path / "quoted", ignore=shutil.ignore_patterns("store"))
    write_study(tmp_path / "quoted" / "study.yaml", explainers={"quotes": {"kind": "extractive"}})
    return tmp_path / "quoted" / "study.yaml"


def test_two_runs_of_one_study(quoted: Path, tmp_path: Path) -> None:
    file = settle_in(tmp_path / "world", quoted)
    root = file.parents[1]
    first = Command(root, ("run", "tiny"))
    first.wait_until(lambda: list((root / "store").rglob("interp_run.0")))
    second = Command(root, ("run", "tiny"))
    ends = [first.end(), second.end()]
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert f"waiting for interp_run: slot 0 is held by process {first.process.pid} (interp run tiny)" in ends[1].stderr
    assert "waiting" not in ends[0].stderr
    assert "9 made" in ends[0].stdout
    assert "9 fresh" in ends[1].stdout
    assert {state.state for state in Freshness(load_study(file)).states()} == {"fresh"}
    with sqlite3.connect(root / "store" / "replies.sqlite") as log:
        (calls,) = log.execute("select sum(calls) from totals").fetchone()
        (replies,) = log.execute("select count(*) from replies").fetchone()
    assert calls == replies > 40


def test_two_studies_share_one_device(long_study: Path, tmp_path: Path) -> None:
    """Whatever they share otherwise: nothing but the machine here."""
    slots = {"INTERP_SLOTS": "gpu=1", "INTERP_SLOTS_DIR": str(tmp_path / "slots")}
    roots = [copy_of(long_study, tmp_path / name) for name in ("one", "other")]
    first = Command(roots[0], RUN, environment=slots)
    first.wait_until(lambda: list((roots[0] / "store").rglob(".spill.part")))
    first.send(signal.SIGSTOP)
    second = Command(roots[1], RUN, environment=slots)
    second.wait_until(lambda: second.err.exists() and "waiting" in second.err.read_text())
    assert not list((roots[1] / "store").rglob(".spill.part"))
    first.send(signal.SIGCONT)
    ends = [first.end(), second.end()]
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    holder = f"slot 0 is held by process {first.process.pid} (activation_cache[{GOOD}] of tiny)"
    assert f"waiting for gpu: {holder}" in ends[1].stderr
    assert "waiting" not in ends[0].stderr


def test_control_with_two_slots_nobody_waits(long_study: Path, tmp_path: Path) -> None:
    slots = {"INTERP_SLOTS": "gpu=2", "INTERP_SLOTS_DIR": str(tmp_path / "slots")}
    commands = [Command(copy_of(long_study, tmp_path / name), RUN, environment=slots) for name in ("one", "other")]
    assert all("waiting" not in command.end().stderr for command in commands)


def test_an_sae_that_is_swapped_in_the_middle_of_a_run(long_study: Path, tmp_path: Path) -> None:
    """What was made of the old one is thrown away, and made again of the new one by the same command."""
    root = copy_of(long_study, tmp_path / "world")
    command = Command(root, RUN)
    command.wait_until(lambda: list((root / "store").rglob(".spill.part")))
    weights = root / "saes" / GOOD / "sae.safetensors"
    other = save(load_file(weights) | {"b_dec": load_file(weights)["b_dec"] + 0.01})
    weights.with_suffix(".new").write_bytes(other)
    weights.with_suffix(".new").rename(weights)
    end = command.end()
    assert end.returncode == 0, end.stderr
    assert (
        f"activation_cache[{GOOD}]: sae file changed while it was being made; the result was thrown away" in end.stdout
    )
    assert end.stdout.count(f"made     sae_weights[{GOOD}]") == 2
    study = load_study(root / "studies" / "long.yaml")
    states = {(state.asset, state.partition): state.state for state in Freshness(study).states()}
    assert states["activation_cache", GOOD] == "fresh"
    cache = Freshness(study).current("activation_cache", GOOD)
    assert cache is not None
    assert cache.parts["inputs"][f"sae_weights[{GOOD}]"] == combined_hash(
        {"sha256": Freshness(study).current("sae_weights", GOOD).tables["files"]["columns"]["sha256"]}  # type: ignore[union-attr]
    )


def test_two_studies_with_one_storage_share_the_replies(quoted: Path, tmp_path: Path) -> None:
    file = settle_in(tmp_path / "world", quoted)
    root = file.parents[1]
    other = file.with_name("other.yaml")
    other.write_text(file.read_text().replace("name: tiny", "name: other"))
    commands = [Command(root, ("run", name)) for name in ("tiny", "other")]
    ends = [command.end() for command in commands]
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    with sqlite3.connect(root / "store" / "replies.sqlite") as log:
        (calls,) = log.execute("select sum(calls) from totals").fetchone()
        (replies,) = log.execute("select count(*) from replies").fetchone()
    assert calls == replies > 40
