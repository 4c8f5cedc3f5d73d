"""Engines behind servers: every request has an outcome, whatever the server does, and the key stays where it is."""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from interp_assets.freshness import Freshness
from interp_assets.plan import plan
from interp_assets.scores.wording import DETECTION
from interp_assets.setting_errors import StudyError
from interp_assets.settings import OpenAIEngine as EngineSettings
from interp_assets.study import PROJECT, load_study
from resources.errors import NotNow
from resources.language_models.given_up import GIVEN_UP
from resources.language_models.logged import LoggedEngine
from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import ChooseRequest, Constraint, GenerateRequest, LikelihoodRequest, Message
from resources.language_models.server import Server
from resources.loaded_models import LoadedModels
from resources.reply_log import ReplyLog
from tests.bench_server import Manners, free_port, serving, start
from tests.changed_study import changed
from tests.conftest import make_all
from tests.test_planted_truth import mean_score
from tests.tiny import write_study

KEY = "sk-planted-0123456789abcdefghij"
PROBES = 6
"Requests by which an engine finds out what a server can do."


def judged(i: int, yes: bool) -> ChooseRequest:
    text = f"Description: the word w{i}\nText: one {f'w{i}' if yes else 'other'} two\n\nAnswer Yes or No."
    return ChooseRequest((Message("system", "Judge."), Message("user", text)), ("Yes", "No"))


def judgements(count: int) -> list[ChooseRequest]:
    return [judged(i, i % 3 == 0) for i in range(count)]


def engine(url: str, **settings: Any) -> OpenAIEngine:
    return OpenAIEngine(url, **({"model": "oracle", "wait_seconds": 5.0, "concurrency": 16} | settings))


def test_nothing_is_lost_on_a_bad_line() -> None:
    """Replies are those of their requests, in their order, each handed over once; a good server sees the same."""
    requests = judgements(300)
    arrived: list[int] = []
    with serving(Manners(malformed=0.1, resets=0.05, too_many=0.05, errors=0.02, latency=0.002)) as server:
        model = engine(server.url)
        replies = model.choose(requests, lambda place, reply: arrived.append(place))
        told = server.told()
    assert [reply.log_probabilities[0] > reply.log_probabilities[1] for reply in replies] == [
        i % 3 == 0 for i in range(300)
    ]
    assert sorted(arrived) == list(range(300))
    assert not any(reply.refused for reply in replies)
    assert told.requests > 1.15 * told.answered, "control: the server did fail"
    assert told.most_at_once <= 16


def test_requests_are_begun_in_their_order_and_so_many_at_once() -> None:
    with serving(Manners(latency=0.01)) as server:
        model = engine(server.url, concurrency=5)
        model.choose(judgements(100))
        told = server.told()
    places = [int(prompt.split("\n")[0].rpartition("w")[2]) for prompt in told.prompts[PROBES:]]
    assert max(abs(place - i) for i, place in enumerate(places)) < 5
    assert told.most_at_once == 5


def test_retry_after_is_obeyed_by_the_request_that_was_told() -> None:
    with serving(Manners(first=(*[200] * (PROBES + 10), 429), retry_after="1")) as server:
        model = engine(server.url, concurrency=4)
        began = time.monotonic()
        arrived: list[tuple[int, float]] = []
        replies = model.choose(judgements(60), lambda place, reply: arrived.append((place, time.monotonic() - began)))
        told = server.told()
    assert len(replies) == 60
    assert told.requests == PROBES + 61
    (last, took), others = arrived[-1], arrived[:-1]
    assert 8 <= last <= 14 and took > 1, "the one that was turned away"
    assert max(at for _, at in others) < took - 0.2, "the others did not wait for it"


def test_a_server_that_turns_away_everything_is_left_alone() -> None:
    with serving(Manners(first=(200,) * PROBES, too_many=1.0, retry_after="1", latency=0.02)) as server:
        with pytest.raises(NotNow, match="slow down; "):
            engine(server.url, concurrency=8, wait_seconds=3).choose(judgements(200))
        told = server.told()
    assert told.requests - PROBES <= 3 * 8 + 5


def test_a_quota_that_is_used_up_is_told_at_once() -> None:
    with serving(Manners(first=(200,) * PROBES, too_many=1.0, retry_after="86400")) as server:
        model = engine(server.url)
        began = time.monotonic()
        with pytest.raises(NotNow, match="slow down; it asks to wait for 86400 s"):
            model.choose(judgements(3))
        assert time.monotonic() - began < 2


def test_what_is_refused_is_an_outcome_and_asked_once() -> None:
    requests = judgements(20)
    with serving(Manners(refuse="the word w7\n")) as server:
        replies = engine(server.url).choose(requests)
        prompts = server.told().prompts
    reason = "the server says 400: This model's maximum context length is 8 tokens"
    assert [reply.refused for reply in replies] == [reason if i == 7 else None for i in range(20)]
    assert replies[7].log_probabilities == (-math.inf, -math.inf)
    assert sum("the word w7\n" in prompt for prompt in prompts) == 1


def test_a_request_that_breaks_the_server_each_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.language_models.server.LONGEST_PAUSE", 0.1)
    with serving(Manners(poison="the word w7\n")) as server:
        replies = engine(server.url).choose(judgements(20))
    assert [i for i, reply in enumerate(replies) if reply.refused] == [7]
    assert replies[7].refused == (
        "the server says 500: poison, again and again, while the server answers other requests"
    )


def test_a_reply_that_takes_too_long_is_asked_for_again() -> None:
    with serving(Manners(hangs=0.2)) as server:
        model = engine(server.url, timeout_seconds=0.3)
        assert not any(reply.refused for reply in model.choose(judgements(40)))
        assert server.told().requests > 45


def test_a_server_that_comes_up_is_waited_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.language_models.server.SAID_AFTER", 0.2)
    port = free_port()
    late = threading.Timer(1.0, lambda: servers.append(start(Manners(), port)))
    servers: list[Any] = []
    late.start()
    try:
        replies = engine(f"http://127.0.0.1:{port}/v1", wait_seconds=30).choose(judgements(5))
    finally:
        late.join()
        servers[0].process.kill()
    assert len(replies) == 5
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"waiting  for http://127.0.0.1:{port}/v1: it cannot be reached (")


def test_what_arrived_before_the_server_went_is_kept(tmp_path: Path) -> None:
    requests = judgements(50)
    log = ReplyLog(tmp_path / "replies.sqlite")

    def logged(url: str) -> LoggedEngine:
        return LoggedEngine(lambda: engine(url, wait_seconds=0.5), {"model": "oracle"}, log, "study", "judge")

    with (
        serving(Manners(down_after=PROBES + 20)) as server,
        pytest.raises(NotNow, match=rf"^{server.url}: the server says 503: down; waited for 0\.5 s$"),
    ):
        logged(server.url).choose(requests)
    with serving(Manners()) as server:
        model = logged(server.url)
        assert len(model.choose(requests)) == 50
        assert (model.replies_reused, model.calls_made) == (20, 30)
        assert server.told().requests == PROBES + 30


def test_a_server_that_was_given_up_is_not_waited_for_again() -> None:
    """By no engine of this process, until one small request is answered; of a server that hangs that takes no longer."""
    port = free_port()
    with serving(Manners(), port) as server:
        model, other = engine(server.url, wait_seconds=1.0), engine(server.url, model="oracle", wait_seconds=60)
    words = rf"^{server.url}: it cannot be reached \(.*\); waited for 1 s$"
    with pytest.raises(NotNow, match=words):
        model.choose(judgements(20))
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(NotNow, match=words):
            other.choose(judgements(20))
        with pytest.raises(NotNow, match=words):
            engine(server.url, wait_seconds=60)
    assert time.monotonic() - began < 30, "and not for 60 seconds each time"
    with serving(Manners(), port):
        assert len(other.choose(judgements(20))) == 20
        assert len(model.choose(judgements(20))) == 20
    assert server.url not in GIVEN_UP


def test_servers_share_replies_and_models_do_not(tiny_file: Path) -> None:
    def identity(**settings: Any) -> Any:
        one = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"} | settings
        return Freshness(load_study(changed(tiny_file, {"engines.oracle": one}, "ids.yaml"))).engine_identity("oracle")

    same = identity()
    assert same == {"kind": "openai", "model": "m", "revision": None, "code": "2"}
    assert identity(base_url="https://elsewhere/v1", key_env="K", concurrency=1, price={"input": 1}) == same
    assert identity(model="n") != same
    assert identity(request={}) == same
    assert identity(request={"reasoning_effort": "minimal"}) == same | {"request": {"reasoning_effort": "minimal"}}
    assert identity(revision="2026-11") != same


def test_refusals_are_not_kept_for_others(tmp_path: Path) -> None:
    """Nobody knows that they would be refused again."""
    with serving(Manners(refuse="the word w1\n")) as server:
        made = [
            LoggedEngine(lambda: engine(server.url), "id", ReplyLog(tmp_path / "log"), "s", "judge") for _ in range(2)
        ]
        for model in made:
            replies = model.choose(judgements(3))
            assert [bool(reply.refused) for reply in replies] == [False, True, False]
        assert [model.calls_made for model in made] == [3, 1]


def test_usage_is_what_the_server_counted() -> None:
    with serving(Manners(cached_tokens=2)) as server:
        model = engine(server.url)
        before = server.told()
        usages = [reply.usage for reply in model.choose(judgements(30))]
        asked = GenerateRequest((Message("user", "Excerpt 1: <<one>>"),), 8, temperature=1.0)
        (generated,) = model.generate([asked])
        after = server.told()
    assert json.loads(generated.text) == {"explanation": "the word one"}
    assert generated.finished
    for field in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        told = getattr(after, field) - getattr(before, field)
        assert sum(getattr(usage, field) for usage in [*usages, generated.usage]) == told > 0


@pytest.mark.parametrize("usage", ["missing", "absurd"])
def test_counts_that_cannot_be_are_estimated(usage: str) -> None:
    with serving(Manners(usage=usage)) as server:
        (reply,) = engine(server.url).choose(judgements(1))
    characters = sum(len(message.content) for message in judged(0, True).messages)
    assert reply.usage.prompt_tokens == math.ceil(characters / 3)
    assert reply.usage.cached_tokens <= reply.usage.prompt_tokens
    assert reply.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("manners", "can"),
    [
        (Manners(), {"generate", "choose", "log_likelihood"}),
        (Manners(echo=False), {"generate", "choose"}),
        (Manners(log_probabilities=False, echo=False), {"generate"}),
        (Manners(chat=False), {"generate", "choose", "log_likelihood"}),
    ],
)
def test_what_a_server_can_do_is_found_out(manners: Manners, can: set[str]) -> None:
    with serving(manners) as server:
        model = engine(server.url)
        assert model.capabilities == can
        if "choose" in can:
            assert model.choose(judgements(2))[0].log_probabilities == pytest.approx((-0.1, -3.0), abs=1e-3)
        else:
            why = r"\(choose: it lists no likeliest tokens\)"
            with pytest.raises(NotNow, match=rf"^{server.url}: oracle cannot choose there; it can: generate {why}$"):
                model.choose(judgements(2))


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("system_role", [True, False])
def test_a_server_without_a_system_role_gets_its_text_from_the_user(system_role: bool, limit: str) -> None:
    with serving(Manners(system_role=system_role, limit=limit)) as server:
        model = engine(server.url)
        assert model.capabilities == {"generate", "choose", "log_likelihood"}
        assert model.forms == {"json_schema", "regex", "choice"}
        replies = model.choose(judgements(6))
        prompts = server.told().prompts[-6:]
    assert [reply.log_probabilities[0] > reply.log_probabilities[1] for reply in replies] == [
        i % 3 == 0 for i in range(6)
    ]
    assert not any(reply.refused for reply in replies)
    assert [prompt.startswith("Judge.\n\nDescription: ") for prompt in prompts] == [not system_role] * 6


def test_a_server_that_refuses_every_chat_is_told_in_its_words() -> None:
    with (
        serving(Manners(refuse="Is water wet?")) as server,
        pytest.raises(NotNow, match="the server says 400: This model's maximum context length is 8 tokens"),
    ):
        engine(server.url)


@pytest.mark.parametrize(
    ("manners", "forms"),
    [
        (Manners(), {"json_schema", "regex", "choice"}),
        (Manners(forms=("json_schema",)), {"json_schema"}),
        (Manners(forms=("json_schema",), other_forms="refused"), {"json_schema"}),
        (Manners(forms=()), set()),
        (Manners(forms=(), other_forms="refused", chat=False), set()),
    ],
)
def test_forms_are_asked_for_where_the_server_holds_to_them(manners: Manners, forms: set[str]) -> None:
    schema = Constraint("json_schema", '{"type": "object", "properties": {"colour": {"enum": ["red"]}}}')
    asked = [schema, Constraint("regex", "blue"), Constraint("choice", ("green", "grey"))]
    with serving(manners) as server:
        model = engine(server.url)
        assert model.forms == forms
        replies = model.generate([GenerateRequest((Message("user", "Which?"),), 8, constraint=form) for form in asked])
    answers = ['{"colour": "red"}', "blue", "green"]
    expected = [answer if form.form in forms else "Yes" for answer, form in zip(answers, asked, strict=True)]
    assert [reply.text for reply in replies] == expected
    assert not any(reply.refused for reply in replies), "what the server does not know is not sent"


def test_further_fields_stand_in_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine's own fields are those that a study may not name."""
    sent: list[dict[str, Any]] = []
    ask_all = Server.ask_all

    def noting(server: Server, calls: Any, arrived: Any) -> None:
        calls = list(calls)
        sent.extend(call.content for call in calls)
        ask_all(server, calls, arrived)

    monkeypatch.setattr(Server, "ask_all", noting)
    with serving(Manners()) as server:
        model = engine(server.url, request={"reasoning_effort": "minimal", "temperature": 7})
        model.generate([GenerateRequest((Message("user", "Which?"),), 8, temperature=1.0)])
        model.choose(judgements(1))
        model.log_likelihood([LikelihoodRequest("a b c", " d e")])
    assert len(sent) == PROBES + 3
    assert {each["reasoning_effort"] for each in sent} == {"minimal"}
    assert {each["temperature"] for each in sent} == {0.0, 1}
    assert set().union(*sent) - {"reasoning_effort"} <= EngineSettings.own_fields


def test_log_likelihood_counts_the_continuation_alone() -> None:
    """The server gives the i-th word the log-probability -i; it counts a BOS token and adds one of its own."""
    with serving(Manners()) as server:
        model = engine(server.url)
        one, two = model.log_likelihood([LikelihoodRequest("a b c", " d e"), LikelihoodRequest("a b c", "d e")])
    assert (one.log_probability, one.tokens) == (-(4 + 5), 2)
    assert (two.log_probability, two.tokens) == (-(3 + 4), 2), "a token over the boundary is the continuation's"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "gpt"}, "the server says 404: The model `gpt` does not exist"),
        ({"key": None}, "the server says 401: Incorrect API key provided: None; name the environment variable with its key in key_env"),
        ({"key": "wrong"}, "the server says 401: Incorrect API key provided: Bearer [key]; is the key right?"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_model_is_told_at_the_start(settings: dict[str, Any], said: str) -> None:
    with serving(Manners(key=KEY)) as server:
        with pytest.raises(NotNow) as caught:
            engine(server.url, **({"key": KEY} | settings))
        assert str(caught.value) == f"{server.url}: {said}"
        assert engine(server.url, key=KEY).choose(judgements(1)), "control"


def test_an_interrupt_ends_it_at_once() -> None:
    script = """
import sys
from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import ChooseRequest, Message
model = OpenAIEngine(sys.argv[1], "oracle")
print("asking", flush=True)
model.choose([ChooseRequest((Message("user", str(i)),), ("Yes", "No")) for i in range(40)])
"""
    with serving(Manners(first=(200,) * PROBES, hangs=0.9)) as server:
        waiting = subprocess.Popen(
            [sys.executable, "-c", script, server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
        )
        assert waiting.stdout is not None
        line = waiting.stdout.readline()
        time.sleep(0.5)
        began = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=20)
    assert line == b"asking\n"
    assert time.monotonic() - began < 3
    assert b"KeyboardInterrupt" in said


# --- a whole study ---


@pytest.fixture
def served_file(tiny_file: Path, tmp_path: Path) -> Path:
    """The tiny study, judged by a server."""
    shutil.copytree(tiny_file.parent, tmp_path / "world", ignore=shutil.ignore_patterns("store"))
    return write_study(tmp_path / "world" / "study.yaml")


def test_a_study_judged_by_a_server(
    served_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """The planted truth comes out, one row fails with the server's reason, and the key is nowhere."""
    monkeypatch.setenv("PLANTED_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    manners = Manners(key=KEY, malformed=0.02, resets=0.01, too_many=0.01, refuse="the word kaba\nText: ka")
    with serving(manners) as server:
        oracle = {"kind": "openai", "base_url": server.url, "model": "oracle", "key_env": "PLANTED_KEY"}
        study = load_study(changed(served_file, {"engines.oracle": oracle}, "served.yaml"))
        made = make_all(study, LoadedModels())
        told = server.told()
        for method in ("detection", "fuzzing"):
            assert mean_score(made[f"scores/{method}"], "none") == 1.0
            assert mean_score(made[f"scores/{method}"], "shuffled") == pytest.approx(0.5, abs=0.03)
        trials = made["scores/detection"].read("trials")
        failed = trials.filter(pl.col("status") == "failed")
        assert set(failed["reason"]) == {"the server says 400: This model's maximum context length is 8 tokens"}
        spent = [made[name].metadata for name in ("explanations", "scores/detection", "scores/fuzzing")]
        assert sum(each["prompt_tokens"] for each in spent) <= told.prompt_tokens
        assert made["explanations"].metadata["engines"] == {"oracle": "oracle"}
        elsewhere = oracle | {"base_url": "https://elsewhere/v1"}
        moved = load_study(changed(served_file, {"engines.oracle": elsewhere}, "served.yaml"))
        assert {each.state.state for each in plan(moved)} == {"fresh"}
        again = changed(
            served_file, {"engines.oracle": elsewhere, "scorers.detection.instructions": f"{DETECTION.instructions}!"}
        )
        (work,) = (each.work for each in plan(load_study(again)) if each.state.asset == "scores/detection")
    assert work.llm_calls == trials["prompt_hash"].drop_nulls().n_unique()
    assert not work.exact
    # A study's own instructions bring their own worked examples: here none, so that prompts are shorter.
    assert work.prompt_tokens is not None
    assert 0.4 < work.prompt_tokens / trials["prompt_tokens"].sum() < 0.9
    files = [file for file in served_file.parent.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
    said = capfd.readouterr()
    assert KEY not in caplog.text + said.out + said.err + repr(study)
    assert b"PLANTED_KEY" in (served_file.parent / "served.yaml").read_bytes(), "control: the files were looked through"


def test_the_key_is_in_nothing_that_is_raised_or_shown() -> None:
    model = None
    with serving(Manners(key=KEY)) as server:
        model = engine(server.url, key=KEY, wait_seconds=0.2)
    with pytest.raises(NotNow) as caught:
        model.choose(judgements(2))
    shown = "".join(map(str, [caught.value, caught.value.__cause__, repr(model), repr(model.server), model.identity]))
    assert KEY not in shown


def test_a_study_without_its_key(served_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANTED_KEY", raising=False)
    oracle = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "oracle", "key_env": "PLANTED_KEY"}
    study = load_study(changed(served_file, {"engines.oracle": oracle}, "served.yaml"))
    with pytest.raises(NotNow, match=r"^engine oracle: the environment variable PLANTED_KEY is not set"):
        make_all(study, LoadedModels())


SERVER = {"kind": "openai", "base_url": "https://host/v1", "model": "m"}
FROM_ENVIRONMENT = "keys come from the environment: name the variable in key_env"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"api_key": "planted"}, f"engines.oracle.api_key: {FROM_ENVIRONMENT}"),
        ({"key": "planted"}, f"engines.oracle.key: {FROM_ENVIRONMENT}"),
        ({"key_env": KEY}, f"engines.oracle.key_env: {FROM_ENVIRONMENT}"),
        ({"key_env": "planted key"}, f"engines.oracle.key_env: {FROM_ENVIRONMENT}"),
        ({"request": {"temperature": 1, "n": 2}}, "engines.oracle.request: n, temperature: set by the engine itself; leave it out"),
        ({"request": [1]}, "engines.oracle.request: [1]: it must be a mapping of fields, like {reasoning_effort: minimal}"),
        ({"request": {"api_key": "planted"}}, f"engines.oracle.request.api_key: {FROM_ENVIRONMENT}"),
        ({"model": KEY}, f"engines.oracle.model: {FROM_ENVIRONMENT}"),
        ({"base_url": "ftp://host"}, "engines.oracle.base_url: 'ftp://host': it must be an address like https://host/v1"),
        (
            {"base_url": "http://10.0.0.7:8000/v1"},
            "engines.oracle.base_url: http://10.0.0.7:8000/v1: plain http to another machine shows prompts and the key; "
            "use https, or set allow_plain_http: true",
        ),
        ({"base_url": "https://user:planted@host/v1"}, f"engines.oracle.base_url: {FROM_ENVIRONMENT}"),
        ({"base_url": "https://host/v1?key=planted"}, f"engines.oracle.base_url: {FROM_ENVIRONMENT}"),
        ({"base_url": "http://127.0.0.1.evil.org/v1"}, "use https, or set allow_plain_http: true"),
        ({"kind": "vortex"}, "engines.oracle.kind: 'vortex': it must be 'transformers' or 'vllm' or 'openai'"),
        ({"batch_size": 3}, "engines.oracle.batch_size: unknown key; there are: kind, base_url, model, revision, key_env,"),
    ],
)  # fmt: skip
def test_a_study_file_with_a_mistake(tiny_file: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(changed(tiny_file, {"engines.oracle": SERVER | more}, "mistaken.yaml"))
    assert said in str(caught.value)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [{}, {"base_url": "http://localhost:8000/v1"}, {"base_url": "http://10.0.0.7/v1", "allow_plain_http": True}],
)
def test_control_study_files_without_one(tiny_file: Path, more: dict[str, Any]) -> None:
    assert (
        load_study(changed(tiny_file, {"engines.oracle": SERVER | more}, "right.yaml")).engines["oracle"].kind
        == "openai"
    )
