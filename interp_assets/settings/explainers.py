"""Who writes explanations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from interp_assets.settings.base import Layout, Settings, identity

NO_EXPLAINER = "none"
"Stands in the tables as the explainer where no explanation is read."

EFFECT_EXPLAINER = "effect"
"Stands in the tables as the explainer of effects: its explanations are made for scores/intervention and nothing else."


class ExtractiveExplainer(Settings):
    """Explains by quoting: the words and short contexts that the latent fires on. No LLM."""

    kind: Literal["extractive"] = identity("extractive")
    words: int = identity(5, ge=1)
    "Quoted at most, those on which it fires most first."
    phrases: int = identity(5, ge=0)
    "Contexts quoted at most."


class LlmExplainer(Settings):
    """Explains by asking a language model about marked examples."""

    kind: Literal["llm"] = identity("llm")
    engine: str = identity()
    "A name under `engines`."
    latents: int | None = identity(None, ge=1)
    "Explain only this many of the interpreted latents (the first in the keyed order)."
    n_examples: int = identity(40, ge=1)
    "Shown in the prompt, of those drawn to explain from."
    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Tokens above this share of an example's maximum are marked."
    show_activations: bool = identity(False)
    "Also tell how strongly each marked token activates the latent, from 0 to 10."
    promoted_tokens: bool = identity(False)
    "Also list the tokens that the latent's decoder direction makes more probable."
    chain_of_thought: bool = identity(False)
    "Let the model think in writing before it answers."
    instructions: str | None = identity(None)
    "Stands in place of our own instructions and worked examples; how to answer is added to it."
    layout: Layout | None = identity(None, where_set=True)
    "Where worked examples stand: as turns of user and assistant, the default, or inside the system message."
    max_tokens: int = identity(100, ge=16)
    "Of one reply; with chain_of_thought give it some 400."


Explainer = Annotated[ExtractiveExplainer | LlmExplainer, Field(discriminator="kind")]
