"""Plan, accept, retry, clean; and results that were damaged since they were made."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp_assets import graph, plan
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.setting_errors import StudyError
from interp_assets.study import PROJECT, Study, load_study
from interp_assets.upkeep import accept, clean, failed_replies, forget_failures
from resources.errors import UnusableInput
from resources.language_models.protocol import CODE_VERSIONS
from resources.partition_files import MANIFEST, Partition
from tests.changed_study import changed
from tests.conftest import make_all
from tests.oracle import OracleEngine, OracleModels
from tests.test_judging import Careless


@pytest.fixture
def study(tiny_file: Path, tiny_tables: dict[str, Partition], tmp_path: Path) -> Study:
    """The tiny study carried through, in a folder of its own."""
    assert tiny_tables
    return load_study(shutil.copytree(tiny_file.parent, tmp_path / "world") / "study.yaml")


def listed(study: Study) -> dict[str, plan.Listed]:
    return {each.state.asset: each for each in plan.plan(study)}


def states(study: Study) -> dict[str, str]:
    return {state.asset: state.state for state in Freshness(study).states()}


def asked(study: Study) -> int:
    oracle = OracleEngine()
    make_all(study, OracleModels(oracle))
    return len(oracle.prompts)


def test_when_nothing_changed_nothing_is_planned(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert {each.state.state for each in plan.plan(study)} == {"fresh"}
    plan.print_plan(study, plan.plan(study))
    assert capsys.readouterr().out == "tiny: 9 fresh\n"


def test_a_plan_is_exact_where_its_inputs_lie_ready(study: Study) -> None:
    other = load_study(changed(study.file, {"scorers.detection.instructions": "Decide."}))
    planned = listed(other)
    assert planned["scores/detection"].state.reasons == (
        "prompts.instructions changed",
        "scorer.instructions: None -> 'Decide.'",
    )
    assert {name for name, each in planned.items() if each.state.state != "fresh"} == {
        "scores/detection",
        "score_report",
    }
    work = planned["scores/detection"].work
    assert work.exact
    oracle = OracleEngine()
    did = make_all(other, OracleModels(oracle))["scores/detection"].metadata
    assert work.llm_calls == did["llm_calls"] == len(oracle.prompts) > 100
    assert work.replies_reused == did["replies_reused"]
    assert work.prompt_tokens is not None and work.prompt_tokens > work.llm_calls


def test_a_plan_is_an_upper_bound_where_inputs_are_made_first(study: Study) -> None:
    planned = listed(load_study(changed(study.file, {"examples.explain.n": 9})))
    assert [planned[name].state.state for name in ("examples", "explanations", "scores/fuzzing")] == ["stale"] * 3
    assert planned["explanations"].state.reasons == ("examples[embed_tokens] is to be made anew",)
    for name in ("explanations", "scores/fuzzing"):
        work = planned[name].work
        assert not work.exact
    after = load_study(study.root / "changed.yaml")
    oracle = OracleEngine()
    made = make_all(after, OracleModels(oracle))
    for name in ("explanations", "scores/detection", "scores/fuzzing"):
        calls = planned[name].work.llm_calls
        assert calls is not None
        assert made[name].metadata["llm_calls"] <= calls
        assert made[name].metadata["llm_calls"] + made[name].metadata["replies_reused"] <= calls
    assert len(oracle.prompts) == sum(
        made[name].metadata["llm_calls"] for name in made if "llm_calls" in made[name].metadata
    )


def test_prices_are_in_the_plan(study: Study) -> None:
    dear = {"engines.oracle.price": {"input": 1e6, "output": 0}, "scorers.detection.instructions": "Decide."}
    work = listed(load_study(changed(study.file, dear)))["scores/detection"].work
    assert work.cost == work.prompt_tokens > 0  # type: ignore[operator]


def test_the_plan_command_loads_neither_torch_nor_dagster(study: Study) -> None:
    file = changed(study.file, {"scorers.detection.instructions": "Decide."})
    code = (
        "import sys; from interp_assets.cli import main; main(['plan', sys.argv[1], '--json']); "
        "assert sys.modules.get('torch') is None and 'dagster' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    partitions = json.loads(done.stdout)["partitions"]
    keys = {"asset", "partition", "state", "reasons", "llm_calls", "replies_reused", "prompt_tokens", "cost"}
    assert all(keys <= set(each) for each in partitions)
    assert next(each for each in partitions if each["asset"] == "scores/detection")["llm_calls"] > 100


def with_code(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    """Pretend that some assets have another code version."""
    real = graph.assets_of

    def assets_of(study: Study) -> dict[str, graph.Asset]:
        found = real(study)
        for name, version in versions.items():
            object.__setattr__(found[name], "code_version", version)
        return found

    monkeypatch.setattr("interp_assets.freshness.assets_of", assets_of)


def test_accepted_code_recomputes_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Freshness(study).current("examples", "embed_tokens")
    assert before is not None
    with_code(monkeypatch, {"examples": "2"})
    assert listed(study)["examples"].state.reasons == ("code version 3 -> 2",)
    [(asset, key, made)] = accept(study, "examples", None)
    assert (asset.name, key, made.content_hash) == ("examples", "embed_tokens", before.content_hash)
    assert made.read("examples").equals(before.read("examples"))
    assert set(states(study).values()) == {"fresh"}
    assert asked(study) == 0
    # The old generation may go: the accepted one holds its own files.
    clean(Freshness(study).store, [study])
    assert not before.folder.exists()
    assert set(states(study).values()) == {"fresh"}


def test_code_of_an_engine_is_code_too(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODE_VERSIONS, "transformers", "next")
    assert states(study)["scores/detection"] == "stale"
    for asset in ("explanations", "scores/detection"):
        ((_, _, made),) = accept(study, asset, None)
        assert made.metadata["accepted"].startswith("engines.oracle.code: ")
    found = states(study)
    assert (found["explanations"], found["scores/detection"], found["scores/fuzzing"]) == ("fresh", "fresh", "stale")


def test_control_code_that_is_not_accepted_is_run_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with_code(monkeypatch, {"explanations": "next"})
    made = make_all(study)
    # Rows of other code are not carried over; the replies are the same, so nothing is asked.
    assert made["explanations"].metadata["explanations_carried_over"] == 0
    assert made["explanations"].metadata["llm_calls"] == 0


def test_more_than_code_is_not_accepted(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_study(changed(study.file, {"examples.explain.n": 9}))
    with_code(monkeypatch, {"examples": "2"})
    with pytest.raises(
        StudyError, match=r"examples\[embed_tokens\]: more than the code has changed: examples\.explain\.n: 10 -> 9"
    ):
        accept(other, "examples", None)
    with pytest.raises(StudyError, match="no asset 'example'; there are: sae_weights, corpus"):
        accept(study, "example", None)
    with pytest.raises(StudyError, match="examples has no partition 'layers\\.7'; there are: embed_tokens"):
        accept(study, "examples", "layers.7")


def test_retry_asks_again_for_what_failed_and_for_nothing_else(study: Study, tmp_path: Path) -> None:
    study = study.model_copy(update={"storage": str(tmp_path / "careless")})
    made = make_all(study, OracleModels(Careless()))
    failed = {name: len(failed_replies(made[name])) for name in made}
    assert failed["explanations"] > 5
    assert asked(study) == 0  # a bad answer is an answer
    again = forget_failures(study, "explanations", None)
    assert again == {"explanations[embed_tokens]": f"{failed['explanations']} failed replies are asked for again"}
    assert states(study)["explanations"] == "stale"
    oracle = OracleEngine()
    mended = make_partition(study, "explanations", "embed_tokens", OracleModels(oracle)).partition
    assert 2 * len(oracle.prompts) == failed["explanations"] == 2 * mended.metadata["llm_calls"]  # each was asked twice
    assert failed_replies(mended) == []
    assert states(study)["explanations"] == "fresh"
    assert forget_failures(study, "explanations", None) == {}


def test_retry_of_what_is_stale_by_now(study: Study, tmp_path: Path) -> None:
    """What failed in the result before is asked for again in the next one, and is not carried over."""
    study = study.model_copy(update={"storage": str(tmp_path / "careless")})
    make_all(study, OracleModels(Careless()))
    fewer = load_study(changed(study.file, {"scorers.fuzzing.activating": 9})).model_copy(
        update={"storage": str(tmp_path / "careless")}
    )
    failed = Freshness(study).current("scores/fuzzing", "embed_tokens")
    assert failed is not None
    control = tmp_path / "control"
    shutil.copytree(tmp_path / "careless", control)
    asked(fewer.model_copy(update={"storage": str(control)}))
    carried = Freshness(fewer.model_copy(update={"storage": str(control)})).current("scores/fuzzing", "embed_tokens")
    assert carried is not None
    assert failed_replies(carried), "control"
    said = f"{len(failed_replies(failed))} failed replies are asked for again"
    assert forget_failures(fewer, "scores/fuzzing", None) == {"scores/fuzzing[embed_tokens]": said}
    made = make_partition(fewer, "scores/fuzzing", "embed_tokens", OracleModels(OracleEngine())).partition
    assert failed_replies(made) == []
    # Where its inputs move too, nobody knows yet what there will be to ask.
    moving = load_study(changed(study.file, {"examples.seed": 5})).model_copy(
        update={"storage": str(tmp_path / "careless")}
    )
    (told,) = forget_failures(moving, "explanations", None).values()
    assert told.endswith("failed replies; what it is made from comes first, then retry again")


def test_retry_of_a_partition_that_failed(study: Study) -> None:
    weights = study.root / "saes" / "embed_tokens" / "sae.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-8])
    make_partition(study, "sae_weights", "embed_tokens", OracleModels())
    with pytest.raises(UnusableInput):
        make_partition(study, "activation_cache", "embed_tokens", OracleModels())
    assert states(study)["activation_cache"] == "failed"
    assert states(study)["explanations"] == "blocked"
    assert list(forget_failures(study, None, None)) == ["activation_cache[embed_tokens]"]
    assert states(study)["activation_cache"] in ("stale", "missing")


def test_clean_keeps_what_is_used(study: Study) -> None:
    other = load_study(
        changed(study.file, {"scorers.detection.instructions": "Decide.", "name": "other"}, "other.yaml")
    )
    make_all(other)
    edited = load_study(changed(study.file, {"examples.explain.n": 9}, "study.yaml"))
    old = Freshness(study).current("examples", "embed_tokens")
    make_all(edited)
    assert old is not None
    (old.folder / ".spill.part").write_bytes(b"left by a kill")
    store = Freshness(edited).store
    # The other study still points at the old examples.
    clean(store, [edited, other])
    assert not (old.folder / ".spill.part").exists()
    assert old.folder.exists()
    assert set(states(other).values()) == {"fresh"}
    make_all(load_study(changed(other.file, {"examples.explain.n": 9}, "other.yaml")))
    files, _ = clean(store, [edited])
    assert files > 5
    assert not old.folder.exists()
    assert set(states(edited).values()) == {"fresh"}
    assert clean(store, [edited]) == (0, 0)


def test_clean_leaves_what_is_being_written(study: Study) -> None:
    store = Freshness(study).store
    clean(store, [study])
    with store.draft("examples", "embed_tokens", "0" * 16) as draft:
        (draft.folder / ".half.part").write_bytes(b"x")
        assert clean(store, [study]) == (0, 0)
        assert (draft.folder / ".half.part").exists()


def test_clean_leaves_what_the_store_did_not_make(study: Study) -> None:
    """`storage` may be any folder, with anything in it that happens to be named like a fingerprint."""
    store = Freshness(study).store
    clean(store, [study])  # what other tests have left in the folder that this one is a copy of
    name = "0123456789abcdef"
    places = (name, f"photos/{name}", f"photos/2024/{name}", f"a/b/c/{name}", f"a/b/c/d/{name}", f"pointers/x/{name}")
    for place in places:
        (store.root / place).mkdir(parents=True)
        (store.root / place / "mine.txt").write_text("keep")
    foreign = store.root / "photos" / "2024" / name
    (foreign / MANIFEST).write_text('{"asset": "photos/2024", "start_url": "/"}')
    (foreign / ".lock").write_text("")
    (foreign / "failed.json").write_text("[]")
    elsewhere = shutil.copytree(
        Freshness(study).current("examples", "embed_tokens").folder, store.root / "p" / "q" / name
    )  # type: ignore[union-attr]
    (elsewhere / ".lock").unlink()
    (store.root / "p" / "q" / "f0f0f0f0f0f0f0f0").symlink_to(elsewhere, target_is_directory=True)
    files = sorted(store.root.rglob("*"))
    assert clean(store, [study]) == (0, 0)
    assert sorted(store.root.rglob("*")) == files


@pytest.mark.parametrize("asset", ["examples", "scores/detection", "corpus"])
def test_control_clean_takes_what_the_store_made(study: Study, asset: str) -> None:
    """By its manifest, by its lock where a run was killed, by its note where it failed."""
    store = Freshness(study).store
    key = None if asset == "corpus" else "embed_tokens"
    with store.draft(asset, key, "0" * 16) as draft:
        committed = draft.commit({}, {}).folder
    (committed / ".lock").unlink()
    with store.draft(asset, key, "1" * 16) as draft:
        killed = draft.folder
    (killed / ".half.part").write_bytes(b"left by a kill")
    store.write_note("failed", asset, key, "2" * 16, {"reason": "no such place"})
    failed = store.folder(asset, key, "2" * 16)
    assert {committed, killed, failed} <= set(store.folders())
    clean(store, [study])
    assert not any(folder.exists() for folder in (committed, killed, failed))
    assert set(states(study).values()) == {"fresh"}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("table", "damage", "said"),
    [
        ("examples", Path.unlink, r"examples-.*\.parquet is missing"),
        ("examples", cut, r"examples-.*\.parquet has \d+ bytes, \d+ were written"),
        ("latents", flip, r"latents-.*\.parquet is not what was written"),
        (None, cut, r"manifest\.json cannot be read"),
        (
            None,
            lambda file: file.write_text(file.read_text().replace('"rows": ', '"rows": 1')),
            "is not what was written",
        ),
        (None, lambda file: file.write_text("{}"), r"manifest\.json cannot be read"),
    ],
)
def test_damage_is_named_and_only_that_is_made_anew(
    study: Study, table: str | None, damage: Callable[[Path], Any], said: str
) -> None:
    before = Freshness(study).current("examples", "embed_tokens")
    assert before is not None
    damage(before.files(table)[0] if table else before.folder / MANIFEST)
    look = Freshness(study)
    state, reasons = look.own_state(look.assets["examples"], "embed_tokens")
    assert state == "missing"
    assert re.search(rf"^damaged: .*{said}", reasons[0]), reasons
    oracle = OracleEngine()
    made = make_all(study, OracleModels(oracle))
    assert oracle.prompts == []
    assert made["examples"].content_hash == before.content_hash
    assert set(states(study).values()) == {"fresh"}
    for name in ("explanations", "scores/detection"):
        assert made[name].manifest == Freshness(study).current(name, "embed_tokens").manifest  # type: ignore[union-attr]


def test_keys_are_nowhere(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set in the environment of a run is in no file that it leaves."""
    secret = "sk-0123456789-very-secret"  # noqa: S105
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    make_all(load_study(changed(study.file, {"scorers.detection.instructions": "Decide."})))
    files = [file for file in study.root.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if secret.encode() in file.read_bytes()]
