"""The transformers engine against a plain forward pass: reusing beginnings must change nothing but the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from resources.language_models.protocol import ChooseRequest, GenerateRequest, LikelihoodRequest, Message, require
from resources.language_models.transformers_engine import PADDED_TO, TransformersEngine
from tests.tiny import WORDS, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("engine"), layers=3)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(folder, dtype="float32", device="cpu", batch_size=3)
    yield engine
    engine.close()


def beginning(group: int) -> str:
    return " ".join(WORDS[group : group + 9]) + " "


def messages(group: int, number: int) -> tuple[Message, ...]:
    own = " ".join(WORDS[(number * 7 + i) % len(WORDS)] for i in range(3 + number % 4 + 20 * (number % 3)))
    return Message("system", " ".join(WORDS[:20])), Message("user", beginning(group) + own)


def plain_log_probability(engine: TransformersEngine, prompt: list[int], continuation: list[int]) -> float:
    logits = engine.model(torch.tensor([prompt + continuation])).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(continuation))


CHOICES = (WORDS[3], WORDS[5], f"{WORDS[5]} {WORDS[6]}", f"{WORDS[5]} {WORDS[7]}")


def requests() -> list[ChooseRequest]:
    return [
        ChooseRequest(messages(group, number), CHOICES, f"g{group}", shared=len(beginning(group)))
        for number in range(7)
        for group in range(3)
    ]


@torch.inference_mode()
def test_choose_equals_a_plain_forward(engine: TransformersEngine) -> None:
    for request, reply in zip(requests(), engine.choose(requests()), strict=True):
        prompt = engine.prompts.of_messages(request.messages)
        for choice, value in zip(request.choices, reply.log_probabilities, strict=True):
            assert value == pytest.approx(plain_log_probability(engine, prompt, engine.prompts.ids(choice)), abs=1e-4)


@torch.inference_mode()
def test_worked_examples_before_the_question_are_computed_once(engine: TransformersEngine) -> None:
    """They stand as turns between the instructions and the question; groups differ in the question alone."""
    system, question = messages(0, 0)
    worked = (Message("user", " ".join(WORDS[20:30])), Message("assistant", WORDS[3]))
    asked = [
        ChooseRequest((system, *worked, messages(group, number)[1]), CHOICES, f"g{group}", len(beginning(group)))
        for group in range(2)
        for number in range(3)
    ]
    replies = engine.choose(asked)
    for request, reply in zip(asked, replies, strict=True):
        prompt = engine.prompts.of_messages(request.messages)
        for choice, value in zip(request.choices, reply.log_probabilities, strict=True):
            assert value == pytest.approx(plain_log_probability(engine, prompt, engine.prompts.ids(choice)), abs=1e-4)
    first_of_the_second_group = next(r for q, r in zip(asked, replies, strict=True) if q.group == "g1")
    before = len(engine.prompts.ids(" ".join(m.content for m in (system, *worked))))
    assert first_of_the_second_group.usage.cached_tokens >= before
    # Control: of prompts with other examples the system message alone is shared.
    head = engine.prompts.of_instructions((system, question))
    assert len(head) < before


def test_answers_do_not_depend_on_order_company_or_batch_size(engine: TransformersEngine, folder: Path) -> None:
    asked = requests()
    answers = {(r.messages, r.group): a.log_probabilities for r, a in zip(asked, engine.choose(asked), strict=True)}
    backwards = [r for r in reversed(asked) if r.group != "g1"]
    for request, reply in zip(backwards, engine.choose(backwards), strict=True):
        assert reply.log_probabilities == pytest.approx(answers[request.messages, request.group], abs=1e-5)
    other = TransformersEngine(folder, dtype="float32", device="cpu", batch_size=16)
    for request, reply in zip(asked, other.choose(asked), strict=True):
        assert reply.log_probabilities == pytest.approx(answers[request.messages, request.group], abs=1e-5)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def either(request: pytest.FixtureRequest, folder: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(folder, dtype=request.param, device="cpu", batch_size=3)
    yield engine
    engine.close()


def likelihoods() -> list[LikelihoodRequest]:
    shared = " ".join(WORDS[:9]) + " "
    texts = [shared + " ".join(WORDS[i : 2 * i + 3]) + " " for i in range(14)]
    return [LikelihoodRequest(text, " ".join(WORDS[2:5]), f"g{i % 2}", len(shared)) for i, text in enumerate(texts)]


def largest_difference(engine: TransformersEngine, beside: TransformersEngine) -> float:
    """Between the replies to all requests asked together and those to some of them, the others being known already."""
    largest = 0.0
    for verb, asked in (("choose", requests()), ("log_likelihood", likelihoods())):
        together = dict(zip(asked, getattr(engine, verb)(asked), strict=True))
        parts = [[request] for request in asked] + [asked[place::step] for step in (2, 4, 5) for place in range(step)]
        for part in parts:
            for request, reply in zip(part, getattr(beside, verb)(part), strict=True):
                pairs = zip(log_probabilities(together[request]), log_probabilities(reply), strict=True)
                largest = max(largest, *(abs(one - other) for one, other in pairs))
    return largest


def log_probabilities(reply: Any) -> tuple[float, ...]:
    return getattr(reply, "log_probabilities", None) or (reply.log_probability,)


def test_an_answer_does_not_depend_on_who_of_its_group_is_asked(either: TransformersEngine) -> None:
    """To the last bit, on a CPU; also in bfloat16, where adding up in another order shows."""
    assert largest_difference(either, either) == 0


def test_another_split_of_the_work_changes_last_bits_only(either: TransformersEngine, folder: Path) -> None:
    """Control: were the split to depend on who is asked, the test above would notice in bfloat16."""
    other = TransformersEngine(folder, dtype=str(either.model.dtype)[6:], device="cpu", batch_size=3)
    other.prompts.shared_length = lambda request, prompt: len(prompt) - 1  # type: ignore[method-assign]
    found = largest_difference(either, other)
    assert found < 1e-5 if either.model.dtype == torch.float32 else 0 < found < 0.5


VERBS: dict[str, list[Any]] = {
    "choose": requests(),
    "log_likelihood": likelihoods() + likelihoods()[:7],
    "generate": [GenerateRequest(messages(0, number), max_tokens=2) for number in range(21)],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_reply_is_handed_over(engine: TransformersEngine, verb: str) -> None:
    arrived: dict[int, Any] = {}
    replies = getattr(engine, verb)(VERBS[verb], lambda i, reply: arrived.update({i: reply}))
    assert [arrived[i] for i in range(len(replies))] == replies
    assert len(arrived) == len(VERBS[verb]) == 21


@pytest.mark.parametrize("verb", VERBS)
def test_replies_are_handed_over_before_the_next_batch_is_computed(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """When the machine fails on the way, what was computed has arrived."""
    arrived: list[int] = []
    seen: list[int] = []
    extend = engine._extend
    monkeypatch.setattr(engine, "_extend", lambda *asked: seen.append(len(arrived)) or extend(*asked))
    getattr(engine, verb)(VERBS[verb], lambda i, reply: arrived.append(i))
    batches = [later - earlier for earlier, later in zip(seen, [*seen[1:], len(arrived)], strict=True)]
    assert max(batches) <= engine.batch_size
    assert sum(batches) == len(arrived) == 21


def test_shared_beginnings_are_computed_once(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [replace(request, choices=CHOICES[:2]) for request in requests() if request.group == "g0"]
    computed = []
    extend = engine._extend
    monkeypatch.setattr(
        engine, "_extend", lambda cache, ids, start: computed.append(sum(map(len, ids))) or extend(cache, ids, start)
    )
    replies = engine.choose(asked)
    whole = sum(len(engine.prompts.of_messages(request.messages)) for request in asked)
    cached = sum(reply.usage.cached_tokens for reply in replies)
    assert sum(reply.usage.prompt_tokens for reply in replies) == whole
    assert cached > whole / 2
    # Padding is computed on top; the shared part is not.
    assert sum(computed) < whole + len(replies) * PADDED_TO - cached


@torch.inference_mode()
def test_log_likelihood_equals_a_plain_forward(engine: TransformersEngine) -> None:
    asked = [
        LikelihoodRequest(" ".join(WORDS[: 5 + i]), " " + " ".join(WORDS[10 + i : 14 + i]), group="x" if i < 4 else "")
        for i in range(6)
    ]
    for request, reply in zip(asked, engine.log_likelihood(asked), strict=True):
        text, continuation = engine.prompts.of_text(request.text), engine.prompts.ids(request.continuation)
        assert reply.log_probability == pytest.approx(plain_log_probability(engine, text, continuation), abs=1e-4)
        assert reply.tokens == len(continuation)


@torch.inference_mode()
def test_generate_is_greedy_decoding(engine: TransformersEngine) -> None:
    asked = [GenerateRequest(messages(group, 1), max_tokens=6) for group in range(3)]
    for request, reply in zip(asked, engine.generate(asked), strict=True):
        ids = engine.prompts.of_messages(request.messages)
        expected = []
        for _ in range(6):
            token = int(engine.model(torch.tensor([ids + expected])).logits[0, -1].argmax())
            expected.append(token)
        assert reply.text == engine.tokenizer.decode(expected, skip_special_tokens=True)
        assert (reply.finished, reply.usage.completion_tokens) == (False, 6)


def test_sampling_is_repeatable_and_differs_by_draw(engine: TransformersEngine) -> None:
    def sample(draw: int) -> str:
        return engine.generate([GenerateRequest(messages(0, 1), max_tokens=12, temperature=1.5, draw=draw)])[0].text

    assert sample(0) == sample(0)
    assert len({sample(draw) for draw in range(4)}) > 1


def test_an_engine_that_cannot_says_so_before_anything_runs(engine: TransformersEngine) -> None:
    class OnlyWrites:
        name = "writer"
        capabilities = frozenset({"generate"})

    with pytest.raises(Exception, match=r"detection needs an engine that can choose; writer can: generate"):
        require(OnlyWrites(), "choose", "detection")  # type: ignore[arg-type]
    require(engine, "choose", "detection")
