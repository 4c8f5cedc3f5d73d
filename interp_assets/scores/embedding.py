"""Embedding: how near an explanation lies to a latent's examples, by the cosine of their embeddings. No LLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp_assets.scores.comparing import Comparing
from interp_assets.scores.trials import Subject
from interp_assets.settings import EmbeddingScorer

if TYPE_CHECKING:
    from resources.text_embedder import Role


class Embedding(Comparing[EmbeddingScorer]):
    name = "embedding"
    description = "How well a sentence embedder finds a latent's examples from its explanation. No LLM."
    code_version = "5"

    @property
    def role(self) -> Role:
        return "instructed" if self.settings.instruction else "query"

    def standing_for(self, subject: Subject) -> list[str]:
        return [self.settings.instruction + subject.explanation]
