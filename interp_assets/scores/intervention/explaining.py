"""The effect explainer: a language model that sees which tokens a change made more probable."""

from __future__ import annotations

from interp_assets.examples.rendering import Rendering
from interp_assets.scores.intervention.effects import Effect
from interp_assets.scores.intervention.wording import INSTRUCTIONS, TEXT
from interp_assets.settings import InterventionScorer
from resources.language_models.protocol import GenerateRequest, Message
from resources.language_models.structured import json_form


def request(effect: Effect, settings: InterventionScorer, rendering: Rendering) -> GenerateRequest:
    """What the explainer is asked about one effect."""
    texts = [
        TEXT.format(
            number=number,
            text=" ".join(rendering.text(rendering.window(prompt, 0)).split()),
            tokens=", ".join(f"{rendering.output_name(token)!r} (+{increase:.2f})" for token, increase in raised),
        )
        for number, (prompt, raised) in enumerate(effect.shown, 1)
    ]
    messages = (Message("system", INSTRUCTIONS), Message("user", "\n\n".join(texts)))
    return GenerateRequest(messages, settings.max_tokens, constraint=json_form({"explanation": {"type": "string"}}))
