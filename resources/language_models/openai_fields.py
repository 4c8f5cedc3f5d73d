"""What single fields of requests hold: forms, and prompts without a chat format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from resources.language_models.protocol import Constraint, Message

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
