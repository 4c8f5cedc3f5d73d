"""What single fields of OpenAI's interface hold: forms, prompts without a chat format, log-probabilities, counts of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from resources.language_models.protocol import Constraint, Message, Usage

CHARACTERS_PER_TOKEN = 3
"Few texts have fewer; stands in where a server does not count tokens."

ODD = "742"
ODD_SCHEMA = (
    f'{{"type": "object", "properties": {{"n": {{"type": "integer", "enum": [{ODD}]}}}}, "required": ["n"], '
    f'"additionalProperties": false}}'
)
ODD_FORMS = (Constraint("json_schema", ODD_SCHEMA), Constraint("regex", ODD), Constraint("choice", (ODD,)))
"Forms that leave one answer."


def form_fields(constraint: Constraint) -> dict[str, Any]:
    """The fields of a request that hold its reply to a form: OpenAI's for a schema, vLLM's for what OpenAI has not."""
    content = constraint.content
    if isinstance(content, tuple):
        return {"structured_outputs": {constraint.form: [*content]}}
    if constraint.form == "json_schema":
        schema = {"name": "reply", "strict": True, "schema": json.loads(content)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"structured_outputs": {constraint.form: content}}


def paragraphs(messages: Sequence[Message]) -> str:
    """A prompt for a model without a chat format."""
    return "\n\n".join(message.content for message in messages) + "\n\nAnswer:"


def likeliest(body: Any) -> Iterator[tuple[str, float]]:
    """The likeliest first tokens of a reply, with log-probabilities; none where the reply is empty."""
    told = body["choices"][0]["logprobs"]
    if "content" in told:
        for first in told["content"][:1]:
            yield from ((each["token"], float(each["logprob"])) for each in first["top_logprobs"])
    else:
        for table in told["top_logprobs"][:1]:
            yield from ((token, float(log_probability)) for token, log_probability in table.items())


def usage_of(body: Any, messages: Sequence[Message], reply: str) -> Usage:
    """The server's own figures; estimates where it has none that can be."""
    told = body.get("usage") or {}
    details = told.get("prompt_tokens_details") or {}
    prompt = count(told.get("prompt_tokens"), tokens_at_most(sum(len(message.content) for message in messages)))
    cached = min(prompt, count(details.get("cached_tokens"), 0))
    return Usage(prompt, cached, count(told.get("completion_tokens"), tokens_at_most(len(reply))))


def count(told: Any, otherwise: int) -> int:
    return told if isinstance(told, int) and 0 <= told < 2**32 else otherwise


def tokens_at_most(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)
