"""Answers in a given form: asked for, read, and asked for once more, with what was wrong, where they do not have it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic_core import from_json

from resources.language_models.logged import request_key
from resources.language_models.protocol import (
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

Value = TypeVar("Value")

NO_ANSWER = "(no answer)"
"Stands for an empty reply: many servers take no empty message."


class Unusable(Exception):
    """A reply that does not say what was asked; the message says why, for the model and for people."""


class Answer(NamedTuple, Generic[Value]):
    value: Value | None
    "None where there is no usable reply."
    reason: str | None
    "Why there is none."
    raw_reply: str
    "The last one."
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
) -> list[Answer[Value]]:
    """Ask for texts and read them; each that cannot be read is asked for once more.

    Args:
        read: makes the value of a reply (with the place of its request); raises Unusable.
        done: told the place of each request that needs no second ask, or has had it.
    """

    def again(request: GenerateRequest, reply: Generated, reason: str) -> GenerateRequest:
        said = Message("assistant", reply.text.strip() or NO_ANSWER)
        complaint = Message("user", f"That cannot be used: {reason}. Answer again, in the form that was asked for.")
        return replace(request, messages=(*request.messages, said, complaint))

    return ask_twice(model, model.generate, requests, read, again, lambda reply: reply.text, done)


def choose(
    model: LanguageModel,
    requests: Sequence[ChooseRequest],
    read: Callable[[int, Chosen], Value],
    done: Callable[[int], None],
) -> list[Answer[Value]]:
    """Ask for log-probabilities of choices; where none of the choices has any, once more."""

    def again(request: ChooseRequest, reply: Chosen, reason: str) -> ChooseRequest:
        *before, last = request.messages
        words = " or ".join(request.choices)
        clearer = f"{last.content}\n\nYour answer must begin with {words}, and with no other word."
        return replace(request, messages=(*before, Message(last.role, clearer)))

    return ask_twice(model, model.choose, requests, read, again, lambda reply: "", done)


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
                reason, retry = str(error), True
        key, before = request_key(model.identity, request), answers.get(place)
        calls, usage = ((*before.calls, key), both(before.usage, reply.usage)) if before else ((key,), reply.usage)
        answers[place] = Answer(value, reason, text(reply), usage, calls)
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


def json_object(reply: Generated) -> dict[str, Any]:
    """The JSON object in a reply, whatever stands around it; of a reply that was cut off, what is there.

    Raises:
        Unusable: there is none.
    """
    if not reply.text.strip():
        raise Unusable("the reply is empty")
    _, found, body = reply.text.partition("{")
    if reply.finished:
        body, closed, _ = body.rpartition("}")
        found = found and closed
    if not found:
        raise Unusable("the reply holds no JSON object" + ("" if reply.finished else " before it was cut off"))
    try:
        content = from_json(
            "{" + body + ("}" if reply.finished else ""), allow_partial=False if reply.finished else "trailing-strings"
        )
    except ValueError as error:
        raise Unusable(f"the reply is not valid JSON ({error})") from None
    return content
