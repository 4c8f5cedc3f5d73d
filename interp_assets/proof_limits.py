"""Whether a proof of load is good enough. Judged from the figures that are stored, so that another limit costs nothing."""

from __future__ import annotations

from typing import Any

from interp_assets.settings import ProofOfLoad

PROOF_VERSION = 2
"""Of what a proof measures. One that measured less is done anew, on its few thousand tokens; the activations stay.
2: `dimension_fvu`, in which dimensions count alike."""
FIGURES = {"fvu": "FVU", "dimension_fvu": "mean FVU of dimensions"}
BETTER = 0.95
"Another layer counts as explained better below this share of the own layer's FVU."


def outdated(proof: dict[str, Any] | None) -> str | None:
    """Why a stored proof of load is to be made anew, or None."""
    version = PROOF_VERSION if proof is None else proof.get("version", 1)
    if version == PROOF_VERSION:
        return None
    return f"the proof of load measures more than it did (version {version} -> {PROOF_VERSION}); activations are kept"


def beyond_limits(proof: dict[str, Any], limits: ProofOfLoad) -> str | None:
    """Why an SAE must not be used, or None.

    Args:
        proof: what `activations.proof_of_load` measured.
    """
    hookpoint, fvu, mean_l0, published_l0 = (proof[name] for name in ("hookpoint", "fvu", "mean_l0", "published_l0"))
    if problem := better_on_the_other_side(proof):
        return problem
    cause, elsewhere = proof.get("likely_cause"), explained_better_elsewhere(proof)
    if elsewhere and not cause and min(proof[f"{compared(proof)}_by_layer"].values()) <= limits.dimension_limit:
        return elsewhere
    place = f"{hookpoint}, of {proof['writes']}," if proof.get("writes") else hookpoint
    if not fvu <= limits.max_fvu:
        return f"at {place} the SAE leaves {fvu:.3g} of the variance unexplained (allowed: {limits.max_fvu:g}); " + (
            cause or "wrong hookpoint, wrong subject model, or weights read in a wrong way"
        )
    dimension_fvu = proof.get("dimension_fvu", 0.0)
    if not dimension_fvu <= limits.dimension_limit:
        return (
            f"at {place} the SAE leaves {dimension_fvu:.3g} of the variance unexplained where dimensions count alike (allowed: "
            f"{limits.dimension_limit:g}); of the whole it leaves {fvu:.3g}, {massive_dimension(proof)}; "
            + (
                cause
                or "it reproduces few dimensions: wrong hookpoint, wrong subject model, or weights read in a wrong way"
            )
        )
    if published_l0 and not published_l0 / limits.l0_factor <= mean_l0 <= published_l0 * limits.l0_factor:
        return (
            f"at {place} {mean_l0:.1f} latents fire per token, published are {published_l0:g} "
            f"(allowed: within a factor of {limits.l0_factor:g})" + (f"; {cause}" if cause else "")
        )
    return elsewhere


def in_words(proof: dict[str, Any]) -> str:
    """What an SAE showed, in one line."""
    return (
        f"leaves {proof['fvu']:.3g} of the variance unexplained, {proof['dimension_fvu']:.3g} where dimensions count alike; "
        f"{proof['mean_l0']:.1f} latents fire per token"
    )


def massive_dimension(proof: dict[str, Any]) -> str:
    """Where most of the variance is, in words that follow a figure."""
    largest = proof["largest_dimension"]
    return f"of which dimension {largest['dimension']} alone holds {largest['share']:.2g}"


def better_on_the_other_side(proof: dict[str, Any]) -> str | None:
    """Why the SAE was trained on the other side of a LayerNorm's gain and bias, where both were tried, or None."""
    figure = compared(proof)
    other, there, here = proof.get("or_reads"), proof.get(f"{figure}_or_reads"), proof[figure]
    if other is None or there is None or there >= BETTER * here:
        return None
    return (
        f"the SAE explains {other} better ({FIGURES[figure]} {there:.3g}) than {proof['hookpoint']} ({here:.3g}); "
        "TransformerLens has a LayerNorm's hook_normalized before gain and bias since 3.0, and had it behind them before, so "
        f"name the place: hookpoints: [{other}]"
    )


def explained_better_elsewhere(proof: dict[str, Any]) -> str | None:
    """Why the hookpoint is taken for a wrong one, where other layers were looked at, or None."""
    figure = compared(proof)
    hookpoint, by_layer = proof["hookpoint"], proof.get(f"{figure}_by_layer")
    if not by_layer:
        return None
    best = min(by_layer, key=lambda name: by_layer[name])
    if by_layer[best] >= BETTER * by_layer[hookpoint]:
        return None
    return (
        f"the SAE explains {best} better ({FIGURES[figure]} {by_layer[best]:.3g}) than {hookpoint} ({by_layer[hookpoint]:.3g}), "
        "which the study names as its hookpoint; if that is right all the same, set proof_of_load.compare_layers: false"
    )


def compared(proof: dict[str, Any]) -> str:
    """The figure by which places are compared: a massive dimension grows from layer to layer, and would decide in the plain one."""
    return "dimension_fvu" if "dimension_fvu" in proof else "fvu"
