"""An engine behind the log asks nothing twice, keeps what arrived before something failed, and gives back what it got."""

from __future__ import annotations

import hashlib
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp_assets.study import PROJECT, Study
from resources.language_models.logged import LoggedEngine, request_key
from resources.language_models.protocol import (
    ChooseRequest,
    Chosen,
    Generated,
    GenerateRequest,
    LanguageModel,
    Likelihood,
    LikelihoodRequest,
    Message,
    Usage,
    silent,
)
from resources.reply_log import ReplyLog, Spent
from tests.conftest import make_all
from tests.oracle import OracleEngine, OracleModels

SYSTEM = Message("system", "Be brief.")
FLOATS = (0.1 + 0.2, -1e-308, 5e-324, -0.0, math.inf, -math.inf, math.nan, math.pi * 1e300)
TEXTS = ("plain", "", "two\nlines\0", "naïve 語 🙂", "half a pair \ud83d", '{"not": "ours"}')


class Counting:
    """Answers by number, hands replies over backwards, and fails when told to."""

    name = "counting"
    capabilities = frozenset({"generate", "choose", "log_likelihood"})
    identity = "counting"
    retries = 0

    def __init__(self, answers: int | None = None) -> None:
        self.asked: list[Any] = []
        self.answers = answers
        "How many more requests it answers before the connection breaks."

    def answer(self, requests: Sequence[Any], arrived: Callable[[int, Any], None], reply: Callable[[int], Any]) -> Any:
        replies = {}
        for i in reversed(range(len(requests))):
            if self.answers is not None and len(self.asked) >= self.answers:
                raise ConnectionError("the server has gone away")
            self.asked.append(requests[i])
            replies[i] = reply(len(self.asked))
            arrived(i, replies[i])
        return [replies[i] for i in range(len(requests))]

    def generate(self, requests: Sequence[GenerateRequest], arrived: Any = silent) -> list[Generated]:
        return self.answer(requests, arrived, lambda n: Generated(TEXTS[n % 6], n % 2 == 0, Usage(n, n // 2, 3)))

    def choose(self, requests: Sequence[ChooseRequest], arrived: Any = silent) -> list[Chosen]:
        return self.answer(requests, arrived, lambda n: Chosen((*FLOATS, float(n)), Usage(n, n // 2, 0)))

    def log_likelihood(self, requests: Sequence[LikelihoodRequest], arrived: Any = silent) -> list[Likelihood]:
        return self.answer(requests, arrived, lambda n: Likelihood(FLOATS[n % 8], n, Usage(n, 0, 0)))

    def close(self) -> None:
        raise AssertionError("whoever loaded it closes it")


REQUESTS: dict[str, list[Any]] = {
    "generate": [GenerateRequest((SYSTEM, Message("user", str(i))), 64, 0.7, i % 2) for i in range(20)],
    "choose": [ChooseRequest((SYSTEM, Message("user", str(i))), ("Yes", "No"), f"g{i % 3}") for i in range(20)],
    "log_likelihood": [LikelihoodRequest(f"text {i}", " goes on") for i in range(20)],
}
VERBS = list(REQUESTS)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ReplyLog]:
    with ReplyLog(tmp_path / "replies.sqlite") as log:
        yield log


def not_loaded() -> LanguageModel:
    raise AssertionError("the engine was loaded")


def engine(
    log: ReplyLog, model: LanguageModel | None = None, study: str = "study", identity: Any = "id"
) -> LoggedEngine:
    return LoggedEngine((lambda: model) if model else not_loaded, identity, log, study, "counting")


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Equal to the last bit, NaN and the sign of zero included."""
    return repr([replace(r, usage=replace(r.usage, reused=False)) for r in one]) == repr(
        [replace(r, usage=replace(r.usage, reused=False)) for r in other]
    )


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_asked_twice(log: ReplyLog, verb: str) -> None:
    model = Counting()
    first = engine(log, model)
    replies = getattr(first, verb)(REQUESTS[verb])
    assert len(model.asked) == first.calls_made == 20
    assert not any(reply.usage.reused for reply in replies)

    log.close()
    second = engine(ReplyLog(log.file), study="another")
    again = getattr(second, verb)(REQUESTS[verb])
    assert same(again, replies)
    assert all(reply.usage.reused for reply in again)
    assert (second.calls_made, second.replies_reused, second.made) == (0, 20, Spent())
    assert log.spent("another") == {}
    assert log.spent("study") == {"counting": first.made}
    assert first.made.prompt_tokens == sum(range(1, 21))


@pytest.mark.parametrize("verb", VERBS)
def test_only_what_is_missing_is_asked(log: ReplyLog, verb: str) -> None:
    """Replies come in the order of the requests, and each is handed over once, those found first."""
    known = getattr(engine(log, Counting()), verb)(REQUESTS[verb][5:10])
    arrived: list[tuple[int, Any]] = []
    model = Counting()
    mixed = engine(log, model)
    replies = getattr(mixed, verb)(REQUESTS[verb], lambda i, reply: arrived.append((i, reply)))
    assert sorted(map(repr, model.asked)) == sorted(map(repr, REQUESTS[verb][:5] + REQUESTS[verb][10:]))
    assert same(replies[5:10], known)
    assert [i for i, _ in arrived[:5]] == [5, 6, 7, 8, 9]
    assert sorted(i for i, _ in arrived) == list(range(20))
    assert all(replies[i] is reply for i, reply in arrived)
    assert (mixed.calls_made, mixed.replies_reused) == (15, 5)


@pytest.mark.parametrize("verb", VERBS)
def test_equal_requests_of_one_call_are_asked_once(log: ReplyLog, verb: str) -> None:
    one, two = REQUESTS[verb][:2]
    model = Counting()
    asking = engine(log, model)
    replies = getattr(asking, verb)([one, two, one, one])
    assert len(model.asked) == 2
    assert same([replies[0]] * 2, replies[2:])
    assert [reply.usage.reused for reply in replies] == [False, False, True, True]
    assert (asking.calls_made, asking.replies_reused) == (2, 2)


@pytest.mark.parametrize("verb", VERBS)
def test_what_arrived_before_a_failure_is_kept(log: ReplyLog, verb: str) -> None:
    failing = Counting(answers=7)
    with pytest.raises(ConnectionError):
        getattr(engine(log, failing), verb)(REQUESTS[verb])
    assert log.spent("study")["counting"].calls == 7
    model = Counting()
    replies = getattr(engine(log, model), verb)(REQUESTS[verb])
    assert len(model.asked) == 13
    assert not {request_key("id", r) for r in model.asked} & {request_key("id", r) for r in failing.asked}
    assert len(replies) == 20


def test_a_failure_of_the_caller_loses_nothing(log: ReplyLog) -> None:
    """The reply is safe before anyone is told of it."""

    def interrupted(index: int, reply: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine(log, Counting()).choose(REQUESTS["choose"], interrupted)
    assert log.spent("study")["counting"].calls == 1


def test_control_an_engine_without_the_log_is_asked_again() -> None:
    model = Counting()
    for _ in range(2):
        model.choose(REQUESTS["choose"])
    assert len(model.asked) == 40


def test_a_bad_answer_is_an_answer_until_it_is_forgotten(log: ReplyLog) -> None:
    request = REQUESTS["choose"][0]
    before = engine(log, Counting()).choose([request])
    assert math.isnan(before[0].log_probabilities[6])
    assert same(engine(log).choose([request]), before)
    assert log.forget([request_key("id", request)]) == 1
    asked = engine(log, Counting())
    asked.choose([request])
    assert asked.calls_made == 1
    assert log.spent("study")["counting"].calls == 2


def test_name_and_capabilities_are_known_without_the_engine(log: ReplyLog) -> None:
    known = LoggedEngine(not_loaded, "id", log, "study", "small", frozenset({"choose"}))
    assert (known.name, known.capabilities) == ("small", {"choose"})
    model = Counting()
    unknown = LoggedEngine(lambda: model, "id", log, "study")
    assert (unknown.name, unknown.capabilities) == ("counting", Counting.capabilities)
    with pytest.raises(AssertionError, match="the engine was loaded"):
        known.choose(REQUESTS["choose"][:1])


def test_an_engine_that_was_released_is_loaded_again(log: ReplyLog) -> None:
    loaded: list[Counting] = []

    def load() -> Counting:
        loaded.append(Counting())
        return loaded[-1]

    asking = LoggedEngine(load, "id", log, "study")
    for part in (REQUESTS["choose"][:3], REQUESTS["choose"][:3], REQUESTS["choose"]):
        asking.choose(part)
    assert [len(model.asked) for model in loaded] == [3, 17]


# --- keys ---

GENERATE = GenerateRequest((SYSTEM, Message("user", "Why?")), 64, 0.5, 1)
CHOOSE = ChooseRequest((SYSTEM, Message("user", "Why?")), ("Yes", "No"), "a")
LIKELIHOOD = LikelihoodRequest("Once upon", " a time", "a")
CHANGES: list[tuple[Any, dict[str, Any]]] = [
    (GENERATE, {"messages": (SYSTEM, Message("user", "Why??"))}),
    (GENERATE, {"messages": (SYSTEM, Message("assistant", "Why?"))}),
    (GENERATE, {"messages": (SYSTEM,)}),
    (GENERATE, {"max_tokens": 65}),
    (GENERATE, {"temperature": 0.25}),
    (GENERATE, {"draw": 2}),
    (CHOOSE, {"messages": (Message("user", "Why?"),)}),
    (CHOOSE, {"choices": ("No", "Yes")}),
    (CHOOSE, {"choices": ("Yes, No",)}),
    (LIKELIHOOD, {"text": "Once"}),
    (LIKELIHOOD, {"text": "Once upon a", "continuation": " time"}),
]


@pytest.mark.parametrize(("request_", "change"), CHANGES)
def test_whatever_decides_the_reply_changes_the_key(request_: Any, change: dict[str, Any]) -> None:
    assert request_key("id", replace(request_, **change)) != request_key("id", request_)
    assert request_key("id", replace(request_)) == request_key("id", request_)


def test_the_identity_changes_the_key_and_its_order_does_not() -> None:
    one = request_key({"path": "small", "files": {"a": "1", "b": "2"}}, CHOOSE)
    assert one == request_key({"files": {"b": "2", "a": "1"}, "path": "small"}, CHOOSE)
    assert one != request_key({"files": {"b": "2", "a": "3"}, "path": "small"}, CHOOSE)


def test_what_does_not_decide_the_reply_does_not_change_the_key() -> None:
    assert request_key("id", replace(CHOOSE, group="b")) == request_key("id", CHOOSE)
    assert request_key("id", replace(LIKELIHOOD, group="", shared=4)) == request_key("id", LIKELIHOOD)
    cold = replace(GENERATE, temperature=0)
    assert request_key("id", cold) == request_key("id", replace(cold, temperature=0.0))


def test_the_key_is_the_hash_that_is_promised() -> None:
    """Another form of it would have everything asked and paid for again."""
    content = (
        '[{"code":"1"},"generate",{"draw":1,"max_tokens":64,"messages":[{"content":"Be brief.","role":"system"},'
        '{"content":"Why?","role":"user"}],"temperature":0.5}]'
    )
    assert request_key({"code": "1"}, GENERATE) == hashlib.sha256(content.encode()).digest()[:16]


def test_keys_need_neither_engine_nor_torch() -> None:
    code = "import sys, resources.language_models.logged; print({'torch', 'transformers', 'polars'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, text=True).stdout == "set()\n"


def test_neither_prompts_nor_keys_of_an_api_are_kept(log: ReplyLog, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"sk-{random.Random(0).randbytes(8).hex()}"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    prompt = "a prompt that nobody else needs to know"
    engine(log, Counting(), identity={"key": secret}).generate([GenerateRequest((Message("user", prompt),), 8)])
    log.close()
    content = b"".join(path.read_bytes() for path in log.file.parent.iterdir())
    assert b"counting" in content
    assert prompt.encode() not in content
    assert secret.encode() not in content


# --- a whole study ---


def test_a_study_made_again_elsewhere_asks_nothing(tiny: Study, tmp_path: Path) -> None:
    """With the log of another storage nothing is paid for twice, whatever else is lost."""
    oracles, made = (OracleEngine(), OracleEngine()), []
    for folder, oracle in zip(("one", "two"), oracles, strict=True):
        if made:
            (tmp_path / folder).mkdir()
            shutil.copy(tmp_path / "one" / "replies.sqlite", tmp_path / folder)
        study = tiny.model_copy(update={"storage": str(tmp_path / folder)})
        made.append(make_all(study, OracleModels(oracle)))
    first, second = made
    assert len(oracles[0].prompts) > 100
    assert oracles[1].prompts == []
    assert {name: partition.content_hash for name, partition in first.items()} == {
        name: partition.content_hash for name, partition in second.items()
    }
    assert second["explanations"].metadata["llm_calls"] == 0
    assert second["explanations"].metadata["replies_reused"] == first["explanations"].metadata["llm_calls"] > 0
    log = ReplyLog(tmp_path / "two" / "replies.sqlite")
    keys = first["scores/detection"].read("trials")["prompt_hash"].drop_nulls().unique().to_list()
    assert len(log.look_up([bytes.fromhex(key) for key in keys])) == len(keys) > 100
