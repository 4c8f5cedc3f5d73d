"""Directions of latents, and their similarities tile by tile: the matrix of all of them never exists.

A tile is computed in bfloat16 (to find candidates) or in float32 (to certify); single similarities in float64.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

PAIRS_AT_ONCE, ROWS_AT_ONCE = 256, 2_048
"Pairs whose float64 products are taken together, rows that are brought to float64: these stay in the processor's cache."
MANY_PAIRS, THREADS = 2**15, 2
"More than so many are shared among threads, four times as many at once, so that they seldom wait for one another."
UNIT_ROUNDOFF = 2.0**-24
# More has to be got from the system for each tile anew, zeroed page by page, and leaves the processor's cache.
TILE = 512, 8_192
"Rows and columns of a tile at most."
Some = slice | np.ndarray
"Rows or columns: int64, or one behind the other."


class Similarities(Protocol):
    """All similarities of the latents of one side, rows, with those of another, columns."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def error(self) -> float:
        """How far a float32 tile is from the truth at most."""

    def tile(self, rows: Some, columns: Some, rough: bool = False) -> Tensor:
        """[rows, columns]: float32, or bfloat16 where it may be rough."""

    def exact(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """float64 [n] of n pairs."""

    def exact_tile(self, rows: np.ndarray) -> np.ndarray:
        """float64 [rows, all columns]."""

    def subset(self, rows: np.ndarray, columns: np.ndarray) -> Similarities: ...

    @property
    def T(self) -> Similarities: ...


@dataclass(frozen=True)
class Directions:
    """One vector for each latent: parts behind one another, each of them rows times a factor."""

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]
    "rows float32 [n, d] and factors float64 [n]"

    @classmethod
    def unit(cls, *weights: np.ndarray) -> Directions:
        """Rows float32 [n, d] of which each part is brought to the same length, the whole to length 1."""
        share = len(weights) ** -0.5
        return cls(tuple((rows, share / np.maximum(norms(rows), np.finfo(float).tiny)) for rows in weights))

    def __len__(self) -> int:
        return len(self.parts[0][0])

    @property
    def width(self) -> int:
        return sum(rows.shape[1] for rows, _ in self.parts)

    def of(self, latents: np.ndarray) -> Directions:
        return Directions(tuple((rows[latents], factor[latents]) for rows, factor in self.parts))

    def double(self, latents: np.ndarray | slice) -> np.ndarray:
        """float64 [latents, d]."""
        return np.concatenate([rows[latents] * factor[latents, None] for rows, factor in self.parts], axis=1)

    def longest(self) -> float:
        """The length of the longest."""
        squares = sum((norms(rows) * factor) ** 2 for rows, factor in self.parts)
        return float(np.sqrt(np.max(squares, initial=0.0)))

    def single(self) -> np.ndarray:
        """float32 [n, d]."""
        found = np.empty((len(self), self.width), dtype=np.float32)
        for start in range(0, len(self), ROWS_AT_ONCE):
            found[start : start + ROWS_AT_ONCE] = self.double(slice(start, start + ROWS_AT_ONCE))
        return found


def norms(rows: np.ndarray) -> np.ndarray:
    """Euclidean norms float64 [n] of float32 rows [n, d]."""
    parts = (rows[i : i + ROWS_AT_ONCE].astype(np.float64) for i in range(0, len(rows), ROWS_AT_ONCE))
    return np.concatenate([np.linalg.norm(part, axis=1) for part in parts]) if len(rows) else np.zeros(0)


class Products:
    """Inner products of two sets of directions; cosines where all have length 1."""

    def __init__(self, a: Directions, b: Directions, device: str = "cpu") -> None:
        self.a, self.b, self.device = a, b, device
        self._vectors: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.b)

    @property
    def error(self) -> float:
        """|fl(x y) - x y| <= d u / (1 - d u) |x| |y| in whatever order is summed (Higham 2002, section 3.1), u = 2^-24,
        and four more roundings for bringing the vectors to float32."""
        steps = (self.a.width + 4) * UNIT_ROUNDOFF
        return self._longest * steps / (1 - steps)

    @cached_property
    def _longest(self) -> float:
        """The greatest |x| |y|."""
        return self.a.longest() * self.b.longest()

    def vectors(self, rough: bool) -> tuple[Tensor, Tensor]:
        kind = "rough" if rough else "single"
        if kind not in self._vectors:
            # One kind at a time is needed.
            self._vectors.clear()
            dtype = torch.bfloat16 if rough else torch.float32
            one, other = (torch.from_numpy(side.single()).to(self.device, dtype) for side in (self.a, self.b))
            self._vectors[kind] = one, other
        return self._vectors[kind]

    def tile(self, rows: Some, columns: Some, rough: bool = False) -> Tensor:
        one, other = self.vectors(rough)
        return one[rows] @ other[columns].T

    def exact(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        found = np.empty(len(rows))

        def some(part: slice) -> None:
            i, j = rows[part], columns[part]
            found[part] = sum(
                np.einsum("nd,nd->n", x[i], y[j], dtype=np.float64) * x_factor[i] * y_factor[j]
                for (x, x_factor), (y, y_factor) in zip(self.a.parts, self.b.parts, strict=True)
            )

        if len(rows) < MANY_PAIRS:
            for part in parts(len(rows), PAIRS_AT_ONCE):
                some(part)
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(some, parts(len(rows), PAIRS_AT_ONCE * 4)))
        return found

    def exact_tile(self, rows: np.ndarray) -> np.ndarray:
        one = self.a.double(rows)
        starts = range(0, len(self.b), ROWS_AT_ONCE)
        return np.concatenate([one @ self.b.double(slice(at, at + ROWS_AT_ONCE)).T for at in starts], axis=1)

    def subset(self, rows: np.ndarray, columns: np.ndarray) -> Products:
        return Products(self.a.of(rows), self.b.of(columns), self.device)

    @property
    def T(self) -> Products:
        return Products(self.b, self.a, self.device)


def row_blocks(rows: int, blocks: int = 32) -> list[slice]:
    """So many blocks of rows, or more where these would be higher than a tile, or fewer where they would be very low."""
    return parts(rows, int(np.clip(rows // blocks, 64, TILE[0])))


def column_parts(columns: int) -> list[slice]:
    """Columns as wide as a tile."""
    return parts(columns, TILE[1])


def parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
