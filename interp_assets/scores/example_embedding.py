"""Example embedding: how near a latent's test windows lie to other windows of it, without any explanation.

The query is the mean of the embeddings of windows on which the latent fires, of those that explainers see. So it says
what an embedder could find if it were told by examples what explanations tell by words (arXiv 2507.08473).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from interp_assets.carry_over import windows_by_latent
from interp_assets.examples.rendering import as_shown
from interp_assets.scores.comparing import Comparing
from interp_assets.scores.method import CONTEXTS, PLACED_EXAMPLES, WINDOWS
from interp_assets.scores.trials import Key, Subject, Tested, shuffled
from interp_assets.settings import NO_EXPLAINER, ExampleEmbeddingScorer

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from resources.text_embedder import Role


class ExampleEmbedding(Comparing[ExampleEmbeddingScorer]):
    name = "example_embedding"
    description = "How well a sentence embedder finds a latent's examples from others of them. No explanation, no LLM."
    code_version = "4"
    reads = (PLACED_EXAMPLES, WINDOWS, CONTEXTS)

    def tested(self, inputs: Inputs, examples: pl.DataFrame) -> dict[Key, Tested]:
        """Each latent by its own windows, and by those of another."""
        table = inputs.input("examples").read("examples")
        explain = table.filter((pl.col("purpose") == "explain") & (pl.col("status") == "ok")).sort(
            "latent", "peak_activation", "example", descending=[False, True, False]
        )
        chosen = spread(explain, self.settings.examples)
        hashes, bos = windows_by_latent(chosen), bool(self.study.corpus.bos)
        windows = {
            int(str(latent)): [
                as_shown(tokens, start, bos) for tokens, start in group.select("tokens", "start").iter_rows()
            ]
            for (latent,), group in chosen.group_by("latent", maintain_order=True)
        }
        partners = shuffled(list(windows), self.seed) if self.settings.shuffled_control else {}
        found = {}
        for latent in windows:
            found[latent, NO_EXPLAINER, "none"] = Tested(query=windows[latent], also=(hashes[latent],))
            if (partner := partners.get(latent)) is not None:
                found[latent, NO_EXPLAINER, "shuffled"] = Tested(query=windows[partner], also=(hashes[partner],))
        return found

    @property
    def role(self) -> Role:
        return "document"

    def standing_for(self, subject: Subject) -> list[str]:
        return self.rendering.texts(subject.query)


def spread(explain: pl.DataFrame, count: int) -> pl.DataFrame:
    """So many windows of each latent, evenly over the order in which they stand; all where there are fewer."""
    rank, length = pl.int_range(pl.len()).over("latent"), pl.len().over("latent")
    # Of ranks 0..length-1, the first that falls into each of `count` equal parts.
    return explain.filter((rank * count) // length != ((rank - 1) * count) // length)
