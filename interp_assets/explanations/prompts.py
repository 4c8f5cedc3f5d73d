"""What the LLM explainer is asked, and how its reply is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp_assets.examples.rendering import Rendering, marks_of
from interp_assets.settings import LlmExplainer
from resources.language_models.protocol import Message

INSTRUCTIONS = """\
You study what single units of a language model respond to. You are shown excerpts of text on which one unit was \
active. The tokens on which it was active are marked <<like this>>.

Say what the marked places have in common: a meaning, a topic, a kind of word, a grammatical role, or a pattern of \
what comes before or after. Be specific enough that somebody could find new places in other texts, and general enough \
to cover most of the excerpts. Do not list the excerpts and do not mention the marks."""

SHORT_ANSWER = "\n\nAnswer with one line: Explanation: followed by one sentence."

STEPS = """

Work in four steps, each in a line or two.
1. List the marked tokens that return most often.
2. Say what the excerpts share around them.
3. If output tokens are given, say what they add.
4. End with a line: Explanation: followed by one sentence."""

ACTIVATIONS_NOTE = "\n\nBelow each excerpt stand its marked tokens with their strength from 1 to 10."
PROMOTED_NOTE = "\n\nThe output tokens are those that the unit makes more likely to come next."

MARKER = "Explanation:"
LONGEST_EXPLANATION = 600


def prompt(
    windows: Sequence[tuple[Sequence[int], Sequence[float]]],
    promoted: Sequence[str] | None,
    settings: LlmExplainer,
    rendering: Rendering,
) -> tuple[Message, ...]:
    """Messages for one latent from its explain windows (tokens, activations), strongest first."""
    system = INSTRUCTIONS
    system += ACTIVATIONS_NOTE if settings.show_activations else ""
    system += PROMOTED_NOTE if settings.promoted_tokens else ""
    system += STEPS if settings.chain_of_thought else SHORT_ANSWER
    highest = max(max(activations) for _, activations in windows)
    lines = []
    for number, (tokens, activations) in enumerate(windows, 1):
        marks = marks_of(activations, settings.mark_threshold)
        lines.append(f"Excerpt {number}: {' '.join(rendering.with_marks(tokens, marks).split())}")
        if settings.show_activations:
            strengths = [
                f"{rendering.word(token).strip()} ({int(np.ceil(10 * activation / highest))})"
                for token, activation, mark in zip(tokens, activations, marks, strict=True)
                if mark
            ]
            lines.append(f"Strengths: {', '.join(strengths)}")
    if settings.promoted_tokens and promoted is not None:
        lines.append(f"Output tokens: {', '.join(repr(token) for token in promoted)}")
    return Message("system", system), Message("user", "\n".join(lines))


def read_reply(reply: str, finished: bool, settings: LlmExplainer) -> tuple[str | None, str | None]:
    """The explanation in a reply, or why there is none: exactly one of the two."""
    _before, found, after = reply.rpartition(MARKER)
    text = after if found else reply
    text = " ".join(text.split("\n\n")[0].split()).strip(' "*')
    if not reply.strip():
        return None, "the reply is empty"
    if settings.chain_of_thought and not found:
        return None, f"the reply has no line that begins with {MARKER}" + ("" if finished else " (it was cut off)")
    if not text:
        return None, f"nothing stands after {MARKER}"
    if len(text) > LONGEST_EXPLANATION:
        return None, f"the explanation has {len(text)} characters, more than {LONGEST_EXPLANATION}"
    if not finished:
        whole, ended, _ = text.rpartition(". ")
        if not ended:
            return None, "the reply was cut off before its first sentence ended"
        text = whole + "."
    return text, None
