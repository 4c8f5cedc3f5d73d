"""The proof of load: an SAE must reconstruct what its hookpoint holds, before anything is built on it.

A transposed decoder, a forgotten b_dec or a TopK read as ReLU shows here as a fraction of variance unexplained (FVU)
near or above 1, or as an L0 far from the published one. The residual streams of two layers are so alike that an SAE
of one explains the other not badly; so it is also asked whether it explains another layer better.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_assets.proof_limits import beyond_limits, explained_better_elsewhere
from interp_assets.settings import ProofOfLoad
from resources.errors import UnusableInput
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.controls import Neurons

MASSIVE = 10.0
"""Tokens whose norm is this many times the median are left out of the FVU that is judged: a handful of them can hold
nearly all variance of a layer (Sun et al. 2024, "Massive Activations"), and would pass any SAE that hits them."""


class ProofFailed(UnusableInput):
    """The SAE does not fit what it reads; `details` holds what was measured."""

    def __init__(self, message: str, proof: dict[str, Any]) -> None:
        super().__init__(f"proof of load: {message}")
        self.details = {"proof": proof}
        self.measured = "fvu" in proof
        "False where the shapes or numbers are such that nothing can be computed."


def typical(x: Tensor) -> Tensor:
    """The rows of x [tokens, d] without massive activations, float32."""
    x = x.float()
    norms = x.norm(dim=1)
    return x[norms <= MASSIVE * norms.median()]


def unexplained(sae: SparseAutoencoder | Neurons, x: Tensor) -> float:
    """FVU = sum ||x - x'||^2 / sum ||x - mean(x)||^2 over x [tokens, d_in]."""
    error = (x - sae.decode(sae.encode(x))).square().sum()
    return float(error / (x - x.mean(0)).square().sum())


def prove(
    sae: SparseAutoencoder | Neurons, x: Tensor, hookpoint: str, published_l0: float | None, limits: ProofOfLoad
) -> dict[str, Any]:
    """Measure an SAE on activations x [tokens, d_in]; BOS left out. Returns what was measured, plain numbers.

    Raises:
        ProofFailed: dimensions, FVU or L0 out of bounds.
    """
    proof: dict[str, Any] = {"hookpoint": hookpoint, "tokens": len(x)}
    if x.shape[1] != sae.d_in:
        raise ProofFailed(f"{hookpoint} holds {x.shape[1]} dimensions, the SAE reads {sae.d_in}", proof)
    dtype, x = str(x.dtype).removeprefix("torch."), x.float()
    if not torch.isfinite(x).all():
        # Massive activations of some models leave the range of float16, which no later float32 brings back.
        why = "; float16 ends at 65,504: set subject_model.dtype: bfloat16" if dtype == "float16" else ""
        raise ProofFailed(f"{hookpoint} holds values that are NaN or infinite{why}", proof)
    proof |= {"dtype": dtype, "largest_activation": float(x.abs().max())}
    usual = typical(x)
    fvu = unexplained(sae, usual)
    top = sae.encode(x)
    active = top.activations > 0
    alive = torch.zeros(sae.n_latents, dtype=torch.bool, device=x.device)
    alive[top.indices[active]] = True
    mean_l0 = float(active.sum(1).float().mean())
    proof |= {
        "fvu": round(fvu, 6),
        "fvu_with_massive_activations": round(unexplained(sae, x), 6),
        "tokens_with_massive_activations": len(x) - len(usual),
        "max_fvu": limits.max_fvu,
        "mean_l0": round(mean_l0, 4),
        "published_l0": published_l0,
        "silent_share": round(1 - float(alive.float().mean()), 6),
    }
    if problem := beyond_limits(proof, limits):
        raise ProofFailed(problem, proof)
    return proof


def compare_layers(
    sae: SparseAutoencoder | Neurons, hookpoint: str, places: dict[str, Tensor], proof: dict[str, Any]
) -> None:
    """Add to a proof how well the SAE explains the same module of other layers.

    Args:
        places: activations [tokens, d] on the same tokens, by hookpoint, the own one among them.

    Raises:
        ProofFailed: it explains another one better than its own.
    """
    fvu = {name: round(unexplained(sae, typical(x)), 6) for name, x in places.items() if x.shape[1] == sae.d_in}
    proof["fvu_by_layer"] = fvu
    if problem := explained_better_elsewhere(proof):
        raise ProofFailed(problem, proof)
