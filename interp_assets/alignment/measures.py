"""How alike two latents are, by the study's measure."""

from __future__ import annotations

import numpy as np

from interp_assets.alignment.directions import Directions, Products, norms
from resources.errors import UnusableInput
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder


def weights_of(sae: SparseAutoencoder, measure: str, layer: str) -> list[np.ndarray]:
    """What of an SAE is compared: float32 rows [n_latents, d] of one or two kinds.

    Raises:
        UnusableInput: thresholds are to be folded in, and it has none.
    """
    decoder, encoder = sae.W_dec.float().cpu().numpy(), sae.W_enc.T.float().cpu().numpy()
    if measure == "folded":
        if sae.threshold is None:
            raise UnusableInput(
                f"{layer}: similarity: folded needs the thresholds of a JumpReLU SAE, and this one is {sae.activation}; "
                "similarity: decoder compares any"
            )
        return [decoder * sae.threshold.float().cpu().numpy()[:, None]]
    return {"decoder": [decoder], "encoder": [encoder], "both": [decoder, encoder]}[measure]


def without_direction(weights: list[np.ndarray], layer: str) -> np.ndarray:
    """Latents whose direction is zero, bool [n_latents].

    Raises:
        UnusableInput: numbers that are NaN or infinite.
    """
    zero = np.zeros(len(weights[0]), dtype=bool)
    for rows in weights:
        lengths = norms(rows)
        if bad := np.flatnonzero(~np.isfinite(lengths)).tolist():
            raise UnusableInput(
                f"{layer}: directions of {len(bad)} latents hold NaN or infinity, such as latent {bad[0]}"
            )
        zero |= lengths == 0
    return zero


def similarities_of(a: list[np.ndarray], b: list[np.ndarray], measure: str, device: str = "cpu") -> Products:
    """Cosines; the mean of both cosines for `both`.

    For `folded`, decoders with their thresholds folded in (Balagansky et al. 2024): 1 - |x - y|^2 / (2 m), with m the
    mean of |x|^2 over all x of both sides, which is the cosine where all have the same length.

    Args:
        a, b: rows float32 [latents, d], one array for each kind of weights.

    Raises:
        UnusableInput: directions of different length.
    """
    for one, other in zip(a, b, strict=True):
        if one.shape[1] != other.shape[1]:
            raise UnusableInput(f"directions of {one.shape[1]} and of {other.shape[1]} numbers cannot be compared")
    if measure != "folded":
        return Products(Directions.unit(*a), Directions.unit(*b), device)
    squares = [norms(side[0]) ** 2 for side in (a, b)]
    mean = float(np.concatenate(squares).mean()) or 1.0
    sides = []
    for (rows,), square, first in zip((a, b), squares, (True, False), strict=True):
        ones, half = np.ones(len(rows)), -square / (2 * mean)
        # 1 - |x|^2 / 2m - |y|^2 / 2m + x y / m, as one product
        tail = (1 + half, ones) if first else (ones, half)
        parts = [(np.ones((len(rows), 1), dtype=np.float32), factor) for factor in tail]
        sides.append(Directions(((rows, np.full(len(rows), mean**-0.5)), *parts)))
    return Products(sides[0], sides[1], device)
