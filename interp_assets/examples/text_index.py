"""text_index: embeddings of windows of the corpus, among which negatives that read alike are looked up.

The index is built once for a corpus. Each distinct window is embedded once; which windows are in it, a keyed draw decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.draws import INDEX_WINDOW, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.job import Job, Metadata, computes
from interp_assets.models import embedder
from interp_assets.progress import Progress
from interp_assets.tables import TEXT_INDEX, conform
from resources.partition_files import Partition

NEAREST = 10
"Windows whose mean cosine with a window says how crowded it is around it."
ROWS_AT_ONCE = 1024


@computes("text_index")
def text_index(job: Job) -> Metadata:
    settings = job.study.examples.similar_text
    assert settings is not None
    tokens = tokens_matrix(job.input("corpus").read("corpus", ["tokens"]))
    context, start = sampled_windows(tokens.shape, job.study.examples.window, settings.windows, job.study.examples.seed)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, job.study.examples.window, axis=1)[context, start]
    rendering = Rendering.of(job.study)
    shown = [rendering.window(*each) for each in zip(windows.tolist(), start.tolist(), strict=True)]
    texts = rendering.texts(shown)
    model = embedder(job.study, settings, job.models)
    with Progress(job.label, model.new({"document": texts}), "texts") as progress:
        vectors = model.embed(texts, progress.advance)
    columns = {"context": context, "start": start, "vector": pl.Series(vectors).arr.to_list()}
    columns["crowding"] = TextIndex.build(context, start, vectors).crowding
    job.draft.write("windows", conform(pl.DataFrame(columns), TEXT_INDEX))
    return {"windows": len(context), "distinct_texts": len(set(texts)), "dimensions": vectors.shape[1]}


def sampled_windows(shape: tuple[int, ...], window: int, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and starts, int64, of at most `most` windows of the corpus: those of lowest keyed priority.

    Args:
        shape: contexts and their length, which are cut into windows from their start.
    """
    places = shape[1] // window
    context, place = np.divmod(np.arange(shape[0] * places), places)
    start = place * window
    taken = np.sort(np.argsort(keyed(seed, INDEX_WINDOW, context, start), kind="stable")[:most])
    return context[taken], start[taken]


@dataclass(frozen=True)
class TextIndex:
    """Windows of the corpus by what they say."""

    context: np.ndarray
    "int64 [windows]"
    start: np.ndarray
    "int64 [windows]"
    centre: np.ndarray
    "float32 [d], the mean of their embeddings"
    vectors: np.ndarray
    "float32 [windows, d]: their embeddings less the centre, of length 1"
    crowding: np.ndarray
    "float32 [windows], r of CSLS: the mean cosine of a window's vector with those NEAREST to it"

    @classmethod
    def build(cls, context: np.ndarray, start: np.ndarray, embeddings: np.ndarray) -> TextIndex:
        """
        Args:
            embeddings: float32 [windows, d], of length 1.
        """
        centre, vectors = centred(embeddings)
        return cls(context, start, centre, vectors, crowding(vectors))

    @classmethod
    def of(cls, partition: Partition) -> TextIndex:
        table = partition.read("windows")
        vectors = table["vector"].explode().to_numpy().reshape(len(table), -1)
        context, start = (table[name].to_numpy().astype(np.int64) for name in ("context", "start"))
        return cls(context, start, *centred(vectors), table["crowding"].to_numpy())

    def near(self, queries: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """CSLS of embeddings with some windows of the index, but for what is the same for all windows.

        Args:
            queries: float32 [queries, d], of length 1.
            windows: indices.

        Returns:
            float32 [queries, windows], the higher the nearer.
        """
        return 2 * directions(queries - self.centre) @ self.vectors[windows].T - self.crowding[windows]


def centred(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of some embeddings float32 [n, d], and their directions from there."""
    centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre, directions(vectors - centre)


def directions(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def crowding(vectors: np.ndarray) -> np.ndarray:
    """The mean cosine of each vector with the NEAREST others; float32 [windows]."""
    nearest = min(NEAREST, len(vectors) - 1)
    found = np.zeros(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors) if nearest else 0, ROWS_AT_ONCE):
        cosines = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        found[start : start + len(cosines)] = np.partition(cosines, -nearest, axis=1)[:, -nearest:].mean(axis=1)
    return found
