"""Replies that are held to a form, by the demo's small model, which left alone answers in whatever form it likes."""

from __future__ import annotations

import json
import re

import pytest

from interp_assets.scores.judging import list_form, read_list
from interp_assets.study import PROJECT
from resources.language_models.protocol import Constraint, Generated, GenerateRequest, Message
from resources.language_models.structured import json_form
from resources.language_models.transformers_engine import TransformersEngine

ASKED = (
    Message("system", "You judge texts. Be as brief as you can."),
    Message("user", "Which of these five words are names of rivers: Danube, table, Rhine, door, Nile?"),
)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(PROJECT / "demo" / "weights" / "SmolLM2-135M-Instruct", dtype="float32")


def reply(engine: TransformersEngine, constraint: Constraint | None, **more: float) -> Generated:
    return engine.generate([GenerateRequest(ASKED, 60, constraint=constraint, **more)])[0]  # type: ignore[arg-type]


def test_forms_are_held_to(engine: TransformersEngine) -> None:
    for temperature in (0.0, 2.0):
        found = reply(engine, list_form(5), temperature=temperature)
        assert found.finished
        assert len(read_list(found, 5)) == 5
    chosen = reply(engine, Constraint("choice", ("a river", "a table (made of wood)")))
    assert (chosen.text in ("a river", "a table (made of wood)"), chosen.finished) == (True, True)
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", reply(engine, Constraint("regex", "[0-9]{3}-[a-f]{2}")).text)
    content = json.loads(reply(engine, json_form({"ok": {"type": "boolean"}, "n": {"enum": [7]}})).text)
    assert (list(content), content["n"]) == (["ok", "n"], 7)


def test_control_left_alone_it_answers_otherwise(engine: TransformersEngine) -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(reply(engine, None).text)


def test_a_form_that_cannot_be_is_refused(engine: TransformersEngine) -> None:
    found = reply(engine, Constraint("json_schema", '{"type": "nonsense"}'))
    assert found.refused is not None
    assert "cannot be held to this form: " in found.refused
    assert "nonsense" in found.refused
