"""Embedding: how near an explanation lies to a latent's examples, by the cosine of their embeddings. No LLM."""

from __future__ import annotations

from interp_assets.scores.comparing import Comparing
from interp_assets.scores.trials import Subject
from interp_assets.settings import EmbeddingScorer


class Embedding(Comparing[EmbeddingScorer]):
    name = "embedding"
    description = "How well a sentence embedder finds a latent's examples from its explanation. No LLM."
    code_version = "4"

    def standing_for(self, subject: Subject) -> list[str]:
        return [self.settings.instruction + subject.explanation]
