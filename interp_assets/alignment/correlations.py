"""Pearson correlation of what latents of two layers do, over all positions of the text, from their sparse caches. Exact.

    r(x, y) = (sum x y - N mean(x) mean(y)) / (|x - mean(x)| |y - mean(y)|)

Only positions at which both fire add to the first sum: a product of two sparse matrices, block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from interp_assets.activations.cache_file import CacheReader, Entries
from interp_assets.alignment.directions import UNIT_ROUNDOFF, Some

ENTRIES_AT_ONCE = 2**24
"Of both sides, where single pairs are multiplied: some hundred megabytes."


@dataclass(frozen=True)
class Firing:
    """What latents do, brought to unit variance and unit length."""

    scaled: csr_array
    "float64 [latents, positions]: x / |x - mean(x)|, 0 where it does not fire"
    mean: np.ndarray
    "float64 [latents]: sqrt(N) mean(x) / |x - mean(x)|"
    varies: np.ndarray
    "bool [latents]"

    @classmethod
    def of(cls, cache: CacheReader, latents: np.ndarray, contexts: int, length: int, left_out: int) -> Firing:
        """
        Args:
            latents: int64, ascending.
            contexts, length: of the corpus.
            left_out: positions at the start of each context on which no latent is recorded.
        """
        wanted = np.zeros(cache.n_latents, dtype=bool)
        wanted[latents] = True
        parts = [cache.part(number, wanted)[1] for number in cache.blocks_of(wanted)]
        entries = Entries(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        position = entries.context.astype(np.int64) * length + entries.position
        offsets = np.append(0, np.cumsum(cache.entries[latents]))
        values = csr_array(
            (entries.activation.astype(np.float64), position, offsets), (len(latents), contexts * length)
        )
        count = contexts * (length - left_out)
        total = np.asarray(values.sum(axis=1)).ravel()
        squares = np.add.reduceat(np.append(values.data, 0.0) ** 2, offsets[:-1]) * (np.diff(offsets) > 0)
        spread = np.sqrt(np.maximum(squares - total**2 / count, 0.0))
        varies = spread > 1e-9 * np.sqrt(np.maximum(squares, 1e-300))
        divisor = np.where(varies, spread, 1.0)
        values.data /= np.repeat(divisor, np.diff(offsets))
        return cls(values, total / np.sqrt(count) / divisor, varies)

    def subset(self, latents: np.ndarray) -> Firing:
        return Firing(self.scaled[latents], self.mean[latents], self.varies[latents])


class Correlations:
    """Similarities of two layers that have read the same text."""

    error = 4 * UNIT_ROUNDOFF
    "Tiles are computed in float64 and rounded."

    def __init__(self, a: Firing, b: Firing, turned: tuple[csr_array, csr_array] | None = None) -> None:
        self.a, self.b = a, b
        self._turned = turned or (csr_array(a.scaled.T), csr_array(b.scaled.T))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a.mean), len(self.b.mean)

    def tile(self, rows: Some, columns: Some, rough: bool = False) -> Tensor:
        found = torch.from_numpy(self._dense(rows, columns))
        return found.to(torch.bfloat16 if rough else torch.float32)

    def exact_tile(self, rows: np.ndarray) -> np.ndarray:
        return self._dense(rows, slice(0, self.shape[1]))

    def _dense(self, rows: Some, columns: Some) -> np.ndarray:
        mean = self.b.mean[columns]
        whole = isinstance(columns, slice) and len(mean) == self.shape[1]
        other = self._turned[1] if whole else csr_array(self.b.scaled[columns].T)
        return (self.a.scaled[rows] @ other).toarray() - np.outer(self.a.mean[rows], mean)

    def exact(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        found = np.empty(len(rows))
        entries = np.cumsum(np.diff(self.a.scaled.indptr)[rows] + np.diff(self.b.scaled.indptr)[columns])
        ends = np.flatnonzero(np.diff(entries // ENTRIES_AT_ONCE, append=-1)) + 1
        for start, end in zip(np.append(0, ends)[:-1], ends, strict=True):
            i, j = rows[start:end], columns[start:end]
            both = self.a.scaled[i].multiply(self.b.scaled[j]).sum(axis=1)
            found[start:end] = np.asarray(both).ravel() - self.a.mean[i] * self.b.mean[j]
        return found

    def subset(self, rows: np.ndarray, columns: np.ndarray) -> Correlations:
        return Correlations(self.a.subset(rows), self.b.subset(columns))

    @property
    def T(self) -> Correlations:
        return Correlations(self.b, self.a, self._turned[::-1])
