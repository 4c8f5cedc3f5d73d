"""vLLM in process against transformers with the same weights: the same requests, the same meaning of replies."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

from resources.errors import NotNow
from resources.language_models.prompts import Prompts
from resources.language_models.protocol import ChooseRequest, Constraint, GenerateRequest, LikelihoodRequest, Message
from resources.language_models.structured import json_form
from resources.language_models.transformers_engine import TransformersEngine
from resources.language_models.vllm_engine import VllmEngine
from resources.subject_model import SubjectModel
from tests.vllm.conftest import DTYPE, WEIGHTS, in_process, judgements, likelihoods, vllm_processes

MIB = 2**20
CHOICES = ("Yes", "No", "Yes, of course", "Yes, it is", "Notwithstanding")
"Of one token and of several, likely and not."


def p_yes(replies: list[Any]) -> np.ndarray:
    pairs = np.array([reply.log_probabilities[:2] for reply in replies])
    return 1 / (1 + np.exp(pairs[:, 1] - pairs[:, 0]))


def largest(ours: list[Any], theirs: list[Any], of: str) -> float:
    """Difference between two engines, in nats."""
    pairs = [(getattr(one, of), getattr(other, of)) for one, other in zip(ours, theirs, strict=True)]
    return float(np.abs(np.array([one for one, _ in pairs]) - np.array([other for _, other in pairs])).max())


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    engine = in_process(DTYPE)
    yield engine
    engine.close()


def test_judgements_agree(engine: VllmEngine, transformers: TransformersEngine) -> None:
    ours, theirs = engine.choose(judgements()), transformers.choose(judgements())
    difference = np.abs(p_yes(ours) - p_yes(theirs))
    print(f"P(Yes): largest difference {difference.max():.1e}")
    assert difference.max() < 1e-3
    assert np.std(p_yes(theirs)) > 10 * difference.max(), "control: the prompts differ by more"
    assert [one.usage.prompt_tokens for one in ours] == [other.usage.prompt_tokens for other in theirs]


def test_judgements_agree_without_a_chat_format(engine: VllmEngine, transformers: TransformersEngine) -> None:
    """`Answer:`, behind which both spellings of a choice count."""
    bare = copy.copy(transformers.tokenizer)
    bare.chat_template = None
    chats = engine.prompts, transformers.prompts
    engine.prompts = transformers.prompts = Prompts(bare)
    try:
        plain = engine.choose(judgements()), transformers.choose(judgements())
    finally:
        engine.prompts, transformers.prompts = chats
    assert largest(*plain, "log_probabilities") < 1e-3
    assert min(sum(map(math.exp, reply.log_probabilities[:2])) for reply in plain[0]) > 0.05


def test_continuations_agree(engine: VllmEngine, transformers: TransformersEngine) -> None:
    ours, theirs = engine.log_likelihood(likelihoods()), transformers.log_likelihood(likelihoods())
    assert [one.tokens for one in ours] == [other.tokens for other in theirs]
    difference = largest(ours, theirs, "log_probability")
    print(f"nats: largest difference of a continuation {difference:.1e}")
    assert difference < 1e-3


def test_choices_of_several_tokens_agree(engine: VllmEngine, transformers: TransformersEngine) -> None:
    asked = [replace(request, choices=CHOICES) for request in judgements()[::3]]
    assert largest(engine.choose(asked), transformers.choose(asked), "log_probabilities") < 1e-3


def test_every_reply_is_handed_over_once(engine: VllmEngine) -> None:
    asked = [replace(request, choices=CHOICES) for request in judgements()]
    arrived: dict[int, Any] = {}
    order: list[int] = []
    replies = engine.choose(asked, lambda i, reply: (order.append(i), arrived.update({i: reply})))  # type: ignore[func-returns-value]
    assert sorted(order) == [*range(len(asked))]
    assert [arrived[i] for i in range(len(asked))] == replies
    for first, later in zip(replies, engine.choose(asked), strict=True):
        assert first.log_probabilities == pytest.approx(later.log_probabilities, abs=1e-3)
        assert all(map(math.isfinite, first.log_probabilities))


def test_shared_beginnings_are_computed_once(engine: VllmEngine) -> None:
    again = engine.choose(judgements())
    assert all(0 < reply.usage.cached_tokens < reply.usage.prompt_tokens for reply in again)
    fresh = replace(judgements()[0], messages=(Message("user", "A question that nobody asked before: is it late?"),))
    assert engine.choose([fresh])[0].usage.cached_tokens == 0


ASKING = (Message("user", "Name a colour and a number."),)


CAPITAL = GenerateRequest((Message("user", "What is the capital of France?"),), 40)


def test_greedy_replies(engine: VllmEngine, transformers: TransformersEngine) -> None:
    cut, whole = engine.generate([GenerateRequest(ASKING, 12), CAPITAL])
    assert (cut.finished, cut.usage.completion_tokens) == (False, 12)
    assert whole.finished and "Paris" in whole.text
    assert transformers.generate([CAPITAL])[0].text == whole.text


def test_draws_differ_and_are_repeatable(engine: VllmEngine) -> None:
    asked = [GenerateRequest(ASKING, 16, temperature=1.0, draw=draw) for draw in range(4)]
    texts = [reply.text for reply in engine.generate(asked)]
    assert len(set(texts)) == 4
    assert [reply.text for reply in engine.generate(asked[2:])] == texts[2:]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_are_held_to_forms(engine: VllmEngine, temperature: float) -> None:
    schema = json_form({"colour": {"type": "string", "maxLength": 12}, "number": {"type": "integer", "maximum": 9999}})
    forms = [schema, Constraint("regex", "[xyz]{5}"), Constraint("choice", ("the first", "the second"))]
    asked = [GenerateRequest(ASKING, 48, temperature, constraint=form) for form in forms]
    (by_schema, by_regex, by_choice) = engine.generate(asked)
    found = json.loads(by_schema.text)
    assert (isinstance(found["colour"], str), isinstance(found["number"], int)) == (True, True)
    assert len(by_regex.text) == 5 and set(by_regex.text) <= set("xyz")
    assert by_choice.text in ("the first", "the second")
    assert by_choice.finished


def test_a_prompt_that_is_too_long_is_refused_alone(engine: VllmEngine) -> None:
    long = "again and " * 700
    one, other = engine.choose([ChooseRequest((Message("user", long),), ("Yes", "No")), judgements()[0]])
    assert one.refused is not None and "maximum context length is 1024 tokens" in one.refused
    assert one.log_probabilities == (-math.inf, -math.inf)
    assert other.refused is None
    (likelihood,) = engine.log_likelihood([LikelihoodRequest(long, "again")])
    wrong = GenerateRequest(ASKING, 8, constraint=Constraint("regex", "[xyz"))
    generated = engine.generate([GenerateRequest((Message("user", long),), 8), wrong])
    assert all(reply.refused for reply in (likelihood, *generated))


def test_close_leaves_nothing_behind_and_a_call_may_follow(
    engine: VllmEngine, transformers: TransformersEngine
) -> None:
    """The last test of this engine. Another model is loaded, then vLLM again, whose processes are then killed."""
    processes = vllm_processes()
    held = sum(process.memory_info().rss for process in processes)
    before = psutil.Process().memory_info().rss
    assert processes and held > 500 * MIB, "control: the model is there"
    engine.close()
    assert not [process for process in processes if process.is_running()]
    assert vllm_processes() == []
    assert psutil.Process().memory_info().rss < before + 50 * MIB
    SubjectModel(WEIGHTS, None, DTYPE, "cpu")
    asked = judgements()[:2]
    assert largest(engine.choose(asked), transformers.choose(asked), "log_probabilities") < 1e-3
    for process in vllm_processes():
        process.kill()
    with pytest.raises(NotNow, match="vLLM's process ended"):
        engine.choose(judgements())
    assert vllm_processes() == []
