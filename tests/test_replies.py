"""Replies in words: the answer is found whatever stands around it, nothing that they hold ends a run, and none is paid for in vain."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from interp_assets.explanations.prompts import read_reply
from interp_assets.scores.judging import max_tokens_of, read_list
from interp_assets.settings import JudgeScorer, SimulationScorer
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import Generated, GenerateRequest, Message, Usage
from resources.language_models.reply_text import Unusable, json_object, storable
from resources.language_models.structured import generate
from resources.loaded_models import LoadedModels
from tests.changed_study import changed
from tests.conftest import make_all
from tests.fake_server import Asked, Reply, answering, chat, error, only_chats
from tests.tiny import write_study

NOTHING = Usage(0, 0, 0)
SURROUNDINGS = (
    "",
    "Sure! {brackets} and }{",
    '{"other": [1, {"answer": 5}]}',
    "{'single': quotes}",
    '{"answer": ',
    "```json\n",
    '"',
    "\\",
)


def reply(text: str, finished: bool = True) -> Generated:
    return Generated(text, finished, NOTHING)


# --- the object that was asked for ---


def test_the_object_is_found_whatever_stands_around_it() -> None:
    """Brute force over what models write before, between and behind."""
    draw = random.Random(0)
    for _ in range(3000):
        value = {"answer": draw.randint(0, 9), "why": draw.choice(["", "{", "}", '"{"', "</x>", "\\", "naïve 🌊"])}
        thought = draw.choice(["", "<think>{}</think>", "{}</think>", "[THINK]{}[/THINK]"])
        text = thought.replace("{}", draw.choice(SURROUNDINGS) + draw.choice(['{"answer": 77}', ""]))
        before = draw.choice([each for each in SURROUNDINGS if not each.startswith('{"answer')])
        text += (
            before + json.dumps(value, ensure_ascii=draw.random() < 0.5) + draw.choice(["", " Done.", " {x}", "\n```"])
        )
        assert json_object(reply(text), "answer") == value, text


def old_object(text: str) -> Any:
    """As it was read before: from the first bracket to the last."""
    return json.loads(text[text.find("{") : text.rfind("}") + 1])


@pytest.mark.parametrize(
    "text", ['<think>{"answer": ..}</think>{"answer": 1}', 'I use {braces}. {"answer": 1}', '{"answer": 1} {ok}']
)
def test_control_the_first_and_last_bracket_do_not_tell(text: str) -> None:
    assert json_object(reply(text), "answer") == {"answer": 1}
    with pytest.raises(json.JSONDecodeError):
        old_object(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<think>They want {"explanation": "..."}. Riv', "no JSON object before it was cut off"),
        ('<think>They want {"explanation": "...', "no JSON object before it was cut off"),
        ("They want", "no JSON object before it was cut off"),
    ],
)
def test_what_was_thought_is_no_answer(text: str, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        read_reply(reply(text, finished=False))
    with pytest.raises(Unusable, match="no JSON object"):
        read_reply(reply("<think>{'explanation': 'x'}, {\"explanation\": \"y\"}</think> I cannot say."))


def test_of_a_reply_that_was_cut_off_what_is_there_counts() -> None:
    text = '<think>{"explanation": "a"}</think>{"explanation": "Rivers. And also'
    assert read_reply(reply(text, finished=False)) == "Rivers."


@pytest.mark.parametrize("text", ["{" * 20000, '{"a":' * 3000, '{"a": [' * 3000, "[" * 9000 + "{"])
def test_hostile_replies_are_read_in_no_time(text: str) -> None:
    began = time.monotonic()
    for finished in (True, False):
        with pytest.raises(Unusable):
            read_reply(reply(text, finished))
    assert time.monotonic() - began < 5


# --- room to think ---


def thinking(tokens: int, answer: str) -> Any:
    """A judge that thinks in the same budget, as hosted ones do."""

    def answered(asked: Asked) -> Reply:
        if asked.get("logprobs"):
            return error(400, "logprobs are not supported with reasoning models")
        if asked["max_tokens"] < tokens:
            return chat(None, "length", reasoning_content="The texts ...")
        return chat(answer)

    return only_chats(answered)


def lists(count: int, limit: int) -> list[GenerateRequest]:
    return [GenerateRequest((Message("system", "j"), Message("user", str(i))), limit) for i in range(count)]


def test_where_thinking_leaves_no_room_the_first_few_replies_say_so() -> None:
    with answering(thinking(60, '{"answers": [1, 0, 1, 0, 1]}')) as server:
        model = OpenAIEngine(server.url, "m", wait_seconds=4.0, concurrency=16)
        before, read = len(server.calls), lambda place, reply: read_list(reply, 5)
        with pytest.raises(UnusableInput) as caught:
            generate(model, lists(20, max_tokens_of(5)), read, lambda _: None, "scorers.detection.max_tokens")
        assert len(server.calls) - before == 3, "instead of 40"
        assert str(caught.value) == (
            "scorers.detection.max_tokens: the first 3 replies of m were cut off at 36 tokens before they began to answer, as "
            "happens where a model thinks first; raise scorers.detection.max_tokens, or let it think less"
        )
        answers = generate(model, lists(20, 60), read, lambda _: None, "scorers.detection.max_tokens")
        assert [answer.value for answer in answers] == [[True, False, True, False, True]] * 20


def test_one_reply_that_was_cut_off_is_one_failed_row() -> None:
    """And it is not asked for again: it would end alike."""

    def answered(asked: Asked) -> Reply:
        long = asked["messages"][-1]["content"] == "1"
        return chat(None, "length") if long and not asked.get("logprobs") else chat('{"answers": [1]}')

    done: list[int] = []
    with answering(only_chats(answered)) as server:
        model = OpenAIEngine(server.url, "m", wait_seconds=4.0)
        before = len(server.calls)
        answers = generate(model, lists(8, 36), lambda _, reply: read_list(reply, 1), done.append, "x.max_tokens")
        assert len(server.calls) - before == 8
    assert [answer.reason for answer in answers if answer.reason] == [
        "it was cut off at 36 tokens before it began to answer; raise x.max_tokens"
    ]
    assert sorted(done) == list(range(8))


def test_a_limit_that_is_set_counts_and_one_that_is_not_changes_nothing() -> None:
    for scorer in (JudgeScorer(engine="e", protocol="list"), SimulationScorer(engine="e")):
        assert "max_tokens" not in scorer.identity()
        assert scorer.model_copy(update={"max_tokens": 2000}).identity()["max_tokens"] == 2000


# --- what a table cannot hold ---

FACE = "a face \ud83d"
ODD_REPLIES = {
    # UKGovernmentBEIS/inspect_ai #3802 and #2316, simonw/llm #768
    "half a character in the answer": json.dumps({"explanation": FACE}, ensure_ascii=False),
    "half a character, escaped": '{"explanation": "a face \\ud83d"}',
    "half a character and no answer": "I think \ud83d",
    "half a character, cut off": '{"explanation": "whole. ' + FACE,
}


def test_a_reply_that_a_table_cannot_hold_is_one_failed_row(tiny_file: Path, tmp_path: Path) -> None:
    """Its row says why, the others are whole, and the reply can be read as far as that goes."""
    odd = [*ODD_REPLIES.values()]
    prompts: list[str] = []

    def answered(asked: Asked) -> Reply:
        # Behind the worked examples stands what is asked; a retry adds what was wrong.
        prompts_asked = [each["content"] for each in asked["messages"] if each["role"] == "user"]
        prompt = next((each for each in reversed(prompts_asked) if each.startswith("Excerpt 1:")), "")
        if not prompt.startswith("Excerpt 1:"):
            return chat("Yes")
        if prompt not in prompts:
            prompts.append(prompt)
        place = prompts.index(prompt)
        return chat(odd[place] if place < len(odd) else '{"explanation": "a word"}')

    with answering(only_chats(answered)) as server:
        oracle = {"kind": "openai", "base_url": server.url, "model": "m", "concurrency": 1, "wait_seconds": 5}
        changes = {"engines.oracle": oracle, "scorers": {}}
        study = load_study(changed(write_study(world_of(tiny_file, tmp_path / "world")), changes, "odd.yaml"))
        table = make_all(study, LoadedModels())["explanations"].read("explanations")
    failed = table.filter(pl.col("status") == "failed", pl.col("raw_reply").is_not_null())
    assert sorted(failed["raw_reply"]) == sorted(map(storable, odd))
    assert all("\\ud83d" in each for each in failed["raw_reply"])
    assert failed["reason"].null_count() == 0
    assert (table["status"] == "ok").sum() == len(prompts) - len(odd) > 3


def world_of(tiny_file: Path, world: Path) -> Path:
    shutil.copytree(tiny_file.parent, world, ignore=shutil.ignore_patterns("store"))
    return world / "study.yaml"


def test_control_a_table_does_not_hold_half_a_character() -> None:
    with pytest.raises(UnicodeEncodeError):
        pl.Series([FACE])
    assert pl.Series([storable(FACE), "a\0b", "\ufffe"]).to_list() == ["a face \\ud83d", "a\0b", "\ufffe"]


@pytest.mark.parametrize("said", ["gone \ud83d", "gone \0", "gone \x1b[31m"])
def test_what_a_server_says_of_an_error_is_a_line_of_text(said: str) -> None:
    def answered(asked: Asked) -> Reply:
        return error(400, said) if asked["messages"][-1]["content"] == "odd" else chat("x")

    with answering(only_chats(answered)) as server:
        (refused,) = OpenAIEngine(server.url, "m").generate([GenerateRequest((Message("user", "odd"),), 8)])
    assert refused.refused is not None
    assert refused.refused.isprintable()
    assert pl.Series([refused.refused]).to_list() == [refused.refused]


class Speaks:
    """Any engine, whose replies hold what they hold."""

    name = identity = "speaks"

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.asked: list[GenerateRequest] = []

    def generate(self, requests: Sequence[GenerateRequest], arrived: Any) -> list[Generated]:
        self.asked += requests
        replies = [reply(self.texts[i % len(self.texts)]) for i in range(len(requests))]
        for place, each in enumerate(replies):
            arrived(place, each)
        return replies


def test_whatever_engine_says_it() -> None:
    model: Any = Speaks([*ODD_REPLIES.values(), '{"explanation": "good\\u0000 one"}'])
    answers = generate(model, lists(5, 50), lambda _, each: read_reply(each), lambda _: None, "x")
    pl.Series([answer.raw_reply for answer in answers])
    assert [answer.status for answer in answers][:4] == ["failed"] * 4
    again = [message.content for request in model.asked[5:] for message in request.messages]
    assert pl.Series(again).len() > 0, "the question that quotes it can be asked by any engine"
