"""Embedding: how near an explanation lies to a latent's examples, by the cosine of their embeddings. No LLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from interp_assets.examples.rendering import Rendering
from interp_assets.scores.method import Method
from interp_assets.scores.trials import Subject, TestExample, Trial, whole_texts
from interp_assets.settings import EmbeddingScorer

if TYPE_CHECKING:
    from resources.text_embedder import TextEmbedder

SUBJECTS_PER_CALL = 2_000


class Embedding(Method[EmbeddingScorer]):
    name = "embedding"
    description = "How well a sentence embedder finds a latent's examples from its explanation. No LLM."
    code_version = "2"

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return whole_texts(examples)


def distinct_texts(subjects: list[Subject], instruction: str, rendering: Rendering) -> list[str]:
    """What has to be embedded: each distinct window and each explanation, once."""
    windows = {tuple(trial.tokens) for subject in subjects for trial in subject.trials}
    explanations = {instruction + subject.explanation for subject in subjects}
    return sorted(set(rendering.texts(list(windows))) | explanations)


def compare(
    subjects: list[Subject],
    instruction: str,
    embedder: TextEmbedder,
    rendering: Rendering,
    advance: Callable[[int], None],
) -> None:
    """Record the cosine of each trial as its `probability`; nothing is predicted, AUROC needs no threshold."""
    embedder.embed(distinct_texts(subjects, instruction, rendering), advance)
    for start in range(0, len(subjects), SUBJECTS_PER_CALL):
        for subject in subjects[start : start + SUBJECTS_PER_CALL]:
            query = embedder.embed([instruction + subject.explanation])[0]
            texts = rendering.texts([trial.tokens for trial in subject.trials])
            cosines = embedder.embed(texts) @ query
            for trial, cosine in zip(subject.trials, cosines.astype(np.float64), strict=True):
                subject.record(trial, probability=float(cosine), status="ok")
