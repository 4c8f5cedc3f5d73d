"""What the LLM explainer is asked, and how its reply is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from interp_assets.examples.rendering import OPEN, Rendering, marks_of
from interp_assets.explanations.wording import EXCERPT, OUTPUT_TOKENS, STRENGTHS, first_messages
from interp_assets.settings import LlmExplainer
from resources.language_models.protocol import Constraint, Generated, Message
from resources.language_models.reply_text import Unusable, json_object
from resources.language_models.structured import json_form

LONGEST_EXPLANATION = 600
MARKED_BLANK = re.compile(rf"{OPEN}[^<>]*\\[nrtu]")


def prompt(
    windows: Sequence[tuple[Sequence[int], Sequence[float]]],
    promoted: Sequence[str] | None,
    settings: LlmExplainer,
    rendering: Rendering,
) -> tuple[Message, ...]:
    """Messages for one latent from its explain windows (tokens, activations), strongest first."""
    highest = max(max(activations) for _, activations in windows)
    lines = []
    for number, (tokens, activations) in enumerate(windows, 1):
        marks = marks_of(activations, settings.mark_threshold)
        lines.append(EXCERPT.format(number=number, text=rendering.line(tokens, marks)))
        if settings.show_activations:
            strengths = [
                f"{name} ({int(np.ceil(10 * activation / highest))})"
                for name, activation, mark in zip(rendering.token_names(tokens), activations, marks, strict=True)
                if mark
            ]
            lines.append(STRENGTHS.format(strengths=", ".join(strengths)))
    if settings.promoted_tokens and promoted is not None:
        lines.append(OUTPUT_TOKENS.format(tokens=", ".join(repr(token) for token in promoted)))
    blanks = any(MARKED_BLANK.search(line) for line in lines)
    return *first_messages(settings, blanks), Message("user", "\n".join(lines))


def form_of(settings: LlmExplainer) -> Constraint:
    """What a reply looks like; no bound on its length, which strict servers do not take."""
    steps = {"steps": {"type": "array", "items": {"type": "string"}}} if settings.chain_of_thought else {}
    return json_form(steps | {"explanation": {"type": "string"}})


def read_reply(reply: Generated) -> str:
    """The explanation in a reply; of one that was cut off in it, its whole sentences.

    Raises:
        Unusable: there is none.
    """
    text = json_object(reply, "explanation").get("explanation")
    if not isinstance(text, str):
        raise Unusable("it has no text `explanation`" + ("" if reply.finished else " before it was cut off"))
    text = " ".join(text.split()).strip(' "*')
    if not text:
        raise Unusable("the explanation is empty")
    if not reply.finished:
        whole, ended, _ = text.rpartition(". ")
        if not ended:
            raise Unusable("it was cut off before its first sentence ended; one short sentence is enough")
        text = whole + "."
    if len(text) > LONGEST_EXPLANATION:
        raise Unusable(f"the explanation has {len(text)} characters, more than {LONGEST_EXPLANATION}")
    return text
