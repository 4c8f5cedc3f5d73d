"""The known ways to read an SAE wrongly, as other readings of the same weights: one that fits much better names the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_assets.activations.variance import dimension_fraction, fraction, typical_tokens
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder, TopActivations
from resources.sparse_autoencoders.controls import Neurons

Reconstruct = Callable[[Tensor], Tensor]
"Of inputs [tokens, d_in], float32 [tokens, d_out]."
MUCH_BETTER = 0.6
"Another reading is named as the likely cause below this share of the FVU."
TOKENS_TO_COMPARE = 1_024
"Tokens on which it is asked whether something else explains more."


def likely_cause(
    sae: SparseAutoencoder | Neurons,
    x: Tensor,
    target: Tensor,
    proof: dict[str, Any],
    tokens_per_context: int | None,
) -> str | None:
    """What explains a failed proof of load, if one of the known ways to read an SAE wrongly does.

    Args:
        x: what it reads, float32 [tokens, d_in].
        target: what it is to reconstruct, float32 [tokens, d_out].
        proof: what was measured: `fvu`, `max_fvu`, `dimension_fvu`, `max_dimension_fvu`, `published_l0`.
    """
    tokens = typical_tokens(x, target)
    fails = not proof["fvu"] <= proof["max_fvu"], not proof["dimension_fvu"] <= proof["max_dimension_fvu"]
    fvu, usual, unexplained = proof["fvu"], tokens.as_is, fraction
    if fails == (False, True):
        fvu, usual, unexplained = proof["dimension_fvu"], tokens.alike, dimension_fraction
    if tokens_per_context:
        inner = usual & (torch.arange(len(x), device=x.device) % tokens_per_context > 0)
        without = unexplained(sae.reconstruct(x[inner]), target[inner])
        if without < MUCH_BETTER * fvu:
            return (
                f"without the first token of each context it leaves {without:.3g}: what latents do on BOS is to be dropped "
                "(corpus.bos: true; corpus.skip_first: 1 where contexts begin without BOS)"
            )
    if isinstance(sae, Neurons):
        return None
    x, target = x[usual][:TOKENS_TO_COMPARE], target[usual][:TOKENS_TO_COMPARE]
    if not any(fails):
        readings, enough = as_topk(sae, proof["published_l0"]), proof["max_fvu"]
    else:
        readings, enough = other_readings(sae, proof["published_l0"]), MUCH_BETTER * fvu
    left = {name: unexplained(reconstruct(x), target) for name, reconstruct in readings.items()}
    best = min(left, key=lambda name: left[name], default=None)
    if best is None or not left[best] < enough:
        return None
    return f"it would leave {left[best]:.3g} of the variance {best}: its settings do not fit its weights"


def as_topk(sae: SparseAutoencoder, published_l0: float | None) -> dict[str, Reconstruct]:
    """With the number of latents on a token that was published."""
    k = round(published_l0 or 0)
    if sae.activation == "topk" or not 0 < k <= sae.n_latents:
        return {}
    return {f"as TopK with k = {k}": replace(sae, activation="topk", k=k, threshold=None).reconstruct}


def other_readings(sae: SparseAutoencoder, published_l0: float | None) -> dict[str, Reconstruct]:
    """Other readings by what they would be, in words that go on "it would leave 0.1 ..."; no weights are copied.

    None lets more latents fire: more of them explain more, whatever is right.
    """
    found: dict[str, Reconstruct] = {}
    if sae.d_in == sae.d_out:
        rule = "is not subtracted from" if sae.subtract_b_dec else "is subtracted from"
        found[f"where b_dec {rule} the input"] = replace(sae, subtract_b_dec=not sae.subtract_b_dec).reconstruct
    if sae.n_latents == sae.d_out:
        found["with the decoder transposed"] = replace(sae, W_dec=sae.W_dec.T).reconstruct
    if sae.W_skip is not None and sae.d_in == sae.d_out:
        found["with the skip connection transposed"] = replace(sae, W_skip=sae.W_skip.T).reconstruct
    found |= as_topk(sae, published_l0)
    if sae.threshold is not None:
        above = torch.nextafter(sae.threshold, torch.full_like(sae.threshold, torch.inf))
        found["where latents fire only above their threshold, not at it"] = replace(sae, threshold=above).reconstruct
    found |= norms(sae)
    found |= rescaled(sae)
    return found


def norms(sae: SparseAutoencoder) -> dict[str, Reconstruct]:
    if sae.input_norm != "none":
        return {"without a norm of its input": replace(sae, input_norm="none").reconstruct}
    undo = sae.d_in == sae.d_out

    def average(x: Tensor) -> Tensor:
        scale = x.shape[1] ** 0.5 / x.norm(dim=1).mean()
        return sae.reconstruct(x * scale) / scale

    return {
        "where the input is scaled to norm sqrt(d_in), token by token": replace(
            sae, input_norm="constant_norm", undo_norm=undo
        ).reconstruct,
        "where the input goes through a layer norm": replace(sae, input_norm="layer_norm", undo_norm=undo).reconstruct,
        "where the input's mean is taken away": replace(sae, input_norm="centred", undo_norm=undo).reconstruct,
        "where the input is scaled to a mean norm of sqrt(d_in)": average,
    }


def rescaled(sae: SparseAutoencoder) -> dict[str, Reconstruct]:
    """With and without the rescaling of activations by the norms of decoder rows."""
    norm = sae.W_dec.norm(dim=1) if sae.decoder_norm is None else sae.decoder_norm
    name = "with activations rescaled by the norms of decoder rows"
    other = replace(sae, decoder_norm=norm)
    if sae.decoder_norm is not None:
        norm, name, other = 1 / norm, "with activations that are not rescaled", replace(sae, decoder_norm=None)

    def reconstruct(x: Tensor) -> Tensor:
        top = other.encode(x)
        return other.decode(TopActivations(top.activations / norm[top.indices], top.indices))

    plain = sae.input_norm == "none" and sae.W_skip is None
    return {name: reconstruct} if plain and float((norm - 1).abs().max()) > 1e-3 else {}
