"""The proof of load: an SAE must reconstruct what its hookpoint holds, before anything is built on it.

A wrong hookpoint, a transposed decoder, a forgotten b_dec or a TopK read as ReLU shows here as a fraction of variance
unexplained (FVU) near or above 1, or as an L0 far from the published one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_assets.settings import ProofOfLoad
from resources.errors import UnusableInput
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder


class ProofFailed(UnusableInput):
    """The SAE does not fit what it reads; `details` holds what was measured."""

    def __init__(self, message: str, proof: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = {"proof": proof}


def prove(
    sae: SparseAutoencoder, x: Tensor, hookpoint: str, published_l0: float | None, limits: ProofOfLoad
) -> dict[str, Any]:
    """Measure an SAE on activations x [tokens, d_in]; BOS left out.

    FVU = sum ||x - x'||^2 / sum ||x - mean(x)||^2. Returns what was measured, plain numbers.

    Raises:
        ProofFailed: FVU or L0 out of bounds.
    """
    if x.shape[1] != sae.d_in:
        proof = {"hookpoint": hookpoint, "tokens": len(x)}
        raise ProofFailed(f"proof of load: {hookpoint} holds {x.shape[1]} dimensions, the SAE reads {sae.d_in}", proof)
    x = x.float()
    top = sae.encode(x)
    if not torch.isfinite(x).all():
        raise ProofFailed(f"proof of load: {hookpoint} holds values that are NaN or infinite", {"hookpoint": hookpoint})
    error = (x - sae.decode(top)).square().sum()
    fvu = float(error / (x - x.mean(0)).square().sum())
    active = top.activations > 0
    alive = torch.zeros(sae.n_latents, dtype=torch.bool, device=x.device)
    alive[top.indices[active]] = True
    mean_l0 = float(active.sum(1).float().mean())
    proof = {
        "hookpoint": hookpoint,
        "tokens": len(x),
        "fvu": round(fvu, 6),
        "max_fvu": limits.max_fvu,
        "mean_l0": round(mean_l0, 4),
        "published_l0": published_l0,
        "silent_share": round(1 - float(alive.float().mean()), 6),
        "largest_norm_over_median": round(float(x.norm(dim=1).max() / x.norm(dim=1).median()), 2),
    }
    if not fvu <= limits.max_fvu:
        raise ProofFailed(
            f"proof of load: at {hookpoint} the SAE leaves {fvu:.3g} of the variance unexplained (allowed: {limits.max_fvu:g}); "
            "wrong hookpoint, wrong subject model, or weights read in a wrong way",
            proof,
        )
    if published_l0 and not published_l0 / limits.l0_factor <= mean_l0 <= published_l0 * limits.l0_factor:
        raise ProofFailed(
            f"proof of load: at {hookpoint} {mean_l0:.1f} latents fire per token, published are {published_l0:g} "
            f"(allowed: within a factor of {limits.l0_factor:g})",
            proof,
        )
    return proof
