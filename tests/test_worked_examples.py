"""Where the worked examples of prompts stand, under every chat format and without one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from interp_assets.explanations.wording import EXAMPLES, first_messages
from interp_assets.graph import assets_of
from interp_assets.scores.wording import prompts_read, wording_of
from interp_assets.settings import JudgeScorer, Layout, LlmExplainer
from interp_assets.study import load_study
from resources.language_models.prompts import Prompts
from resources.language_models.protocol import Message, paragraphs, without_system_role
from tests.changed_study import changed
from tests.test_engine_settings import REFUSES_SYSTEM
from tests.tiny import VOCABULARY, make_tokenizer

STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns!') }}"
    "{% endif %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
)
"As of Gemma 2: turns of user and assistant, strictly, and no system message."


def asked(layout: Layout | None = None, method: str = "detection") -> tuple[Message, ...]:
    wording = wording_of(method, JudgeScorer(engine="e", layout=layout))
    question = wording.question.format(explanation="names of rivers", text="the Danube", marked="Danube")
    return *wording.beginning(), Message("user", question)


@pytest.mark.parametrize("method", ["detection", "fuzzing"])
def test_turns_take_turns_and_hold_what_the_system_message_would(method: str) -> None:
    turns, system = asked("turns", method), asked("system", method)
    assert [message.role for message in system] == ["system", "user"]
    roles = [message.role for message in turns]
    assert roles[0] == "system"
    assert all(one != other for one, other in pairwise(roles))
    assert asked(None, method) == turns, "the default"
    for message in turns[:-1]:
        assert message.content in system[0].content
    answers = [message.content for message in turns if message.role == "assistant"]
    assert sorted(answers) == ["No", "No", "Yes", "Yes"], "as many of each"


@pytest.mark.parametrize("template", [STRICT, REFUSES_SYSTEM])
def test_a_chat_format_without_system_role_takes_them(template: str) -> None:
    tokenizer = make_tokenizer(VOCABULARY)
    tokenizer.chat_template = template
    turns = asked()
    text = Prompts(tokenizer)._chat.text(turns)  # type: ignore[union-attr]
    assert text.startswith(f"[user] {turns[0].content}\n\n{turns[1].content} [assistant] Yes [user] ")
    assert text == Prompts(tokenizer)._chat.text(without_system_role(turns))  # type: ignore[union-attr]


def test_without_a_chat_format_answers_stand_where_the_reply_will() -> None:
    text = paragraphs(asked())
    assert text.count("\n\nAnswer: Yes\n\n") == text.count("\n\nAnswer: No\n\n") == 2
    assert text.endswith("Text: the Danube\n\nAnswer:")


def test_explanations_are_shown_in_the_form_that_is_asked_for() -> None:
    explainer = LlmExplainer(engine="e")
    turns = first_messages(explainer)
    assert len(turns) == 1 + 2 * len(EXAMPLES)
    assert turns[2].content == '{"explanation": "names of rivers"}'
    assert turns[1].content.splitlines()[0] == "Excerpt 1: we followed the <<Danube>> as far as Vienna and then"
    own = first_messages(explainer.model_copy(update={"instructions": "Say what it is."}))
    assert len(own) == 1, "own instructions bring their own examples"
    (system,) = first_messages(explainer.model_copy(update={"layout": "system"}))
    assert all(message.content in system.content for message in turns)


def test_a_layout_is_part_of_what_is_asked(tiny_file: Path) -> None:
    """Another layout makes detection stale, and nothing else; a list's prompts have none."""

    def deciding(changes: dict[str, Any]) -> dict[str, Any]:
        assets = assets_of(load_study(changed(tiny_file, changes, "layout.yaml")))
        return {name: asset.settings for name, asset in assets.items()}

    plain, other = deciding({}), deciding({"scorers.detection.layout": "system"})
    assert {name for name in plain if plain[name] != other[name]} == {"scores/detection"}
    lists = [JudgeScorer(engine="e", protocol="list", layout=layout) for layout in ("turns", "system")]
    assert prompts_read("detection", lists[0]) == prompts_read("detection", lists[1])
