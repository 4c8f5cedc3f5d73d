"""Corpora in which text recurs, and latents on them."""

from __future__ import annotations

import numpy as np

CONTEXTS, LENGTH, LATENTS, VOCABULARY = 200, 64, 24, 800
HEADER = np.arange(24)
"Tokens that documents have only in the header."


def repeated_corpus(
    twice: bool = True, header: bool = True, contexts: int = CONTEXTS, length: int = LENGTH
) -> np.ndarray:
    """Random tokens uint32 [contexts, length] in documents of 40 to 160.

    Args:
        twice: every document stands twice. Some copies are cut into contexts as the documents are, the others come in
            another order, so that they are shifted.
        header: every document begins with HEADER.
    """
    draw = np.random.default_rng(0)
    wanted = contexts * length
    documents: list[np.ndarray] = []
    while sum(map(len, documents)) < (wanted // 2 if twice else wanted):
        words = draw.integers(len(HEADER), VOCABULARY, draw.integers(40, 160))
        documents.append(np.concatenate([HEADER, words]) if header else words)
    if twice:
        some = int(np.searchsorted(np.cumsum(list(map(len, documents))), wanted // 6))
        shifted = [documents[i] for i in draw.permutation(np.arange(some, len(documents)))]
        begun = np.concatenate(documents[:some])
        whole = begun[: len(begun) // length * length]
        documents = [whole, whole, *documents[some:], *shifted, *documents[:some]]
    return np.concatenate(documents)[:wanted].reshape(contexts, length).astype(np.uint32)


def active_where(tokens: np.ndarray, latents: int = LATENTS) -> np.ndarray:
    """Activations float32 [contexts, length, latents] that the token alone decides; latent 0 on the middle of HEADER only."""
    draw = np.random.default_rng(3)
    fires = draw.random((VOCABULARY, latents)) < np.geomspace(0.003, 0.05, latents)
    of_token = np.where(fires, draw.gamma(2, 1, fires.shape), 0)
    of_token[:, 0] = 0
    of_token[HEADER[8:16], 0] = 1 + np.arange(8)
    dense = of_token[tokens].astype(np.float32)
    dense[:, 0] = 0
    return dense


def edge_firings(contexts: int = CONTEXTS, length: int = LENGTH, latents: int = LATENTS) -> np.ndarray:
    """Activations float32 [contexts, length, latents] near the edges of contexts; every third latent's at their beginning."""
    draw = np.random.default_rng(4)
    position = np.arange(length)
    edge = np.where((position < 8) | (position >= length - 8), 1.0, 0.1)
    early = np.where(position < 10, 1.0, 0.0)
    rates = 0.04 * np.where(np.arange(latents) % 3 == 0, early[:, None], edge[:, None])
    shape = (contexts, length, latents)
    dense = np.where(draw.random(shape) < rates, draw.gamma(2, 1, shape), 0)
    dense[:, 0] = 0
    return dense.astype(np.float32)
