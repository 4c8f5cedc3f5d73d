"""Methods that need no language model: the cosine of each test window with something that stands for the latent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from interp_assets.scores.method import Method
from interp_assets.scores.trials import Subject, TestExample, Trial, whole_texts
from interp_assets.settings import EmbeddingScorer, ExampleEmbeddingScorer

if TYPE_CHECKING:
    from resources.text_embedder import Role, TextEmbedder

S = TypeVar("S", EmbeddingScorer, ExampleEmbeddingScorer)


class Comparing(Method[S]):
    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return whole_texts(examples)

    @abstractmethod
    def standing_for(self, subject: Subject) -> list[str]:
        """The texts whose mean embedding the windows are compared with."""

    @property
    @abstractmethod
    def role(self) -> Role:
        """What these texts are to an embedder; windows are documents."""

    def texts(self, subjects: list[Subject]) -> dict[Role, set[str]]:
        """What has to be embedded: each distinct text, once."""
        windows = list({tuple(trial.tokens) for subject in subjects for trial in subject.trials})
        found: dict[Role, set[str]] = {"document": set(self.rendering.texts(windows))}
        found.setdefault(self.role, set()).update(text for each in subjects for text in self.standing_for(each))
        return found

    def compare(self, subjects: list[Subject], embedder: TextEmbedder, advance: Callable[[int], None]) -> None:
        """Record the cosine of each trial as its `probability`; nothing is predicted, AUROC needs no threshold.

        Args:
            advance: told how many texts were embedded.
        """
        embedder.prepare(self.texts(subjects), advance)
        for subject in subjects:
            query = direction(embedder.embed(self.standing_for(subject), role=self.role))
            texts = self.rendering.texts([trial.tokens for trial in subject.trials])
            cosines = embedder.embed(texts) @ query
            for trial, cosine in zip(subject.trials, cosines.astype(np.float64), strict=True):
                subject.record(trial, probability=float(cosine), status="ok")


def direction(vectors: np.ndarray) -> np.ndarray:
    """The mean of unit vectors float32 [n, d] as a unit vector [d]; of one alone that one itself."""
    if len(vectors) == 1:
        return vectors[0]
    mean = vectors.mean(0)
    return mean / (np.linalg.norm(mean) or 1.0)
