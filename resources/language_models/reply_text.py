"""What a reply in words holds: the JSON object that was asked for, whatever stands around it, and what a table can keep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from resources.language_models.protocol import Generated

THOUGHT_BEGINS = re.compile(
    r"\s*(<(think|thinking|thought|reasoning)>|\[THINK\]|<\|channel\|>analysis|◁think▷)", re.IGNORECASE
)
THOUGHT_ENDS = re.compile(
    r"</(think|thinking|thought|reasoning)>|\[/THINK\]|<\|channel\|>final<\|message\|>|◁/think▷", re.IGNORECASE
)
"How what a model thinks is set apart in text. Some chat formats begin it in the prompt, so that only its end is seen."

DECODER = json.JSONDecoder(strict=False)


class Unusable(Exception):
    """A reply that does not say what was asked; the message says why, for the model and for people."""


class CutOff(Unusable):
    """All that the reply may hold was used up before it began to answer. Asking again would end alike."""


def thought_of(reply: Generated) -> int:
    """How many characters of the text are what the model thought before its answer."""
    ends = [end.end() for end in THOUGHT_ENDS.finditer(reply.text)]
    if not ends and not reply.finished and THOUGHT_BEGINS.match(reply.text):
        return len(reply.text)
    return max(ends, default=0)


def json_object(reply: Generated, name: str) -> dict[str, Any]:
    """The last JSON object with a property of that name, whatever stands around it; of a reply that was cut off, what is there.

    Raises:
        Unusable: there is none.
    """
    if not reply.text.strip():
        raise Unusable("the reply is empty")
    thought = thought_of(reply)
    # An answer may speak of the end of a thought, so what matters is where an object ends.
    found = [content for end, content in objects(reply.text) if end > thought]
    answer = reply.text[thought:]
    if not reply.finished and (begun := unfinished_object(answer)) is not None:
        found.append(begun)
    if found:
        return ([each for each in found if name in each] or found)[-1]
    text = answer[answer.find("{") : answer.rfind("}") + 1] if reply.finished else ""
    if not text:
        raise Unusable("the reply holds no JSON object" + ("" if reply.finished else " before it was cut off"))
    try:
        from_json(text)
    except (ValueError, TypeError) as error:
        raise Unusable(f"the reply is not valid JSON ({error})") from None
    raise Unusable("the reply is not valid JSON")


def objects(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """All JSON objects in a text, but for those in others, each with the place behind it."""
    place = text.find("{")
    while place >= 0:
        end = place + 1
        try:
            _, closed = DECODER.raw_decode(text, place)
            yield closed, from_json(text[place:closed])
            end = closed
        except (ValueError, TypeError, RecursionError):  # TypeError: half of a character
            pass
        place = text.find("{", end)


def unfinished_object(text: str) -> dict[str, Any] | None:
    """The object in which a text ends, as far as it goes."""
    place = text.find("{")
    while place >= 0:
        try:
            _, place = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            try:
                content = from_json(text[place:], allow_partial="trailing-strings")
            except (ValueError, TypeError):
                content = None
            if isinstance(content, dict):
                return content
            place += 1
        place = text.find("{", place)
    return None


def storable(text: str) -> str:
    """For tables, which hold whole characters: halves of pairs are written out (`\\ud83d`)."""
    return text.encode(errors="backslashreplace").decode()
