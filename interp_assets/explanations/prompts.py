"""What the LLM explainer is asked, and how its reply is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp_assets.examples.rendering import Rendering, marks_of
from interp_assets.explanations.wording import MARKER, system_message
from interp_assets.settings import LlmExplainer
from resources.language_models.protocol import Message

LONGEST_EXPLANATION = 600


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
    return Message("system", system_message(settings)), Message("user", "\n".join(lines))


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
