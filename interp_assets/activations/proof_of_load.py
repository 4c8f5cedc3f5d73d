"""The proof of load: an SAE must reconstruct what its hookpoint holds, before anything is built on it.

A transposed decoder, a forgotten b_dec or a TopK read as ReLU shows here as a fraction of variance unexplained (FVU)
near or above 1, or as an L0 far from the published one. The residual streams of two layers are so alike that an SAE
of one explains the other not badly; so it is also asked whether it explains another layer better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from interp_assets.activations.attention_sinks import attention_sink
from interp_assets.activations.misreadings import likely_cause
from interp_assets.activations.variance import fraction, largest_dimension, measured, typical_tokens
from interp_assets.proof_limits import PROOF_VERSION, beyond_limits
from interp_assets.settings import ProofOfLoad
from resources.errors import UnusableInput
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.controls import Neurons


class ProofFailed(UnusableInput):
    """The SAE does not fit what it reads; `details` holds what was measured."""

    def __init__(self, message: str, proof: dict[str, Any]) -> None:
        super().__init__(f"proof of load: {message}")
        self.details = {"proof": proof}
        self.measured = "fvu" in proof
        "False where the shapes or numbers are such that nothing can be computed."


def prove(
    sae: SparseAutoencoder | Neurons,
    x: Tensor,
    hookpoint: str,
    published_l0: float | None,
    limits: ProofOfLoad,
    *,
    target: Tensor | None = None,
    writes: str | None = None,
    tokens_per_context: int | None = None,
    or_reads: tuple[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Measure an SAE on activations x [tokens, d_in]; BOS left out. Returns what was measured, plain numbers.

    Args:
        target: of a transcoder, what stands at `writes` on the same tokens, [tokens, d_out].
        tokens_per_context: where given, it is also looked at whether the first token of each is what goes wrong.
        or_reads: another hookpoint that its files may mean, and what stands there on the same tokens, [tokens, d_in].

    Raises:
        ProofFailed: dimensions, FVU or L0 out of bounds.
    """
    proof: dict[str, Any] = {"hookpoint": hookpoint, "tokens": len(x)} | ({"writes": writes} if writes else {})
    transcodes = target is not None
    target = x if target is None else target
    for place, values, width, does in (
        (hookpoint, x, sae.d_in, "reads"),
        (writes or hookpoint, target, sae.d_out, "writes"),
    ):
        if values.shape[1] != width:
            raise ProofFailed(f"{place} holds {values.shape[1]} dimensions, the SAE {does} {width}", proof)
        if not torch.isfinite(values).all():
            raise ProofFailed(f"{place} holds values that are NaN or infinite{out_of_range(values)}", proof)
    proof |= {"dtype": str(x.dtype).removeprefix("torch."), "largest_activation": float(x.float().abs().max())}
    x, target = x.float(), target.float()
    reconstruction, top, usual = sae.reconstruct(x), sae.encode(x), typical_tokens(x, target)
    active = top.activations > 0
    alive = torch.zeros(sae.n_latents, dtype=torch.bool, device=x.device)
    alive[top.indices[active]] = True
    mean_l0 = float(active.sum(1).float().mean())
    proof |= measured(reconstruction, target, usual) | {
        "version": PROOF_VERSION,
        "fvu_with_massive_activations": round(fraction(reconstruction, target), 6),
        "tokens_with_massive_activations": len(x) - int(usual.as_is.sum()),
        "largest_dimension": largest_dimension(target[usual.alike]),
        "max_fvu": limits.max_fvu,
        "max_dimension_fvu": limits.dimension_limit,
        "mean_l0": round(mean_l0, 4),
        "published_l0": published_l0,
        "silent_share": round(1 - float(alive.float().mean()), 6),
    }
    if tokens_per_context and (sink := attention_sink(top.activations, tokens_per_context)):
        proof["attention_sink"] = sink
    if or_reads is not None:
        name, other = or_reads[0], or_reads[1].float()
        wanted = target if transcodes else other
        there = measured(sae.reconstruct(other), wanted, typical_tokens(other, wanted))
        proof |= {"or_reads": name} | {f"{figure}_or_reads": value for figure, value in there.items()}
    if beyond_limits(proof, limits) and (cause := likely_cause(sae, x, target, proof, tokens_per_context)):
        proof["likely_cause"] = cause
    if problem := beyond_limits(proof, limits):
        raise ProofFailed(problem, proof)
    return proof


def out_of_range(values: Tensor) -> str:
    """What to do about values that are not finite, where their type may be the reason."""
    # Massive activations of some models leave the range of float16, which no later float32 brings back.
    half = values.dtype == torch.float16
    return "; float16 ends at 65,504: set subject_model.dtype: bfloat16" if half else ""


def compare_layers(
    sae: SparseAutoencoder | Neurons,
    hookpoint: str,
    places: Mapping[str, Tensor],
    proof: dict[str, Any],
    limits: ProofOfLoad,
    targets: Mapping[str, Tensor] | None = None,
) -> None:
    """Add to a proof how well the SAE explains the same module of other layers, and judge it again.

    Args:
        places: activations [tokens, d_in] on the same tokens, by hookpoint, the own one among them.
        targets: of a transcoder, what is to be reconstructed, [tokens, d_out], by the hookpoint that is read.

    Raises:
        ProofFailed: it explains another one better than its own, or had failed before.
    """
    found: dict[str, dict[str, float]] = {}
    for name, x in places.items():
        target = x if targets is None else targets[name]
        if x.shape[1] == sae.d_in and target.shape[1] == sae.d_out:
            x, target = x.float(), target.float()
            found[name] = measured(sae.reconstruct(x), target, typical_tokens(x, target))
    for figure in ("fvu", "dimension_fvu"):
        proof[f"{figure}_by_layer"] = {name: each[figure] for name, each in found.items()}
    if problem := beyond_limits(proof, limits):
        raise ProofFailed(problem, proof)
