"""Our engine for servers against vLLM's own server, which serves the weights that run in process elsewhere."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import FORMS, ChooseRequest, Constraint, GenerateRequest, Message, Usage
from resources.language_models.structured import json_form
from resources.language_models.transformers_engine import TransformersEngine
from tests.vllm.conftest import SERVED, VllmServer, judgements, likelihoods
from tests.vllm.test_in_process import p_yes


@pytest.fixture(scope="module")
def engine(server: VllmServer) -> OpenAIEngine:
    return OpenAIEngine(server.url, SERVED, concurrency=16)


def test_all_that_it_can_do_is_found_out(engine: OpenAIEngine) -> None:
    assert engine.capabilities == {"generate", "choose", "log_likelihood"}
    assert engine.forms == FORMS


def test_judgements_agree(engine: OpenAIEngine, transformers: TransformersEngine) -> None:
    """The server adds the probabilities of "Yes" and " Yes", the others ask for the one token."""
    ours, theirs = engine.choose(judgements()), transformers.choose(judgements())
    assert not any(reply.refused for reply in ours)
    difference = np.abs(p_yes(ours) - p_yes(theirs))
    print(f"P(Yes), bfloat16: mean difference {difference.mean():.4f}, largest {difference.max():.4f}")
    assert difference.mean() < 0.02
    assert [one.usage.prompt_tokens for one in ours] == [other.usage.prompt_tokens for other in theirs]


def test_continuations_agree(engine: OpenAIEngine, transformers: TransformersEngine) -> None:
    """Not as closely: the server puts no BOS token before the text, as this model's tokenizer has it."""
    ours, theirs = engine.log_likelihood(likelihoods()), transformers.log_likelihood(likelihoods())
    assert [one.tokens for one in ours] == [other.tokens for other in theirs]
    differences = [(a.log_probability - b.log_probability) / a.tokens for a, b in zip(ours, theirs, strict=True)]
    print(f"nats per token, bfloat16: largest difference {max(map(abs, differences)):.4f}")
    assert max(map(abs, differences)) < 0.25


def test_usage_is_what_the_server_counts(engine: OpenAIEngine, server: VllmServer) -> None:
    before = server.counters()
    usages: list[Usage] = [reply.usage for reply in engine.choose(judgements())]
    usages += [reply.usage for reply in engine.generate([GenerateRequest(ASKING, 9, 1.0, draw) for draw in range(4)])]
    usages += [reply.usage for reply in engine.log_likelihood(likelihoods())]
    told = {name: value - before.get(name, 0.0) for name, value in server.counters().items()}
    assert sum(usage.prompt_tokens for usage in usages) == told["prompt_tokens_total"] > 1000
    assert sum(usage.completion_tokens for usage in usages) == told["generation_tokens_total"] > 40
    cached = sum(usage.cached_tokens for usage in usages)
    assert cached == told["prefix_cache_hits_total"] > 1000


ASKING = (Message("user", "Name a colour and a number."),)


def test_replies_are_held_to_forms(engine: OpenAIEngine) -> None:
    schema = json_form({"colour": {"type": "string", "maxLength": 12}, "number": {"type": "integer", "maximum": 9999}})
    forms = [schema, Constraint("regex", "[xyz]{5}"), Constraint("choice", ("the first", "the second"))]
    asked = [GenerateRequest(ASKING, 64, 1.0, constraint=form) for form in forms]
    by_schema, by_regex, by_choice = (reply.text for reply in engine.generate(asked))
    assert set(json.loads(by_schema)) == {"colour", "number"}
    assert len(by_regex) == 5 and set(by_regex) <= set("xyz")
    assert by_choice in ("the first", "the second")
    free = engine.generate([replace(request, constraint=None) for request in asked])
    assert not {by_regex, by_choice} & {reply.text for reply in free}, "control: nobody answers so by himself"


def test_draws_differ_and_are_repeatable(engine: OpenAIEngine) -> None:
    asked = [GenerateRequest(ASKING, 16, temperature=1.0, draw=draw) for draw in range(4)]
    texts = [reply.text for reply in engine.generate(asked)]
    assert len(set(texts)) == 4
    assert [reply.text for reply in engine.generate(asked[2:])] == texts[2:]


def test_a_prompt_that_is_too_long_is_refused_alone(engine: OpenAIEngine) -> None:
    long = ChooseRequest((Message("user", "again and " * 700),), ("Yes", "No"))
    one, other = engine.choose([long, judgements()[0]])
    assert one.refused is not None and "maximum context length is 1024 tokens" in one.refused
    assert one.log_probabilities == (-math.inf, -math.inf)
    assert other.refused is None


def test_further_fields_reach_the_server(server: VllmServer) -> None:
    plain = OpenAIEngine(server.url, SERVED)
    asked = [GenerateRequest((Message("user", "What is the capital of France?"),), 24)]
    # What it says in bfloat16 depends on the processor.
    word = max(re.findall(r"[A-Za-z]+", plain.generate(asked)[0].text), key=len)
    banned = OpenAIEngine(server.url, SERVED, request={"bad_words": [word, f" {word}"]})
    assert word not in banned.generate(asked)[0].text
