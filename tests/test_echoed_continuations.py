"""Continuations by the tokens that a server gives back: for any text, in every way in which servers write tokens.

The right value is computed from the tokens' own bytes, which the server of this test knows and does not tell.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from resources.language_models.echoed import NotEchoed, read_echo
from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import LikelihoodRequest
from resources.language_models.token_pieces import from_bytes_alphabet
from tests.fake_server import Answer, Asked, Reply, answering, chat

LETTERS = "abc  \n.,'äß–’日本の川🌊🙂ꦲꦏ\ufffdé\u0301<s>123"
LEARNT_FROM = "the rivers of the north – ‘Fluß’ – 日本の川 🌊 and the sea's 日本 123 the the 🌊🌊 ein Fluß – die Donau "
BOS = "<|begin_of_text|>"


def byte_level() -> Tokenizer:
    """Merges that cross characters: a space and part of a dash, two thirds of a character."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([LEARNT_FROM] * 4, trainer)
    return tokenizer


TOKENIZER = byte_level()


def log_probability(ids: list[int], place: int) -> float:
    """A fixed one for each token, which its number and place decide."""
    return -(1 + (ids[place] * 7 + place * 3) % 11)


def each_by_itself(ids: list[int]) -> list[str]:
    return [TOKENIZER.decode([token]) for token in ids]


def when_complete(ids: list[int]) -> list[str]:
    """Nothing, until a token completes what is not whole characters; vLLM since 2025 (vllm-project/vllm #34875)."""
    shown, waiting = [], list[int]()
    for token in ids:
        waiting.append(token)
        text = TOKENIZER.decode(waiting)
        shown.append("" if text.endswith("\ufffd") else text)
        waiting = waiting if text.endswith("\ufffd") else []
    return shown


def first_by_itself(ids: list[int]) -> list[str]:
    """As vLLM 0.32: the first token stands for itself, and what comes after it does not know of it."""
    return [TOKENIZER.decode(ids[:1]), *when_complete(ids[1:])] if ids else []


def pieces(ids: list[int]) -> list[str]:
    # vllm-project/vllm #16838
    return [TOKENIZER.id_to_token(token) for token in ids]


STYLES: list[Callable[[list[int]], list[str]]] = [each_by_itself, when_complete, first_by_itself, pieces]


def echoing(style: Callable[[list[int]], list[str]], bos: bool) -> Answer:
    def answer(path: str, asked: Asked) -> Reply:
        if path == "chat/completions":
            return chat("Yes")
        ids = TOKENIZER.encode(asked["prompt"]).ids
        values: list[float | None] = [log_probability(ids, place) for place in range(len(ids))]
        tokens = [BOS, *style(ids)] if bos else style(ids)
        values = [None, *values] if bos else [None, *values[1:]]
        offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens) + 1)]
        told = {"tokens": [*tokens, " new"], "token_logprobs": [*values, -0.5], "text_offset": offsets}
        return 200, {"choices": [{"text": asked["prompt"] + " new", "finish_reason": "length", "logprobs": told}]}

    return answer


def right(text: str, continuation: str) -> tuple[float, int]:
    """By the bytes of each token: those that end behind the text."""
    ids = TOKENIZER.encode(text + continuation).ids
    ends, end = [], 0
    for token in ids:
        end += len(from_bytes_alphabet(TOKENIZER.id_to_token(token)) or b"")
        ends.append(end)
    mine = [place for place, end in enumerate(ends) if end > len(text.encode())]
    return sum(log_probability(ids, place) for place in mine), len(mine)


def texts(count: int, seed: int) -> Iterator[LikelihoodRequest]:
    draw = random.Random(seed)
    for _ in range(count):
        whole = "".join(draw.choice(LETTERS) for _ in range(draw.randint(4, 40)))
        boundary = draw.randint(3, len(whole) - 1)
        yield LikelihoodRequest(whole[:boundary], whole[boundary:])


KNOWN = [
    LikelihoodRequest("Excerpt:\n", "the river Danube"),
    LikelihoodRequest("Excerpt:\n", "日本の川 🌊 and more"),
    LikelihoodRequest("Excerpt: ", "– and"),
    LikelihoodRequest("🌊🌊", "🌊🌊 waves"),
    LikelihoodRequest("日", "本"),
    LikelihoodRequest("Les fleuves d’Europe :\n", "the river"),
]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_continuations_are_counted_by_tokens(style: Callable[[list[int]], list[str]], bos: bool) -> None:
    asked = [*KNOWN, *texts(150, seed=1)]
    with answering(echoing(style, bos)) as server:
        model = OpenAIEngine(server.url, "m", wait_seconds=5.0, concurrency=4)
        assert model.before == int(bos)
        before = len(server.calls)
        replies = model.log_likelihood(asked)
        calls = len(server.calls) - before
    told = [each for each in zip(asked, replies, strict=True) if each[1].refused is None]
    for request, reply in told:
        assert (reply.log_probability, reply.tokens) == right(request.text, request.continuation), request
    assert len(told) > 0.97 * len(asked), "where nothing tells, that is said; and hardly ever"
    assert not any(reply.refused for reply in replies[:3])
    assert calls < 1.2 * len(asked), "one call each, but where the boundary lies among parts of characters"
    if style is pieces:
        assert calls == len(asked) == len(told)


def by_characters(tokens: list[str], values: list[float | None], text: str, whole: str) -> float:
    """As it was done before: the offsets of what the tokens show, put together."""
    before = max(0, "".join(tokens).find(whole))
    total, at = 0.0, 0
    for token, value in zip(tokens, values, strict=True):
        if at + len(token) - before > len(text) and at - before < len(whole):
            total += value or 0.0
        at += len(token)
    return total


@pytest.mark.parametrize("style", [each_by_itself, when_complete, first_by_itself])
def test_control_characters_do_not_tell(style: Callable[[list[int]], list[str]]) -> None:
    wrong = 0
    for request in texts(200, seed=2):
        whole = request.text + request.continuation
        ids = TOKENIZER.encode(whole).ids
        values: list[float | None] = [log_probability(ids, place) for place in range(len(ids))]
        was = by_characters([*style(ids), " new"], [*values, -0.5], request.text, whole)
        wrong += was != right(request.text, request.continuation)[0]
    assert wrong > 20


def body(tokens: list[str]) -> Any:
    told = {"tokens": [*tokens, "!"], "token_logprobs": [None, *[-1.0] * len(tokens)]}
    return {"choices": [{"logprobs": told}]}


@pytest.mark.parametrize(
    ("tokens", "before"),
    [
        # vllm-project/vllm #5334: byte fallback; single pieces decoded without their space, with a piece that shows nothing
        (["<s>", "▁The", "▁", "<0xF0>", "<0x9F>", "<0x8C>", "<0x8A>", "▁wave"], 1),
        (["The", "", "\ufffd", "\ufffd", "\ufffd", "\ufffd", "wave"], 0),
        (["The", " ", "\ufffd", "\ufffd", "\ufffd", "\ufffd", " wave"], 0),
        (["<s>", "", "The", " ", "", "", "", "🌊", " wave"], 1),
    ],
)
def test_vocabularies_that_fall_back_to_bytes(tokens: list[str], before: int) -> None:
    echo = read_echo(body(tokens), "The ", "🌊 wave", before)
    assert echo.first <= len(tokens) - 5 <= echo.last
    assert echo.last - echo.first <= 1, "and where it is not one place, the text's own tokens are asked for"


def test_text_that_is_not_given_back_is_noticed() -> None:
    for tokens in (["The", " river"], ["The", " ", "🌊", " waves"], []):
        with pytest.raises(NotEchoed, match=r"it does not give the prompt back|none of the prompt's tokens"):
            read_echo(body(tokens), "The ", "🌊 wave", 0)


def test_long_runs_take_no_time() -> None:
    whole = "ꦲꦏ🌊" * 30
    began = time.monotonic()
    for shown in ("\ufffd", ""):
        read_echo(body([shown] * (len(whole.encode()) - 30)), whole[:45], whole[45:], 0)
    assert time.monotonic() - began < 3
