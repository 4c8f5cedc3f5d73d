"""Engines are tried before any work: by `interp doctor STUDY`, and by a run that is going to ask them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interp_assets import cli
from interp_assets.engine_trial import require_engines
from interp_assets.forecast import Forecast
from interp_assets.freshness import Freshness
from interp_assets.plan import plan
from interp_assets.study import PROJECT, Study, load_study
from resources.errors import NotNow
from resources.loaded_models import LoadedModels
from tests.bench_server import Manners, free_port, serving
from tests.changed_study import changed
from tests.conftest import make_all
from tests.tiny import write_study

PRICE = {"input": 1000.0, "output": 1000.0}


@pytest.fixture
def world(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny study with nothing made, and a Dagster home of its own."""
    shutil.copytree(tiny_file.parent, tmp_path / "world", ignore=shutil.ignore_patterns("store"))
    shutil.copy(PROJECT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path / "world" / "study.yaml")


def served(file: Path, url: str, **more: Any) -> Study:
    engine = {"kind": "openai", "base_url": url, "model": "oracle", "price": PRICE, "wait_seconds": 5}
    return load_study(changed(file, {"engines.oracle": engine | more, "budget": {"tokens": 10**9}}, "served.yaml"))


def test_doctor_tells_what_engines_can_do_and_what_is_left(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Manners(latency=0.02)) as server:
        few = {
            f"scorers.{method}.{kind}": 2
            for method in ("detection", "fuzzing")
            for kind in ("activating", "non_activating")
        }
        file = served(world, server.url, concurrency=1).file
        study = load_study(changed(file, few | {"examples.latents": 24}, "few.yaml"))
        for _ in ("with made-up prompts", "and with others the next time"):
            before = server.told().answered
            assert cli.main(["doctor", str(study.file)]) == 0
            said = capsys.readouterr().out
            assert server.told().answered - before >= 40
            assert re.search(r"engine oracle +oracle can choose, generate, log_likelihood; holds replies to", said)
            for role in ("explaining", "judging"):
                took = re.search(rf"{role} 20 made-up prompts took ([\d.]+) s: ([\d.]+) requests/s, ", said)
                assert took is not None
                assert 20 / float(took[2]) == pytest.approx(float(took[1]), rel=0.2)
                assert 10 < float(took[2]) < 50  # one after the other, 20 ms each
            assert re.search(r"left in this study: at most [\d,]+ calls, at most [\d.]+ hours at this speed", said)
        assert re.search(r"budget +1,000,000,000 tokens; [\d,]{4,} tokens and [\d,.]+ spent", said)
        for name in ("sae_weights", "corpus", "activation_cache", "latent_statistics", "examples"):
            assert cli.main(["run", str(study.file), "--until", name]) == 0
        capsys.readouterr()
        before = {prompt for prompt in server.told().prompts if "Excerpt 1" in prompt}
        assert cli.main(["doctor", str(study.file)]) == 0
        said = capsys.readouterr().out
        assert "explaining 20 prompts of this study took" in said
        assert "judging 20 made-up prompts took" in said
        asked = {prompt for prompt in server.told().prompts if "Excerpt 1" in prompt} - before
        total = sum((each.work for each in plan(study)), Forecast(0))
        assert f"left in this study: at most {total.llm_calls:,} calls, at most " in said
        assert f"about {total.cost:,.2f} at the study's prices" in said
        # What was asked of the study's own prompts is kept for the run.
        made = make_all(study, LoadedModels())
    assert len(asked) == 20
    assert made["explanations"].metadata["replies_reused"] == 20


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"base_url": "http://127.0.0.1:PORT/v1"}, r"http://127.0.0.1:\d+/v1: it cannot be reached (Connect"),
        ({"key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
        ({"model": "other"}, "other"),
        ({"kind": "vllm"}, "engines.oracle: kind vllm needs the vllm package: .venv/bin/pip install -c"),
    ],
)
def test_an_engine_that_is_not_there_is_told_before_any_work(
    world: Path, capsys: pytest.CaptureFixture[str], engine: dict[str, str], said: str
) -> None:
    with serving(Manners()) as server:
        if "kind" in engine:
            study = load_study(changed(world, {"engines.oracle": {"kind": "vllm", "path": "./model"}}, "served.yaml"))
        else:
            port = str(free_port())
            study = served(world, server.url, **{key: value.replace("PORT", port) for key, value in engine.items()})
        assert cli.main(["run", str(study.file)]) == 2
        captured = capsys.readouterr()
        assert "made" not in captured.out
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        assert re.search(said.replace("(", r"\("), line)
        assert not (world.parent / "store" / "corpus").exists()
        assert cli.main(["doctor", str(study.file)]) == 1
        captured = capsys.readouterr()
        assert re.search(r"engine oracle +not usable: .*" + said.replace("(", r"\("), captured.out)
        assert "not ready: 1 of 1 engines" in captured.out
        # Control: what asks no engine is made all the same.
        assert cli.main(["run", str(study.file), "--until", "corpus"]) == 0


WITHOUT_PROBABILITIES = Manners(log_probabilities=False, echo=False)
NEEDED = {
    "detection": ({"engine": "oracle"}, "choose"),
    "fuzzing": ({"engine": "oracle", "protocol": "list"}, None),
    "fuzzing: size to be found": (
        {"engine": "oracle", "protocol": "list", "per_prompt": {"candidates": [2]}},
        "choose",
    ),
    "surprisal": ({"engine": "oracle"}, "log_likelihood"),
    "simulation": ({"engine": "oracle"}, None),
    "simulation: by token": ({"engine": "oracle", "mode": "token_by_token"}, "choose"),
    "generation": ({"engine": "oracle"}, None),
    "intruder": ({"engine": "oracle"}, "choose"),
    "intervention": ({"explainer": "oracle", "scorer": "oracle"}, "log_likelihood"),
}


@pytest.fixture(scope="module")
def without_probabilities() -> Iterator[str]:
    with serving(WITHOUT_PROBABILITIES) as server:
        yield server.url


@pytest.mark.parametrize("case", NEEDED)
def test_a_server_that_cannot_do_what_a_method_needs_is_told_before_any_work(
    world: Path, without_probabilities: str, case: str
) -> None:
    settings, verb = NEEDED[case]
    method = case.partition(":")[0]
    file = changed(world, {"scorers": {method: settings}, "examples.test": {"activating": 50, "non_activating": 50}})
    study = served(file, without_probabilities)
    look = Freshness(study)
    if verb is None:
        require_engines(look.states(), look)
        return
    with pytest.raises(NotNow) as refused:
        require_engines(look.states(), look)
    setting = "scorers.intervention.scorer" if method == "intervention" else f"scorers.{method}"
    reasons = {
        "choose": "it lists no likeliest tokens",
        "log_likelihood": "it gives no prompt's tokens back with log-probabilities",
    }
    assert str(refused.value) == (
        f"{setting} needs an engine that can {verb}; oracle (oracle) can: generate ({verb}: {reasons[verb]}); "
        "engines in this process can"
    )


def test_an_engine_of_the_study_that_could_is_named(
    world: Path, without_probabilities: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = served(world, without_probabilities)
    local = changed(study.file, {"engines.local": {"kind": "transformers", "path": "./model"}}, "local.yaml")
    assert cli.main(["run", str(local)]) == 2
    told = capsys.readouterr()
    assert told.err == (
        "error: scorers.detection needs an engine that can choose; oracle (oracle) can: generate "
        "(choose: it lists no likeliest tokens); of this study's engines local can\n"
    )
    assert "made" not in told.out
    assert cli.main(["doctor", str(local)]) == 1
    assert "engine oracle          not usable: scorers.detection needs" in capsys.readouterr().out


def test_trouble_at_the_start_is_waited_out(world: Path) -> None:
    """A server that is down is another matter."""
    with serving(Manners(first=(503, 0, 429, 500, 200, 0))) as server:
        look = Freshness(served(world, server.url))
        require_engines(look.states(), look)
        assert server.told().requests > 6
    with pytest.raises(NotNow, match=r"it cannot be reached \(Connect call failed .*\)$"):
        require_engines(look.states(), look)


def test_what_a_server_refuses_is_told_and_asked_again_by_retry_alone(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Manners(refuse="Excerpt 1")) as refusing, serving(Manners()) as other:
        study = served(world, refusing.url)
        assert cli.main(["run", str(study.file)]) == 0
        (failed,) = re.findall(
            r"^failed: +([\d,]+) rows; why: interp status (.*); to ask again:", capsys.readouterr().out, re.M
        )
        assert int(failed[0]) > 40
        assert failed[1] == str(study.file)
        asked = refusing.told().requests
        assert cli.main(["run", str(study.file)]) == 0
        # Nor are refused rows asked for where others of their table are made anew.
        more = changed(
            study.file, {"explainers.brief": {"kind": "llm", "engine": "oracle", "n_examples": 3}}, "more.yaml"
        )
        (work,) = [each.work for each in plan(load_study(more)) if each.state.asset == "explanations"]
        assert work.llm_calls == int(failed[0])
        assert refusing.told().requests == asked
        elsewhere = served(world, other.url)
        assert cli.main(["retry", str(elsewhere.file)]) == 0
        assert "failed:" not in capsys.readouterr().out.split("asked for again")[1]
        assert sum("Excerpt 1" in prompt for prompt in other.told().prompts) == int(failed[0])


def test_a_server_that_nothing_asks_need_not_be_there(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Manners()) as server:
        study = served(world, server.url)
        assert cli.main(["run", str(study.file)]) == 0
    shutil.rmtree(world.parent / "store" / "scores")
    assert cli.main(["run", str(study.file)]) == 0, "all replies are in the log"
    assert Freshness(study).states()[-1].state == "fresh"
