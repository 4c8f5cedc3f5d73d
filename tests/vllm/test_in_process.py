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
from tests.vllm.conftest import WEIGHTS, in_process, judgements, likelihoods, vllm_processes

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
    engine = in_process("bfloat16")
    yield engine
    engine.close()


def test_judgements_agree(engine: VllmEngine, transformers: TransformersEngine) -> None:
    """Two ways of adding up in bfloat16 lie this far apart; in float32 they agree, as is tested below."""
    ours, theirs = engine.choose(judgements()), transformers.choose(judgements())
    difference = np.abs(p_yes(ours) - p_yes(theirs))
    print(f"P(Yes), bfloat16: mean difference {difference.mean():.4f}, largest {difference.max():.4f}")
    assert difference.mean() < 0.02
    # How far apart depends on the processor: logits in bfloat16 lie in steps of an eighth of a nat and more.
    assert np.std(p_yes(theirs)) > difference.mean(), "control: the prompts differ by more"
    assert [one.usage.prompt_tokens for one in ours] == [other.usage.prompt_tokens for other in theirs]


def test_continuations_agree(engine: VllmEngine, transformers: TransformersEngine) -> None:
    ours, theirs = engine.log_likelihood(likelihoods()), transformers.log_likelihood(likelihoods())
    assert [one.tokens for one in ours] == [other.tokens for other in theirs]
    per_token = [
        (one.log_probability - other.log_probability) / one.tokens for one, other in zip(ours, theirs, strict=True)
    ]
    print(f"nats per token, bfloat16: largest difference {max(map(abs, per_token)):.4f}")
    assert max(map(abs, per_token)) < 0.05


def test_every_reply_is_handed_over_once(engine: VllmEngine) -> None:
    asked = [replace(request, choices=CHOICES) for request in judgements()]
    arrived: dict[int, Any] = {}
    order: list[int] = []
    replies = engine.choose(asked, lambda i, reply: (order.append(i), arrived.update({i: reply})))  # type: ignore[func-returns-value]
    assert sorted(order) == [*range(len(asked))]
    assert [arrived[i] for i in range(len(asked))] == replies
    for first, later in zip(replies, engine.choose(asked), strict=True):
        assert first.log_probabilities == pytest.approx(later.log_probabilities, abs=0.5)
        assert all(map(math.isfinite, first.log_probabilities))


def test_shared_beginnings_are_computed_once(engine: VllmEngine) -> None:
    again = engine.choose(judgements())
    assert all(0 < reply.usage.cached_tokens < reply.usage.prompt_tokens for reply in again)
    fresh = replace(judgements()[0], messages=(Message("user", "A question that nobody asked before: is it late?"),))
    assert engine.choose([fresh])[0].usage.cached_tokens == 0


ASKING = (Message("user", "Name a colour and a number."),)


CAPITAL = GenerateRequest((Message("user", "What is the capital of France?"),), 40)


def test_greedy_replies(engine: VllmEngine) -> None:
    """What is said in bfloat16 depends on the processor; in float32 it is compared below."""
    cut, whole = engine.generate([GenerateRequest(ASKING, 12), CAPITAL])
    assert (cut.finished, cut.usage.completion_tokens) == (False, 12)
    assert engine.generate([CAPITAL])[0].text == whole.text


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
    """The last test of this engine. Another model is loaded, then vLLM again, with which float32 is compared."""
    processes = vllm_processes()
    held = sum(process.memory_info().rss for process in processes)
    before = psutil.Process().memory_info().rss
    assert processes and held > 500 * MIB, "control: the model is there"
    engine.close()
    assert not [process for process in processes if process.is_running()]
    assert vllm_processes() == []
    assert psutil.Process().memory_info().rss < before + 50 * MIB
    SubjectModel(WEIGHTS, None, "bfloat16", "cpu")

    exact, reference = in_process("float32"), TransformersEngine(WEIGHTS, dtype="float32", device="cpu")
    try:
        asked = [replace(request, choices=CHOICES) for request in judgements()[::3]]
        chosen = largest(exact.choose(asked), reference.choose(asked), "log_probabilities")
        weighed = largest(
            exact.log_likelihood(likelihoods()), reference.log_likelihood(likelihoods()), "log_probability"
        )
        print(f"nats, float32: largest difference of a choice {chosen:.1e}, of a continuation {weighed:.1e}")
        assert chosen < 1e-3
        assert weighed < 1e-3
        # The same model without its chat format: `Answer:`, behind which both spellings of a choice count.
        bare = copy.copy(reference.tokenizer)
        bare.chat_template = None
        chat, exact.prompts, reference.prompts = exact.prompts, Prompts(bare), Prompts(bare)
        plain = exact.choose(asked), reference.choose(asked)
        assert largest(*plain, "log_probabilities") < 1e-3
        assert min(sum(map(math.exp, reply.log_probabilities[:2])) for reply in plain[0]) > 0.05
        exact.prompts = reference.prompts = chat
        said = exact.generate([CAPITAL])[0]
        assert said.finished and "Paris" in said.text
        assert said.text == reference.generate([CAPITAL])[0].text
        for process in vllm_processes():
            process.kill()
        with pytest.raises(NotNow, match="vLLM's process ended"):
            exact.choose(asked)
        assert vllm_processes() == []
    finally:
        exact.close()
        reference.close()
