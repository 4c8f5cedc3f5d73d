"""The known ways to read an SAE wrongly, as other readings of the same weights: one that fits much better names the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from resources.sparse_autoencoders.autoencoder import SparseAutoencoder, TopActivations

Reconstruct = Callable[[Tensor], Tensor]
"Of inputs [tokens, d_in], float32 [tokens, d_out]."


def other_readings(sae: SparseAutoencoder, published_l0: float | None) -> dict[str, Reconstruct]:
    """Other readings by what they would be, in words that go on \"it would leave 0.1 ...\"; no weights are copied."""
    found: dict[str, Reconstruct] = {}
    if sae.d_in == sae.d_out:
        rule = "is not subtracted from" if sae.subtract_b_dec else "is subtracted from"
        found[f"where b_dec {rule} the input"] = replace(sae, subtract_b_dec=not sae.subtract_b_dec).reconstruct
    if sae.n_latents == sae.d_out:
        found["with the decoder transposed"] = replace(sae, W_dec=sae.W_dec.T).reconstruct
    if sae.W_skip is not None and sae.d_in == sae.d_out:
        found["with the skip connection transposed"] = replace(sae, W_skip=sae.W_skip.T).reconstruct
    if published_l0 and sae.activation != "topk" and round(published_l0) <= sae.n_latents:
        k = round(published_l0)
        found[f"as TopK with k = {k}"] = replace(sae, activation="topk", k=k, threshold=None).reconstruct
    if sae.activation in ("topk", "groupmax"):
        found["as ReLU"] = replace(sae, activation="relu", k=None).reconstruct
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
