"""Late interaction: an explanation and a window compared token by token (ColBERT's MaxSim, arXiv 2004.12832).

Vectors of tokens share a mean and a few directions that tell kinds of text apart, code from prose say, and nothing about
words. Latents fire on some kinds of text more than on others, so another latent's explanation, written about such text,
would lie nearer to activating windows than to others. Both are taken away, as estimated on windows of the corpus
("all-but-the-top", arXiv 1702.01417): neither depends on any latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TAKEN_AWAY = 1
"Directions of largest variance that are taken away."
NEAREST = 10
"Tokens of an explanation that count: those that lie nearest to the window."


class Match(NamedTuple):
    score: float
    window_token: int
    "The token of the window that lies nearest to one of the explanation's,"
    explanation_token: int
    "and that one of the explanation."


@dataclass(frozen=True)
class TokenSpace:
    mean: np.ndarray
    "float32 [d]"
    directions: np.ndarray
    "float32 [taken away, d], of length 1 and at right angles"

    @classmethod
    def of(cls, vectors: np.ndarray, taken_away: int = TAKEN_AWAY) -> TokenSpace:
        """
        Args:
            vectors: float32 [tokens, d] of reference texts; none leaves vectors as they are.
        """
        mean = vectors.mean(0, dtype=np.float64).astype(np.float32) if len(vectors) else np.zeros(vectors.shape[1:])
        covariance = np.cov((vectors - mean).T) if len(vectors) > 1 else np.zeros((len(mean), len(mean)))
        # In ascending order of variance.
        _, directions = np.linalg.eigh(covariance)
        kept = directions[:, len(mean) - taken_away :].T if len(vectors) > taken_away else np.zeros((0, len(mean)))
        return cls(mean.astype(np.float32), kept.astype(np.float32))

    def units(self, vectors: np.ndarray) -> np.ndarray:
        """What is left of vectors, float32 [tokens, d], of length 1."""
        centred = vectors - self.mean
        return scaled(centred - (centred @ self.directions.T) @ self.directions)


def maxsim(explanation: np.ndarray, window: np.ndarray, nearest: int = NEAREST) -> Match | None:
    """The mean, over those tokens of an explanation that lie nearest, of the largest cosine with any of a window's.

    None where either has no token.

    Args:
        explanation, window: float32 [tokens, d], of length 1.
    """
    if not len(window) or not len(explanation):
        return None
    cosines = explanation @ window.T
    at = cosines.argmax(1)
    largest = cosines[np.arange(len(at)), at]
    chosen = np.argsort(-largest, kind="stable")[:nearest]
    return Match(float(largest[chosen].mean()), int(at[chosen[0]]), int(chosen[0]))


def scaled(vectors: np.ndarray) -> np.ndarray:
    """To length 1; a vector of length 0 stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
