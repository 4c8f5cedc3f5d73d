"""`interp run` when a stage goes wrong in ways that are not the input's fault."""

from __future__ import annotations

import functools
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from interp_assets import cli, commands, job
from interp_assets.dagster_runs import machine_trouble
from interp_assets.definitions import load_all
from interp_assets.freshness import Freshness
from interp_assets.job import COMPUTES, load_stage
from interp_assets.running import Runner
from interp_assets.study import PROJECT, Study, load_study
from resources.language_models.given_up import GIVEN_UP
from tests.changed_study import changed
from tests.refusals import GOOD, make
from tests.test_upkeep import with_code

Outcome = tuple[int, list[str], str]


@pytest.fixture(scope="module")
def study(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Ready up to the activation caches."""
    root = shutil.copytree(two_layers.parent, tmp_path_factory.mktemp("running") / "world")
    for layer in (GOOD, "layers.0"):
        make(root, "activation_cache", layer)
    study = load_study(root / "study.yaml")
    for asset in Freshness(study).assets.values():
        load_stage(asset)
    return study


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(PROJECT / "dagster.yaml", folder)
    return folder


@pytest.fixture
def run(
    study: Study, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs `interp run STUDY ...` here: its exit code, the lines it prints, its errors."""
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.chdir(home)

    def run(*arguments: str) -> Outcome:
        code = cli.main(["run", str(study.file), *arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def fail_with(error: BaseException, of_layer: str = GOOD) -> Callable[[Any], Any]:
    def compute(job: Any) -> Any:
        if job.layer == of_layer:
            raise error
        return REAL[job.asset.name](job)

    return compute


REAL: dict[str, Any] = {}


@pytest.fixture
def examples_fail(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def install(error: BaseException) -> None:
        REAL["examples"] = COMPUTES["examples"]
        monkeypatch.setitem(COMPUTES, "examples", fail_with(error))

    return install


def test_an_unexpected_error_is_one_line_and_others_go_on(
    run: Callable[..., Outcome], study: Study, examples_fail: Callable[[BaseException], None]
) -> None:
    """It is not recorded: the next run tries again. What reads it is blocked in this one."""
    examples_fail(KeyError("first line\nsecond line"))
    code, lines, errors = run("--until", "explanations")
    assert (code, errors) == (1, "")
    assert (
        f"failed   examples[{GOOD}]: KeyError: 'first line\\nsecond line' "
        "(unexpected; the traceback is under Runs in `make ui`)"
    ) in lines
    assert f"blocked  explanations[{GOOD}]: examples[{GOOD}] is not up to date" in lines
    assert any(line.startswith("made     explanations[layers.0]") for line in lines)
    freshness = Freshness(study)
    assert freshness.own_state(freshness.assets["examples"], GOOD)[0] == "missing"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "x.parquet"), "[Errno 28] No space left on device: 'x.parquet'"),
        (MemoryError(), "out of memory"),
        (pl.exceptions.ComputeError("parquet: underlying IO error: File too large (os error 27)"), "[Errno 27] File too large"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "DefaultCPUAllocator: "),
    ],
)  # fmt: skip
def test_the_machines_trouble_stops_the_run(
    run: Callable[..., Outcome], examples_fail: Callable[[BaseException], None], error: BaseException, said: str
) -> None:
    """One line that says so; the next partition would fare no better."""
    examples_fail(error)
    code, lines, errors = run("--until", "explanations")
    assert code == 1
    assert errors.startswith(f"error: {said}")
    assert errors.endswith(". What was finished is kept; the same command goes on from there.\n")
    assert errors.count("\n") == 1
    assert lines[-1] == f"stopped  examples[{GOOD}]"


def test_control_a_programming_error_is_not_the_machines() -> None:
    assert machine_trouble(ValueError("shapes (3,) and (4,) do not fit")) is None
    assert isinstance(machine_trouble(type("OutOfMemoryError", (RuntimeError,), {})("CUDA")), MemoryError)


def test_ctrl_c(run: Callable[..., Outcome], examples_fail: Callable[[BaseException], None]) -> None:
    examples_fail(KeyboardInterrupt())
    code, lines, errors = run("--until", "examples")
    assert code == 130
    assert errors.strip() == "stopped. What was finished is kept; the same command goes on from there."
    assert lines[-1] == f"stopped  examples[{GOOD}]"


def test_a_partition_that_another_process_makes_is_waited_for(
    run: Callable[..., Outcome], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given free once the wait was told of."""
    freshness = Freshness(study)
    asset = freshness.assets["examples"]
    held = freshness.store.draft(asset.name, GOOD, freshness.fingerprint(asset, GOOD).value)
    held.__enter__()
    real = job.say_waiting

    def heard(what: str) -> None:
        real(what)
        if not done.is_set():
            done.set()
            held.__exit__(None, None, None)

    done = threading.Event()
    make = functools.partial(job.make_partition, waiting=heard)
    monkeypatch.setattr("interp_assets.dagster_assets.make_partition", make)
    code, lines, errors = run("--until", "explanations")
    assert code == 0
    assert errors.count(f"waiting: examples[{GOOD}] is being made by another process ({os.getpid()})") == 1
    assert any(re.match(r"made +explanations\[embed_tokens\] in ", line) for line in lines)


def test_retry_makes_only_what_it_names(
    study: Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the other layer that failed nor what is made from it, which may cost money."""
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.chdir(home)
    root = shutil.copytree(study.root, tmp_path / "world")
    own = load_study(changed(root / "study.yaml", {"examples.seed": 7}))
    freshness = Freshness(own)
    for layer in (GOOD, "layers.0"):
        made = freshness.fingerprint(freshness.assets["examples"], layer).value
        freshness.store.folder("examples", layer, made).mkdir(parents=True, exist_ok=True)
        freshness.store.write_note("failed", "examples", layer, made, {"reason": "no luck"})
    assert cli.main(["retry", str(own.file), "examples", "layers.0"]) == 0
    out = capsys.readouterr().out
    assert "retry    examples[layers.0]: no luck" in out
    assert re.findall(r"^(?:made|failed) +(\S+)", out, flags=re.MULTILINE)[-1] == "examples[layers.0]"
    found = {(state.asset, state.partition): state.state for state in Freshness(own).states()}
    assert found["examples", "layers.0"] == "fresh"
    assert found["examples", GOOD] == "failed"
    assert found["explanations", "layers.0"] != "fresh"


def test_retry_of_a_pair_is_about_both_its_layers(study: Study) -> None:
    pairs = load_study(changed(study.file, {"alignment": {"pairs": [[GOOD, "layers.0"]]}}, "pairs.yaml"))
    assert commands.layers_of(pairs, "layer_matching", f"{GOOD}__layers.0") == [GOOD, "layers.0"]
    assert commands.layers_of(pairs, "examples", GOOD) == [GOOD]
    assert commands.layers_of(pairs, "examples", None) is None


def test_accept_looks_at_all_before_it_takes_any(
    study: Study, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.chdir(home)
    own = load_study(shutil.copytree(study.root, tmp_path / "world") / "study.yaml")
    assert cli.main(["run", str(own.file), "--until", "examples"]) == 0
    with_code(monkeypatch, {"examples": "next"})
    capsys.readouterr()
    store, arguments = Freshness(own).store, ["accept", str(own.file), "examples"]
    second = store.root / "pointers" / own.name / "examples" / "layers.0"
    second.rename(tmp_path / "aside")
    before = store.pointer(own.name, "examples", GOOD)
    assert cli.main(arguments) == 2
    assert "examples[layers.0]: there is no result to accept" in capsys.readouterr().err
    assert store.pointer(own.name, "examples", GOOD) == before
    # What stops the second leaves the first told and recorded.
    (tmp_path / "aside").rename(second)
    asset = Freshness(own).assets["examples"]
    recorded: list[str | None] = []
    monkeypatch.setattr("interp_assets.dagster_runs.record", lambda study, asset, key, partition: recorded.append(key))
    with store.draft("examples", "layers.0", Freshness(own).fingerprint(asset, "layers.0").value):
        assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"accepted examples[{GOOD}]: code version 3 -> next"]
    assert "error: examples[layers.0] is being made by another process" in captured.err
    assert recorded == [GOOD]
    assert cli.main(arguments) == 0
    assert recorded == [GOOD, "layers.0"]


def test_two_studies_of_one_name(study: Study, tmp_path: Path) -> None:
    """The first by file name stays; the other is shown as unreadable, and the code location loads."""
    folder = shutil.copytree(study.root, tmp_path / "studies")
    shutil.copy(folder / "study.yaml", folder / "again.yaml")
    changed(folder / "study.yaml", {"name": "third"}, "third.yaml")
    (folder.parent / "model").symlink_to(folder / "model")
    for name in ("saes", "corpus.parquet"):
        (folder.parent / name).symlink_to(folder / name)
    graph = load_all(folder).resolve_asset_graph()
    keys = {tuple(key.path) for key in graph.get_all_asset_keys()}
    assert {("tiny", "corpus"), ("third", "corpus"), ("study", "unreadable_study")} <= keys
    said = graph.get(dg.AssetKey(["study", "unreadable_study"])).description
    assert said == f"{folder / 'study.yaml'}: name: 'tiny' is the name of {folder / 'again.yaml'} too; give it another"


def test_a_run_ends_saying_which_server_is_gone(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "http://127.0.0.1:1/v1: it cannot be reached (refused); waited for 600 s"
    runner = Runner(study, [])
    runner.summary()
    assert "gone:" not in capsys.readouterr().out
    monkeypatch.setitem(GIVEN_UP, "http://127.0.0.1:1/v1", why)
    runner.summary()
    assert f"gone:    {why}; once it answers: interp run {study.called}" in capsys.readouterr().out
