"""What single fields of requests hold: the forms of replies."""

from __future__ import annotations

import json
from typing import Any

from resources.language_models.protocol import Constraint

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
