"""How explanations are tested."""

from __future__ import annotations

from typing import Literal

from interp_assets.settings.base import Dtype, Settings, device, identity, operational


class EmbeddingScorer(Settings):
    """Cosine of explanation and example in the space of a sentence embedder; no LLM."""

    model: str = operational()
    "A sentence-transformers folder or hub name."
    dtype: Dtype = identity("float32")
    device: str = device()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=1)
    shuffled_control: bool = identity(True)
    instruction: str = identity("")
    "Stands before each explanation; for embedders that were trained with a retrieval instruction."
    batch_size: int = operational(64, ge=1)


class JudgeScorer(Settings):
    """Detection or fuzzing: a language model judges single examples against the explanation."""

    engine: str = identity()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    "Which explainers are scored; all when left out."
    activating: int = identity(50, ge=1)
    non_activating: int = identity(50, ge=1)
    protocol: Literal["single", "list"] = identity("single")
    "single: one example a prompt, answered by the probability of Yes. list: several a prompt, answered as a list."
    per_prompt: int = identity(5, ge=2)
    "Examples in one prompt of the list protocol."
    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Fuzzing: tokens above this share of an example's maximum are marked."
    instructions: str | None = identity(None)
    "Stands in place of our own instructions."
    shuffled_control: bool = identity(True)


class Scorers(Settings):
    embedding: EmbeddingScorer | None = identity(None)
    detection: JudgeScorer | None = identity(None)
    fuzzing: JudgeScorer | None = identity(None)

    def chosen(self) -> dict[str, EmbeddingScorer | JudgeScorer]:
        return {name: scorer for name in type(self).model_fields if (scorer := getattr(self, name)) is not None}
