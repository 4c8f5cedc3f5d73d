"""How explanations are tested."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from interp_assets.settings.base import Dtype, Settings, device, identity, operational
from interp_assets.settings.examples import NegativeKinds

ListSize = Annotated[int, Field(ge=2)]


class EmbeddingScorer(Settings):
    """Cosine of explanation and example in the space of a sentence embedder; no LLM."""

    model: str = operational()
    "A sentence-transformers folder or hub name."
    dtype: Dtype = identity("float32")
    device: str = device()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=1)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    shuffled_control: bool = identity(True)
    instruction: str = identity("")
    "Stands before each explanation; for embedders that were trained with a retrieval instruction."
    batch_size: int = operational(64, ge=1)


class Sequential(Settings):
    """Ask no more about an explanation than it takes to know its balanced accuracy well enough."""

    half_width: float = identity(0.1, gt=0, lt=0.5)
    "Nothing more is asked once half the width of the interval is at most this."
    pairs_per_round: int = identity(5, ge=1)
    "So many activating and as many other examples are asked before the interval is looked at again."


class PromptSizes(Settings):
    """How many examples a prompt takes is tried on some explanations of each layer."""

    candidates: tuple[ListSize, ...] = identity((2, 5, 10), min_length=1)
    latents: int = identity(20, ge=1)
    "Explanations that are judged with single prompts and with each candidate, drawn by a keyed hash."
    tolerance: float = identity(0.02, ge=0, lt=0.5)
    "The largest candidate is used whose balanced accuracy differs on average by no more than this; else single prompts."


class JudgeScorer(Settings):
    """Detection or fuzzing: a language model judges single examples against the explanation."""

    engine: str = identity()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    "Which explainers are scored; all when left out."
    activating: int = identity(50, ge=1)
    non_activating: int = identity(50, ge=1)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    protocol: Literal["single", "list"] = identity("single")
    "single: one example a prompt, answered by the probability of Yes. list: several a prompt, answered as a list."
    per_prompt: ListSize | PromptSizes = identity(5)
    "Examples in one prompt of the list protocol: a number, or how to find it."
    sequential: Sequential | None = identity(None)
    "With the single protocol: stop early where the answers allow it. Every example is asked when left out."
    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Fuzzing: tokens above this share of an example's maximum are marked."
    instructions: str | None = identity(None)
    "Stands in place of our own instructions."
    shuffled_control: bool = identity(True)

    @property
    def list_sizes(self) -> PromptSizes | None:
        """How to find the number of examples in a prompt, where the study does not name it."""
        return self.per_prompt if self.protocol == "list" and isinstance(self.per_prompt, PromptSizes) else None

    @property
    def list_size(self) -> int:
        """Of a scorer whose study names it, or of which it has been found."""
        assert isinstance(self.per_prompt, int)
        return self.per_prompt


class InterventionScorer(Settings):
    """What changing a latent does to what the model writes, and whether an explanation of that effect foresees it."""

    explainer: str = identity()
    "A name under `engines`: who explains the effect, from the tokens that become more probable."
    scorer: str = identity()
    "A name under `engines`: whose log-probability of the explanation is compared; best a base model."
    latents: int | None = identity(100, ge=1)
    "At most so many of the interpreted latents (the first in the keyed order); null for all."
    prompt_tokens: int = identity(64, ge=8)
    "Length of the windows that prompts are cut from."
    explain_prompts: int = identity(10, ge=1)
    score_prompts: int = identity(30, ge=2)
    target_kl: tuple[Annotated[float, Field(gt=0)], ...] = identity((0.1, 0.33, 1.0, 3.0), min_length=1)
    "How far the next-token distribution is moved, in nats: mean KL over prompts; a strength is found for each."
    zero_ablation: bool = identity(False)
    "Also take the latent away, where it is active."
    new_tokens: int = identity(8, ge=1)
    "Written behind each prompt, at temperature 1."
    shown_tokens: int = identity(5, ge=1)
    "How many of the largest increases in probability the explainer sees of each prompt."
    max_tokens: int = identity(64, ge=8)
    "Of the explanation."
    shuffled_control: bool = identity(True)
    batch_latents: int = operational(8, ge=1)
    "Latents whose prompts are run together."

    @property
    def conditions(self) -> tuple[str, ...]:
        """What is done to each latent, by the name that the tables use."""
        return (*(f"{target:g}" for target in self.target_kl), *((ZERO_ABLATION,) if self.zero_ablation else ()))


ZERO_ABLATION = "zero_ablation"

Scorer = EmbeddingScorer | JudgeScorer | InterventionScorer


class Scorers(Settings):
    embedding: EmbeddingScorer | None = identity(None)
    detection: JudgeScorer | None = identity(None)
    fuzzing: JudgeScorer | None = identity(None)
    intervention: InterventionScorer | None = identity(None)

    def chosen(self) -> dict[str, Scorer]:
        return {name: scorer for name in type(self).model_fields if (scorer := getattr(self, name)) is not None}
