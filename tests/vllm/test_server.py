"""Our engine for servers against vLLM's own server, which serves the weights that run in process elsewhere."""

from __future__ import annotations

import json
import math
import re
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import (
    FORMS,
    ChooseRequest,
    Constraint,
    GenerateRequest,
    LikelihoodRequest,
    Message,
    Usage,
    paragraphs,
)
from resources.language_models.structured import json_form
from resources.language_models.token_pieces import from_bytes_alphabet
from resources.language_models.transformers_engine import TransformersEngine
from tests.vllm.conftest import SERVED, WEIGHTS, VllmServer, judgements, likelihoods
from tests.vllm.test_in_process import p_yes


@pytest.fixture(scope="module")
def engine(server: VllmServer) -> OpenAIEngine:
    return OpenAIEngine(server.url, SERVED, concurrency=16)


def test_all_that_it_can_do_is_found_out(engine: OpenAIEngine) -> None:
    assert engine.capabilities == {"generate", "choose", "log_likelihood"}
    assert engine.forms == FORMS


def test_judgements_agree(engine: OpenAIEngine, transformers: TransformersEngine) -> None:
    """The server adds the probabilities of "Yes" and " Yes"."""
    ours, theirs = engine.choose(judgements()), transformers.choose(judgements())
    assert not any(reply.refused for reply in ours)
    difference = np.abs(p_yes(ours) - p_yes(theirs))
    print(f"P(Yes): largest difference {difference.max():.1e}")
    assert difference.max() < 2e-3
    assert [one.usage.prompt_tokens for one in ours] == [other.usage.prompt_tokens for other in theirs]


def test_judgements_agree_without_a_chat_format(plain: OpenAIEngine, transformers: TransformersEngine) -> None:
    """The same model asked in plain text, which ends in `Answer:`: what follows it is " Yes", and the mass is there."""
    asked = judgements()[::4]
    ours = plain.choose(asked)
    theirs = transformers.log_likelihood(
        [LikelihoodRequest(paragraphs(each.messages), word) for each in asked for word in (" Yes", " No")]
    )
    weighed = np.array([reply.log_probability for reply in theirs]).reshape(-1, 2)
    expected = 1 / (1 + np.exp(weighed[:, 1] - weighed[:, 0]))
    difference = np.abs(p_yes(ours) - expected)
    print(f"P(Yes), no chat: largest difference {difference.max():.1e}")
    assert difference.max() < 2e-3
    assert np.exp([reply.log_probabilities for reply in ours]).sum(1).min() > 0.05


@pytest.fixture(scope="module")
def plain(server: VllmServer) -> OpenAIEngine:
    found = OpenAIEngine(server.url, SERVED, concurrency=16)
    found.chat = False
    return found


def raw_echo(server: VllmServer, text: str) -> list[float | None]:
    """The log-probabilities of a text's tokens as vLLM sends them."""
    asked = {"model": SERVED, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
    request = urllib.request.Request(  # noqa: S310 its own address
        f"{server.url}/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:  # noqa: S310
        return json.load(reply)["choices"][0]["logprobs"]["token_logprobs"]


BOUNDARIES = [
    ("Excerpt:\n", "the river Danube flows to the sea"),
    ("Excerpt:\n", "ein Fluß – die Donau – „groß“"),
    ("Excerpt:\n", "日本の川 🌊 and more"),
    ("Excerpt:\n", "🌊🌊🌊 waves"),
    ("Excerpt 🌊🌊:\n", "the river Danube flows"),
    ("Excerpt: ", "ꦲꦏ꧀ꦱꦫ script"),
    ("Fleuves d’Europe 🌊 et 日本の:\n", "the river"),
    ("Text:\n", "\ufffd\ufffd broken \ufffd"),
    ("日本", "の川"),
    ("🌊", "🌊 waves"),
]


def test_continuations_are_counted_by_tokens(engine: OpenAIEngine, server: VllmServer) -> None:
    """Whatever vLLM shows of tokens that hold parts of characters; the places come from the tokenizer's own offsets."""
    # vllm-project/vllm #34875: nothing is shown of a token that completes no character
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    replies = engine.log_likelihood([LikelihoodRequest(*each) for each in BOUNDARIES])
    for (text, continuation), reply in zip(BOUNDARIES, replies, strict=True):
        pieces = [
            from_bytes_alphabet(piece)
            for piece in tokenizer.encode(text + continuation, add_special_tokens=False).tokens
        ]
        ends = np.cumsum([len(piece or b"") for piece in pieces])
        values = raw_echo(server, text + continuation)[: len(ends)]
        right = [value for value, end in zip(values, ends, strict=True) if end > len(text.encode())]
        assert reply.tokens == len(right), (text, continuation)
        assert reply.log_probability == pytest.approx(sum(value or 0 for value in right), abs=1e-2), (
            text,
            continuation,
        )


def test_continuations_agree(engine: OpenAIEngine, transformers: TransformersEngine) -> None:
    ours, theirs = engine.log_likelihood(likelihoods()), transformers.log_likelihood(likelihoods())
    assert [one.tokens for one in ours] == [other.tokens for other in theirs]
    differences = [(a.log_probability - b.log_probability) / a.tokens for a, b in zip(ours, theirs, strict=True)]
    print(f"nats per token: largest difference {max(map(abs, differences)):.1e}")
    assert max(map(abs, differences)) < 1e-3


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
    word = max(re.findall(r"[A-Za-z]+", plain.generate(asked)[0].text), key=len)
    banned = OpenAIEngine(server.url, SERVED, request={"bad_words": [word, f" {word}"]})
    assert word not in banned.generate(asked)[0].text
