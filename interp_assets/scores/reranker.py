"""Reranker: how well a CrossEncoder, which reads both together, finds a latent's examples from its explanation.

The explanation is the query, the example the document. At the like task of classifying texts by descriptions of classes
alone, models of this kind came out best (arXiv 2603.11991).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interp_assets.scores.method import Method
from interp_assets.scores.trials import Subject, TestExample, Trial, whole_texts
from interp_assets.settings import RerankerScorer

if TYPE_CHECKING:
    from resources.reranker import Reranker as Model


class Reranker(Method[RerankerScorer]):
    name = "reranker"
    description = "How well a CrossEncoder, which reads both together, finds a latent's examples from its explanation."

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return whole_texts(examples)

    def pairs(self, subjects: list[Subject]) -> set[tuple[str, str]]:
        """The distinct pairs of explanation and text."""
        return {pair for subject in subjects for pair in self.pairs_of(subject)}

    def pairs_of(self, subject: Subject) -> list[tuple[str, str]]:
        texts = self.rendering.texts([trial.tokens for trial in subject.trials])
        return [(subject.explanation, text) for text in texts]

    def compare(self, subjects: list[Subject], model: Model, advance: Callable[[int], None]) -> None:
        """Record what the model says of each trial as its `probability`; AUROC needs no threshold.

        Args:
            advance: told of how many pairs were read.
        """
        found = model.scores(self.pairs(subjects), advance)
        for subject in subjects:
            for trial, pair in zip(subject.trials, self.pairs_of(subject), strict=True):
                subject.record(trial, probability=found[pair], status="ok")
