"""Whether a proof of load is good enough. Judged from the figures that are stored, so that another limit costs nothing."""

from __future__ import annotations

from typing import Any

from interp_assets.settings import ProofOfLoad

BETTER = 0.95
"Another layer counts as explained better below this share of the own layer's FVU."


def beyond_limits(proof: dict[str, Any], limits: ProofOfLoad) -> str | None:
    """Why an SAE must not be used, or None.

    Args:
        proof: what `activations.proof_of_load` measured.
    """
    hookpoint, fvu, mean_l0, published_l0 = (proof[name] for name in ("hookpoint", "fvu", "mean_l0", "published_l0"))
    if problem := better_on_the_other_side(proof):
        return problem
    place = f"{hookpoint}, of {proof['writes']}," if proof.get("writes") else hookpoint
    cause = proof.get("likely_cause")
    if not fvu <= limits.max_fvu:
        return f"at {place} the SAE leaves {fvu:.3g} of the variance unexplained (allowed: {limits.max_fvu:g}); " + (
            cause or "wrong hookpoint, wrong subject model, or weights read in a wrong way"
        )
    if published_l0 and not published_l0 / limits.l0_factor <= mean_l0 <= published_l0 * limits.l0_factor:
        return (
            f"at {place} {mean_l0:.1f} latents fire per token, published are {published_l0:g} "
            f"(allowed: within a factor of {limits.l0_factor:g})" + (f"; {cause}" if cause else "")
        )
    return explained_better_elsewhere(proof)


def better_on_the_other_side(proof: dict[str, Any]) -> str | None:
    """Why the SAE was trained on the other side of a LayerNorm's gain and bias, where both were tried, or None."""
    other, there = proof.get("or_reads"), proof.get("fvu_or_reads")
    if other is None or there is None or there >= BETTER * proof["fvu"]:
        return None
    return (
        f"the SAE explains {other} better (FVU {there:.3g}) than {proof['hookpoint']} (FVU {proof['fvu']:.3g}); "
        "TransformerLens has a LayerNorm's hook_normalized before gain and bias since 3.0, and had it behind them before, so "
        f"name the place: hookpoints: [{other}]"
    )


def explained_better_elsewhere(proof: dict[str, Any]) -> str | None:
    """Why the hookpoint is taken for a wrong one, where other layers were looked at, or None."""
    hookpoint, by_layer = proof["hookpoint"], proof.get("fvu_by_layer")
    if not by_layer:
        return None
    best = min(by_layer, key=lambda name: by_layer[name])
    if by_layer[best] >= BETTER * by_layer[hookpoint]:
        return None
    return (
        f"the SAE explains {best} better (FVU {by_layer[best]:.3g}) than {hookpoint} (FVU {by_layer[hookpoint]:.3g}), which "
        "the study names as its hookpoint; if that is right all the same, set proof_of_load.compare_layers: false"
    )
