"""Servers as they are: each shape of reply and refusal that was reported for one, replayed by a server of our own making."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import pytest

from interp_assets.explanations.prompts import read_reply
from interp_assets.scores.judging import probability_of_yes
from resources.errors import NotNow, UnusableInput
from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.openai_replies import likeliest
from resources.language_models.protocol import (
    ChooseRequest,
    Chosen,
    GenerateRequest,
    LikelihoodRequest,
    Message,
    Usage,
    require,
)
from resources.language_models.structured import choose
from tests.fake_server import Answer, Asked, Reply, answering, chat, error, first_token, only_chats

ASKED = (Message("system", "Judge."), Message("user", "Is it?"))
GOOD = '{"explanation": "names of rivers"}'
BOTH = [("Yes", -0.1), ("No", -2.4)]


def engine(url: str, **settings: Any) -> OpenAIEngine:
    return OpenAIEngine(url, **({"model": "m", "wait_seconds": 4.0, "concurrency": 4} | settings))


def yes_no(model: OpenAIEngine) -> tuple[float, ...]:
    return model.choose([ChooseRequest(ASKED, ("Yes", "No"))])[0].log_probabilities


# --- what is refused is put otherwise ---


def reasoning_model(asked: Asked) -> Reply:
    # IBM/chuk-llm #3, decolua/9router #560: each refusal shows only one of the fields that are not taken
    if "max_tokens" in asked:
        return error(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    if asked.get("temperature", 1) != 1:
        said = "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported."
        return error(400, said, param="temperature", code="unsupported_value")
    if "top_p" in asked:
        return error(400, "Unsupported parameter: 'top_p' is not supported with this model.", param="top_p")
    if asked.get("logprobs"):
        return error(403, "You are not allowed to request logprobs from this model")
    if asked["max_completion_tokens"] < 40:
        return error(400, "Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens.")  # fmt: skip
    return chat(GOOD)


def test_a_model_that_reasons_generates_and_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    with answering(only_chats(reasoning_model)) as server:
        model = engine(server.url)
        assert model.capabilities == {"generate"}
        assert model.lacks["choose"].startswith("the server says 403: You are not allowed to request logprobs")
        assert "note " in capfd.readouterr().err
        before = len(server.calls)
        cold, drawn, short = model.generate(
            [GenerateRequest(ASKED, 100), GenerateRequest(ASKED, 100, 1.0), GenerateRequest(ASKED, 20)]
        )
        assert (cold.text, drawn.text) == (GOOD, GOOD)
        assert (short.text, short.finished, short.refused) == ("", False, None), "cut off, however the server says it"
        after = [asked for _, asked in server.calls[before:]]
        assert len(after) == 4, "a field that only this call has is learnt then; the others are remembered"
        assert not any({"max_tokens", "temperature"} & set(asked) for asked in after)
        model.generate([GenerateRequest(ASKED, 100, 1.0, draw) for draw in range(3)])
        assert len(server.calls) == before + 7, "no refusal a second time"
        with pytest.raises(UnusableInput, match=r"m can: generate \(choose: the server says 403: You are not allowed"):
            require(model, "choose", "scorers.detection.engine")
        assert "note " not in capfd.readouterr().err, "said once"


def test_control_a_field_is_left_out_only_where_that_helps() -> None:
    """A refusal that quotes a prompt may name any field."""

    def answer(asked: Asked) -> Reply:
        if "poison" in asked["messages"][-1]["content"]:
            return error(400, "content filtered: the temperature of the seed's top_p and max_tokens at least 17")
        return chat(GOOD)

    with answering(only_chats(answer)) as server:
        model = engine(server.url)
        good, bad = model.generate(
            [GenerateRequest(ASKED, 8, 1.0), GenerateRequest((Message("user", "poison"),), 8, 1.0)]
        )
        assert good.text == GOOD
        assert bad.refused is not None and "content filtered" in bad.refused
        model.generate([GenerateRequest(ASKED, 8, 1.0)])
        assert {"temperature", "seed", "top_p"} <= set(server.calls[-1][1])
        assert server.calls[-1][1]["max_tokens"] == 8


def strict(asked: Asked) -> Reply:
    """Takes no field that it does not know, as Mistral's does (mistralai/platform-docs-public #7)."""
    extra = next((field for field in ("seed", "logprobs", "structured_outputs") if asked.get(field)), None)
    if extra is not None:
        told = {"type": "extra_forbidden", "loc": ["body", extra], "msg": "Extra inputs are not permitted", "input": 5}
        return 422, {"detail": [told]}
    return chat([{"type": "thinking", "thinking": []}, {"type": "text", "text": GOOD}])


def test_a_server_that_takes_no_unknown_field() -> None:
    with answering(only_chats(strict)) as server:
        model = engine(server.url)
        assert model.capabilities == {"generate"}
        assert "Extra inputs are not permitted" in model.lacks["choose"]
        replies = model.generate([GenerateRequest(ASKED, 50, 1.0, draw) for draw in range(3)])
    assert [(reply.text, reply.refused) for reply in replies] == [(GOOD, None)] * 3
    assert model.accepted.left_out == {"seed"}


def test_a_prompt_that_is_moderated_is_refused_alone() -> None:
    """OpenRouter documents 403 for it, which elsewhere means that nothing is allowed."""

    def answer(asked: Asked) -> Reply:
        if asked["messages"][-1]["content"] == "flagged":
            return 403, {
                "error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"}
            }
        return chat(GOOD)

    with answering(only_chats(answer)) as server:
        asked = [GenerateRequest((Message("user", text),), 50) for text in ("a", "flagged", "b")]
        replies = engine(server.url).generate(asked)
    assert [reply.refused is None for reply in replies] == [True, False, True]


def least(asked: Asked) -> Reply:
    # vectorize-io/hindsight #58: a router passes on what its provider said
    if asked["max_tokens"] < 16:
        raw = '{"error": {"message": "Invalid \'max_output_tokens\': integer below minimum value. Expected a value >= 16, but got 1 instead."}}'
        return error(400, "Provider returned error", metadata={"raw": raw, "provider_name": "Azure"})
    return chat("Yes", listed=BOTH) if asked.get("logprobs") else chat(GOOD)


def capped(most: int, said: str) -> Any:
    def answer(asked: Asked) -> Reply:
        if asked.get("top_logprobs", 0) > most:
            return error(400, said)
        return chat("Yes", listed=BOTH[: asked["top_logprobs"]]) if asked.get("logprobs") else chat(GOOD)

    return answer


@pytest.mark.parametrize(
    ("answer", "tokens", "top"),
    [
        (least, 16, 20),
        # vllm-project/vllm #5299
        (capped(5, "top_logprobs: Input should be less than or equal to 5"), 1, 5),
        (capped(8, "Requested logprobs of 20, which is greater than max allowed: 8"), 1, 8),
        (capped(3, "logprobs out of range"), 1, None),
    ],
)
def test_limits_are_met(answer: Any, tokens: int, top: int | None) -> None:
    with answering(only_chats(answer)) as server:
        model = engine(server.url)
        assert model.accepted.least_tokens == tokens
        if top is None:
            assert "choose" not in model.capabilities
            return
        assert yes_no(model) == pytest.approx((-0.1, -2.4))
        assert (server.calls[-1][1]["top_logprobs"], server.calls[-1][1]["max_tokens"]) == (top, tokens)


def test_control_a_context_that_is_too_short_is_no_least_number_of_tokens() -> None:
    def answer(asked: Asked) -> Reply:
        if len(asked["messages"][-1]["content"]) > 1000:
            return error(
                400, "max_tokens must be at least 1, got -160: the context has 1024, your prompt at least 1184"
            )
        return chat(GOOD)

    with answering(only_chats(answer)) as server:
        model = engine(server.url)
        (reply,) = model.generate([GenerateRequest((Message("user", "x" * 1001),), 8)])
        assert reply.refused is not None
        assert model.accepted.least_tokens == 1


# --- choices ---


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        # vllm-project/vllm #16838
        ([("ĠYes", -0.1), ("ĠNo", -2.4)], None),
        ([("▁Yes", -0.1), ("▁No", -2.4)], None),
        ([(" Yes", -0.1), ("No", -2.4)], None),
        ([("<think>", -1e-6), ("Okay", -15.0)], "lists neither with a probability that counts: '<think>', 'Okay'"),
        ([("<|channel|>", -1e-4), ("Yes", -12.0), ("No", -13.0)], "lists neither with a probability that counts"),
        ([("token_id:9642", -0.1), ("token_id:2822", -2.4)], "names tokens by their ids"),
        ([("yes", -0.1), ("no", -2.4)], "lists neither with a probability that counts: 'yes', 'no'"),
        ([(" ", -0.1), ("\n", -2.4), ("Yes", -9.0)], "lists neither with a probability that counts"),
        ([("Yes", -0.1), ("yes", -2.4)], "lists Yes alone with a probability that counts"),
        ([], "it lists no likeliest tokens"),
    ],
)
def test_choices_are_believed_where_both_are_seen(listed: list[tuple[str, float]], why: str | None) -> None:
    with answering(only_chats(lambda asked: chat("Yes", listed=listed if asked.get("logprobs") else None))) as server:
        model = engine(server.url)
        if why is None:
            assert yes_no(model) == pytest.approx((-0.1, -2.4))
        else:
            assert model.capabilities == {"generate"}
            assert why in model.lacks["choose"]
            assert len(server.calls) < 14, "and no trial was paid for to find that out"


def test_a_model_that_is_sure_lists_each_answer_to_its_own_question() -> None:
    def answer(asked: Asked) -> Reply:
        wet = "water" in asked["messages"][-1]["content"]
        return chat("Yes", listed=[("Yes" if wet else "No", -1e-6), ("Maybe", -14.0)])

    with answering(only_chats(answer)) as server:
        assert "choose" in engine(server.url).capabilities


def body_of(listed: Sequence[tuple[str, float]]) -> Any:
    return chat("Yes", listed=listed)[1]


def test_what_is_not_listed_is_bounded() -> None:
    """By the least that is listed, and by all that is not listed together; brute force over a whole distribution."""
    tail = [(f"t{i}", math.log(0.02 / (i + 3))) for i in range(40)]
    whole = dict([("Yes", math.log(0.9)), *tail])
    whole["No"] = math.log(1 - math.fsum(map(math.exp, whole.values())))
    assert whole["No"] > -10
    ranked = sorted(whole.items(), key=lambda each: -each[1])
    for top in (1, 2, 5, 8, 20):
        yes, no = likeliest(body_of(ranked[:top])).log_probabilities(("Yes", "No"))
        assert yes == pytest.approx(whole["Yes"])
        assert whole["No"] <= no + 1e-9, "never less than it can have"
        certain = 1 / (1 + math.exp(whole["No"] - whole["Yes"]))
        assert 0.5 <= probability_of_yes(Chosen((yes, no), Usage(0, 0, 0))) <= certain + 1e-9 < 1.0
    old = probability_of_yes(Chosen((whole["Yes"], -math.inf), Usage(0, 0, 0)))
    assert old == 1.0, "control: minus infinity made certainty of it"


def test_the_token_that_was_drawn_is_no_bound() -> None:
    """vLLM lists it in place of the last of the likeliest, however improbable it is."""
    two = likeliest(body_of([("zebra", -18.0), ("Yes", -0.2)]))
    assert two.bound == pytest.approx(math.log(1 - math.exp(-0.2)), abs=1e-3)
    assert likeliest(body_of([("zebra", -18.0), ("Yes", -1.0), ("Sure", -3.0)])).bound == -3.0


@pytest.mark.parametrize("logs", [(-12.0, -13.0), (-math.inf, -math.inf)])
def test_next_to_no_probability_is_no_answer(logs: tuple[float, float]) -> None:
    """For every engine: the rule stands where all that choose are read."""

    class Model:
        name = identity = "m"
        asked = 0

        def choose(self, requests: Sequence[ChooseRequest], arrived: Any) -> list[Chosen]:
            self.asked += len(requests)
            replies = [Chosen(logs, Usage(1, 0, 0)) for _ in requests]
            for place, reply in enumerate(replies):
                arrived(place, reply)
            return replies

    model: Any = Model()
    (answer,) = choose(
        model, [ChooseRequest(ASKED, ("Yes", "No"))], lambda _, reply: probability_of_yes(reply), lambda _: None
    )
    assert (answer.value, answer.status, model.asked) == (None, "failed", 2)
    assert answer.reason is not None and answer.reason.startswith("the engine gave Yes, No next to no probability")


# --- errors ---


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        # Aider-AI/aider #3550
        ((200, {"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429}}), "429: Rate limit exceeded"),
        ((200, {"error": {"message": "Insufficient credits. Add more.", "code": 402}}), "402: Insufficient credits"),
        # langchain-ai/langchainjs #1929
        (
            (429, {"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": "insufficient_quota"}}),
            "429: You exceeded your current quota.",
        ),
        ((429, {"error": {"message": "wait", "code": "billing_hard_limit_reached"}}), "429: wait"),
        ((200, {"error": {"message": "No auth credentials found", "code": 401}}), "401: No auth credentials found"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_told_at_once(reply: Reply, said: str) -> None:
    with answering(lambda path, asked: reply) as server:
        began = time.monotonic()
        with pytest.raises(NotNow, match=f"the server says {said}"):
            engine(server.url, wait_seconds=30.0)
        assert time.monotonic() - began < 3
        assert len(server.calls) <= 2


@pytest.mark.parametrize(
    "reply",
    [
        (429, {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}),
        (200, {"error": {"message": "Rate limit exceeded: 20 per minute", "code": 429}}),
        # RooCodeInc/Roo-Code #3883: a quota by the minute passes, whatever it is called
        (429, {"error": {"message": "You exceeded your current quota, please check your plan and billing details.", "code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "26s"}]}}),
        (200, {"error": {"message": "Upstream overloaded", "code": 503}}),
        (200, {"error": "something broke"}),
        (200, {"choices": None}),
        # genkit-ai/genkit #6259
        (200, {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "gone"}, "message": {"role": "assistant", "content": '{"expl'}}]}),
    ],
)  # fmt: skip
def test_control_what_may_pass_is_asked_again(reply: Reply) -> None:
    """The same request is answered once the trouble is over."""
    answers = iter([reply])
    with answering(
        lambda path, asked: next(answers, None) or (chat(GOOD) if "messages" in asked else error(404, "no"))
    ) as server:
        model = engine(server.url, wait_seconds=20.0)
        assert model.retries == 1
        assert model.generate([GenerateRequest(ASKED, 50)])[0].text == GOOD


def test_a_reply_that_breaks_off_is_never_a_finished_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.language_models.server.LONGEST_PAUSE", 0.05)
    monkeypatch.setattr("resources.language_models.server.FIRST_PAUSE", 0.02)

    def answer(asked: Asked) -> Reply:
        if asked["messages"][-1]["content"] == "poison":
            told = {"code": 502, "message": "Upstream provider died"}
            return 200, {
                "choices": [{"finish_reason": "error", "error": told, "message": {"content": '{"explanation": "na'}}]
            }
        return chat(GOOD)

    with answering(only_chats(answer)) as server:
        (reply,) = engine(server.url).generate([GenerateRequest((Message("user", "poison"),), 50)])
    assert (reply.text, reply.finished) == ("", False)
    assert reply.refused is not None and reply.refused.startswith(
        "the server says 502: Upstream provider died, again and"
    )


# --- shapes of replies ---


@pytest.mark.parametrize(
    ("reply", "explanation"),
    [
        # NousResearch/hermes-agent #4748
        (
            chat([{"type": "thinking", "thinking": [{"type": "text", "text": '{"explanation": "no"}'}]}, {"type": "text", "text": GOOD}]),
            "names of rivers",
        ),
        (chat(GOOD, reasoning_content="Rivers, I think"), "names of rivers"),
        (chat('<think>\nThey want {"explanation": "..."}. {Rivers.\n</think>\n\n' + GOOD), "names of rivers"),
        (chat('They want {"explanation": "..."}.</think>Here: ' + GOOD + " I hope {that} helps"), "names of rivers"),
        (chat("```json\n" + GOOD + "\n```"), "names of rivers"),
        (chat('{"explanation": "the token </think> and the like"}'), "the token </think> and the like"),
        (chat('{"draft": 1} {"explanation": "first"} {"explanation": "names of rivers"} {"score": 3}'), "names of rivers"),
    ],
)  # fmt: skip
def test_the_answer_is_found(reply: Reply, explanation: str) -> None:
    with answering(only_chats(lambda asked: reply)) as server:
        (generated,) = engine(server.url).generate([GenerateRequest(ASKED, 100)])
    assert read_reply(generated) == explanation


@pytest.mark.parametrize(
    ("reply", "refused", "finished"),
    [
        (chat(None, refusal="I cannot help with that."), "the model declines: I cannot help with that.", True),
        (chat(None, "length", reasoning_content="The user asks"), None, False),
        (chat(None, "model_length"), None, False),
        (chat("x", "content_filter"), "the server's content filter stopped the reply", True),
    ],
)
def test_a_reply_without_an_answer(reply: Reply, refused: str | None, finished: bool) -> None:
    with answering(only_chats(lambda asked: reply)) as server:
        (generated,) = engine(server.url).generate([GenerateRequest(ASKED, 100)])
    assert (generated.refused, generated.finished) == (refused, finished)


# --- texts that are to be given back ---


def completions(logprobs: Any, text: str = " wet") -> Answer:
    def answer(path: str, asked: Asked) -> Reply:
        if path == "chat/completions":
            return chat("Yes")
        return 200, {"choices": [{"text": text, "finish_reason": "length", "logprobs": logprobs}]}

    return answer


@pytest.mark.parametrize(
    ("logprobs", "why"),
    [
        # ggml-org/llama.cpp #27174, EleutherAI/lm-evaluation-harness #4158
        ({"content": [first_token([(" wet", -0.5)])]}, "it gives no prompt's tokens back with log-probabilities"),
        ({"tokens": [" wet"], "token_logprobs": [-0.5], "text_offset": [0]}, "it does not give the prompt back"),
        ({"tokens": ["Water is wet", "!"], "token_logprobs": [-0.5, -0.5], "text_offset": [0, 12]}, "are none: []"),
        (None, "it gives no prompt's tokens back with log-probabilities"),
        ({"tokens": ["Water", " is", " wet", "!"], "token_logprobs": [None, None, None, -0.5]}, "are none"),
        ({"tokens": ["Water", " is", " wet", "!"], "token_logprobs": [None, 0.0, 0.0, -0.5]}, "are none"),
        ({"tokens": ["token_id:1", "token_id:2"], "token_logprobs": [None, -0.5]}, "names tokens by their ids"),
    ],
)
def test_a_server_that_gives_no_prompt_back_is_found_out(logprobs: Any, why: str) -> None:
    with answering(completions(logprobs)) as server:
        model = engine(server.url)
        assert "log_likelihood" not in model.capabilities
        assert why in model.lacks["log_likelihood"]
        with pytest.raises(NotNow, match=r"cannot log_likelihood there; it can: generate \(log_likelihood: "):
            model.log_likelihood([LikelihoodRequest("a", " b")])


def test_control_one_that_does_is_believed() -> None:
    # sgl-project/sglang #1998: offsets of -1
    told = {
        "tokens": ["Water", " is", " wet", "!"],
        "token_logprobs": [None, -1.0, -2.0, -3.0],
        "text_offset": [-1] * 4,
    }
    with answering(completions(told)) as server:
        model = engine(server.url)
        assert "log_likelihood" in model.capabilities
        (reply,) = model.log_likelihood([LikelihoodRequest("Water is", " wet")])
    assert (reply.log_probability, reply.tokens) == (-2.0, 1)
