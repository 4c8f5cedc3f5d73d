"""Example embedding: how near a latent's test windows lie to other windows of it, without any explanation.

The query is the mean of the embeddings of windows on which the latent fires, of those that explainers see. So it says
what an embedder could find if it were told by examples what explanations tell by words (arXiv 2507.08473).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from interp_assets.carry_over import windows_by_latent
from interp_assets.scores.method import CONTEXTS, PLACED_EXAMPLES, WINDOWS, Method
from interp_assets.scores.trials import NO_EXPLAINER, Key, Subject, Tested, TestExample, Trial, shuffled, whole_texts
from interp_assets.settings import ExampleEmbeddingScorer

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from resources.text_embedder import TextEmbedder


class ExampleEmbedding(Method[ExampleEmbeddingScorer]):
    name = "example_embedding"
    description = "How well a sentence embedder finds a latent's examples from others of them. No explanation, no LLM."
    reads = (PLACED_EXAMPLES, WINDOWS, CONTEXTS)

    def tested(self, inputs: Inputs, examples: pl.DataFrame) -> dict[Key, Tested]:
        """Each latent by its own windows, and by those of another."""
        table = inputs.input("examples").read("examples")
        explain = table.filter((pl.col("purpose") == "explain") & (pl.col("status") == "ok")).sort(
            "latent", "peak_activation", "example", descending=[False, True, False]
        )
        chosen = spread(explain, self.settings.examples)
        hashes = windows_by_latent(chosen)
        windows = {
            int(str(latent)): group["tokens"].to_list()
            for (latent,), group in chosen.group_by("latent", maintain_order=True)
        }
        partners = shuffled(list(windows), self.seed) if self.settings.shuffled_control else {}
        found = {}
        for latent in windows:
            found[latent, NO_EXPLAINER, "none"] = Tested(query=windows[latent], also=(hashes[latent],))
            if (partner := partners.get(latent)) is not None:
                found[latent, NO_EXPLAINER, "shuffled"] = Tested(query=windows[partner], also=(hashes[partner],))
        return found

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return whole_texts(examples)

    def texts(self, subjects: list[Subject]) -> list[str]:
        """What has to be embedded: each distinct window, once."""
        windows = {tuple(trial.tokens) for subject in subjects for trial in subject.trials}
        windows |= {tuple(window) for subject in subjects for window in subject.query}
        return sorted(set(self.rendering.texts(list(windows))))

    def compare(self, subjects: list[Subject], embedder: TextEmbedder, advance: Callable[[int], None]) -> None:
        """Record each trial's cosine with the query as its `probability`.

        Args:
            advance: told how many texts were embedded.
        """
        embedder.embed(self.texts(subjects), advance)
        for subject in subjects:
            query = embedder.embed(self.rendering.texts(subject.query)).mean(0)
            query /= np.linalg.norm(query) or 1.0
            cosines = embedder.embed(self.rendering.texts([trial.tokens for trial in subject.trials])) @ query
            for trial, cosine in zip(subject.trials, cosines.astype(np.float64), strict=True):
                subject.record(trial, probability=float(cosine), status="ok")


def spread(explain: pl.DataFrame, count: int) -> pl.DataFrame:
    """So many windows of each latent, evenly over the order in which they stand; all where there are fewer."""
    rank, length = pl.int_range(pl.len()).over("latent"), pl.len().over("latent")
    # Of ranks 0..length-1, the first that falls into each of `count` equal parts.
    return explain.filter((rank * count) // length != ((rank - 1) * count) // length)
