"""Answers in a given form: asked for, read, and asked for once more, with what was wrong, where they do not have it.

Where the first few replies of a call are all used up before they begin to answer, the rest is not asked: it would end alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

from resources.errors import UnusableInput
from resources.language_models.logged import request_key
from resources.language_models.protocol import (
    LEAST_MASS,
    NOT_ASKED,
    ChooseRequest,
    Chosen,
    Constraint,
    Generated,
    GenerateRequest,
    LanguageModel,
    Message,
    Usage,
)
from resources.language_models.reply_text import CutOff, Unusable, storable, thought_of

Value = TypeVar("Value")

NO_ANSWER = "(no answer)"
"Stands for an empty reply: many servers take no empty message."


FIRST_FEW = 3
"So many replies that all end before they answer are no accident."


class Answer(NamedTuple, Generic[Value]):
    value: Value | None
    "None where there is no usable reply."
    reason: str | None
    "Why there is none."
    raw_reply: str
    "The last one, as tables can hold it."
    usage: Usage
    "Of all its calls."
    calls: tuple[bytes, ...]
    "Their keys in the reply log, the first ask first."

    @property
    def status(self) -> str:
        if self.reason is None:
            return "ok"
        return "not_asked" if self.reason == NOT_ASKED else "failed"

    def record(self) -> dict[str, Any]:
        """The columns that tables keep of an answer."""
        return {
            "status": self.status,
            "reason": self.reason,
            "prompt_hash": " ".join(key.hex() for key in self.calls),
            "prompt_tokens": self.usage.prompt_tokens,
            "cached_tokens": self.usage.cached_tokens,
            "completion_tokens": self.usage.completion_tokens,
        }


def generate(
    model: LanguageModel,
    requests: Sequence[GenerateRequest],
    read: Callable[[int, Generated], Value],
    done: Callable[[int], None],
    limit: str,
) -> list[Answer[Value]]:
    """Ask for texts and read them; each that cannot be read is asked for once more.

    Args:
        read: makes the value of a reply (with the place of its request); raises Unusable.
        done: told the place of each request that needs no second ask, or has had it.
        limit: the setting that bounds the replies.

    Raises:
        UnusableInput: the first few replies are all cut off before they answer.
    """

    def again(request: GenerateRequest, reply: Generated, reason: str) -> GenerateRequest:
        said = Message("assistant", storable(reply.text.strip()) or NO_ANSWER)
        complaint = Message("user", f"That cannot be used: {reason}. Answer again, in the form that was asked for.")
        return replace(request, messages=(*request.messages, said, complaint))

    cut_off: set[int] = set()

    def reading(place: int, reply: Generated) -> Value:
        if not reply.finished and not reply.text[thought_of(reply) :].strip():
            cut_off.add(place)
            raise CutOff(
                f"it was cut off at {requests[place].max_tokens} tokens before it began to answer; raise {limit}"
            )
        return read(place, reply)

    def ask(start: int, end: int) -> list[Answer[Value]]:
        return ask_twice(
            model,
            model.generate,
            requests[start:end],
            lambda place, reply: reading(start + place, reply),
            again,
            lambda reply: reply.text,
            lambda place: done(start + place),
        )

    first = ask(0, FIRST_FEW)
    if len(cut_off) == FIRST_FEW:
        raise UnusableInput(
            f"{limit}: the first {FIRST_FEW} replies of {model.name} were cut off at {requests[0].max_tokens} tokens before "
            f"they began to answer, as happens where a model thinks first; raise {limit}, or let it think less"
        )
    return first + ask(FIRST_FEW, len(requests))


def choose(
    model: LanguageModel,
    requests: Sequence[ChooseRequest],
    read: Callable[[int, Chosen], Value],
    done: Callable[[int], None],
) -> list[Answer[Value]]:
    """Ask for log-probabilities of choices; where the choices have next to none together, once more."""

    def again(request: ChooseRequest, reply: Chosen, reason: str) -> ChooseRequest:
        *before, last = request.messages
        words = " or ".join(request.choices)
        clearer = f"{last.content}\n\nYour answer must begin with {words}, and with no other word."
        return replace(request, messages=(*before, Message(last.role, clearer)))

    def reading(place: int, reply: Chosen) -> Value:
        mass = math.fsum(math.exp(each) for each in reply.log_probabilities)
        if not mass >= LEAST_MASS:
            words = ", ".join(requests[place].choices)
            raise Unusable(f"the engine gave {words} next to no probability: {mass:.1e} together")
        return read(place, reply)

    return ask_twice(model, model.choose, requests, reading, again, lambda reply: "", done)


def ask_twice(
    model: LanguageModel,
    verb: Callable[..., list[Any]],
    requests: Sequence[Any],
    read: Callable[[int, Any], Value],
    again: Callable[[Any, Any, str], Any],
    text: Callable[[Any], str],
    done: Callable[[int], None],
) -> list[Answer[Value]]:
    answers: dict[int, Answer[Value]] = {}
    wrong: dict[int, Any] = {}

    def take(place: int, request: Any, reply: Any) -> str | None:
        """Why the reply cannot be used, where asking again may help."""
        value, reason, retry = None, reply.refused, False
        if reason is None:
            try:
                value = read(place, reply)
            except Unusable as error:
                reason, retry = str(error), not isinstance(error, CutOff)
        key, before = request_key(model.identity, request), answers.get(place)
        calls, usage = ((*before.calls, key), both(before.usage, reply.usage)) if before else ((key,), reply.usage)
        answers[place] = Answer(value, reason, storable(text(reply)), usage, calls)
        return reason if retry else None

    def first(place: int, reply: Any) -> None:
        if (reason := take(place, requests[place], reply)) is None:
            done(place)
        else:
            wrong[place] = again(requests[place], reply, reason)

    verb(requests, first)
    if wrong:
        places = sorted(wrong)

        def second(index: int, reply: Any) -> None:
            take(places[index], wrong[places[index]], reply)
            done(places[index])

        verb([wrong[place] for place in places], second)
    return [answers[place] for place in range(len(requests))]


def both(first: Usage, second: Usage) -> Usage:
    return Usage(
        first.prompt_tokens + second.prompt_tokens,
        first.cached_tokens + second.cached_tokens,
        first.completion_tokens + second.completion_tokens,
        first.reused and second.reused,
    )


def json_form(properties: dict[str, Any]) -> Constraint:
    """An object with these properties, all of them and in this order, and no others: what strict servers take."""
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return Constraint("json_schema", json.dumps(schema))
