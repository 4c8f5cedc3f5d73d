"""How much of what stands at a hookpoint an SAE explains."""

from __future__ import annotations

from torch import Tensor

from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.controls import Neurons

MASSIVE = 10.0
"""Tokens whose norm is this many times the median are left out of the FVU that is judged: a handful of them can hold
nearly all variance of a layer (Sun et al. 2024, "Massive Activations"), and would pass any SAE that hits them."""


def typical(x: Tensor) -> Tensor:
    """Which rows of x [tokens, d] are without massive activations, bool [tokens]."""
    norms = x.float().norm(dim=1)
    return norms <= MASSIVE * norms.median()


def unexplained(sae: SparseAutoencoder | Neurons, x: Tensor, target: Tensor) -> float:
    """FVU = sum ||y - y'||^2 / sum ||y - mean(y)||^2 over targets y [tokens, d_out], y' made from x [tokens, d_in]."""
    return fraction(sae.reconstruct(x), target)


def fraction(reconstruction: Tensor, target: Tensor) -> float:
    return float((target - reconstruction).square().sum() / (target - target.mean(0)).square().sum())
