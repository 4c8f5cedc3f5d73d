"""Llama Scope (OpenMOSS): `hyperparams.json` + `checkpoints/final.safetensors`, SAEs and transcoders.

They were trained on activations scaled to norm sqrt(d_model), with a threshold on what a latent adds to the unscaled
output. The scale is folded into the weights, as their maker's `standardize_parameters_of_dataset_norm` does before use:
activations are in the units of the model. Decoder rows have norm 1 here, so an activation is what it adds to the output.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config, Declared, Hooks, UnknownSae

if TYPE_CHECKING:
    from torch import Tensor

    from .autoencoder import SparseAutoencoder

MAKER = "Llama Scope"
CONFIG = "hyperparams.json"
WEIGHTS = "checkpoints/final.safetensors"
ARCHITECTURES = {
    "jumprelu": "pre where it is above one threshold for all latents, of the input over its mean norm",
    "jumprelu transcoder": "the same, from hook_point_in to hook_point_out, each with its own norm",
    "topk": "the k largest of relu(pre), in the same scale",
    "relu": "relu(pre), in the same scale",
}
ACTIVATIONS = ("jumprelu", "topk", "relu")
DECISIVE = {"act_fn", "jump_relu_threshold", "norm_activation", "dataset_average_activation_norm"}
DECISIVE |= {"top_k", "apply_decoder_bias_to_pre_encoder", "sparsity_include_decoder_norm", "use_decoder_bias"}
DECISIVE |= {"use_glu_encoder", "hook_point_in", "hook_point_out", "d_model"}
DECISIVE |= {"d_sae", "expansion_factor"}
"Settings that change what it computes."
PLAIN: dict[str, Any] = {"use_glu_encoder": False, "use_decoder_bias": True}
"Settings that are read with one value alone; one that is not there is as good."


def recognises(config: Config) -> bool:
    return {"d_model", "hook_point_in"} <= set(config)


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    reads, writes = config.text("hook_point_in"), config.text("hook_point_out")
    transcodes = writes is not None and writes != reads
    return Hooks(reads, writes if transcodes else None, transcodes)


def activation_of(config: Config) -> str:
    """Its own loader takes the name in any case.

    Raises:
        UnknownSae: it is no activation that is supported.
    """
    named = config.get("act_fn", "relu")
    if str(named).lower() not in ACTIVATIONS:
        raise UnknownSae(f"{config.file}: act_fn {named!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    return str(named).lower()


def model_of(weights: Path) -> str | None:
    """The subject model, by what the published folders are called."""
    return "meta-llama/Llama-3.1-8B" if weights.parents[1].name.startswith("Llama3_1-8B-Base-") else None


def declared(config: Config, weights: Path) -> Declared:
    config.no_misspelling(DECISIVE)
    d_model = config.integer("d_model")
    n_latents = config.integer("d_sae") if "d_sae" in config else d_model * config.integer("expansion_factor")
    activation = activation_of(config)
    kind = activation + (" transcoder" if hooks(config, weights, None).transcodes else "")
    # JumpReLU thresholds were set for a mean L0 of top_k.
    l0 = config.number("top_k") if activation in ("topk", "jumprelu") and "top_k" in config else None
    return Declared(kind, n_latents, d_model, d_model, l0, model_of(weights), None)


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules, in the form for use."""
    import torch

    from .tensors import Weights

    for key, value in PLAIN.items():
        config.one_of(key, (value,), value)
    activation: Any = activation_of(config)
    norm = config.one_of("norm_activation", ("dataset-wise", "inference"), "dataset-wise")
    include_norm = config.one_of("sparsity_include_decoder_norm", (False, True), True)
    subtract = config.one_of("apply_decoder_bias_to_pre_encoder", (False, True), False)
    facts = declared(config, weights)
    scale_in = scale_out = 1.0
    if norm == "dataset-wise":
        norms = config.section("dataset_average_activation_norm")
        where = f"{config.file}: dataset_average_activation_norm"
        scale_in = scale(facts.d_in, norms.number("in"), f"{where}: in")
        scale_out = scale(facts.d_out, norms.number("out"), f"{where}: out")
    opened = Weights(weights, device, CONFIG)
    sae = in_units_of_the_model(
        opened.get("encoder.weight", (facts.n_latents, facts.d_in)).T,
        opened.get("encoder.bias"),
        opened.transposed("decoder.weight", (facts.d_out, facts.n_latents)),
        opened.get("decoder.bias"),
        (scale_in, scale_out),
        unit_rows=include_norm,
        activation=activation,
        k=config.integer("top_k") if activation == "topk" else None,
        threshold=torch.full((facts.n_latents,), config.number("jump_relu_threshold"), device=device)
        if activation == "jumprelu"
        else None,
        subtract_b_dec=subtract,
        undo_norm=False,
    )
    opened.all_read([name for name in opened.names if name.startswith("dataset_average_activation_norm.")])
    return sae


def scale(d_model: int, norm: float, where: str) -> float:
    """By what activations of an average norm were multiplied in training.

    Raises:
        UnknownSae: it is no norm.
    """
    if not 0 < norm < math.inf:
        raise UnknownSae(f"{where} is {norm}, not an average norm of activations")
    return math.sqrt(d_model) / norm


def in_units_of_the_model(
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    scales: tuple[float, float],
    *,
    unit_rows: bool,
    **others: Any,
) -> SparseAutoencoder:
    """`standardize_parameters_of_dataset_norm`: b_enc / s_in, W_dec s_in / s_out, b_dec / s_out; the threshold stays.

    Args:
        W_dec: is written to.
        scales: of the input and of the output.
        unit_rows: pre-activations are compared as what they add to the output, so that decoder rows have norm 1 here.
        others: of the SparseAutoencoder.
    """
    from .autoencoder import SparseAutoencoder

    scale_in, scale_out = scales
    W_dec.mul_(scale_in / scale_out)
    norm = W_dec.norm(dim=1) if unit_rows else None
    if norm is not None:
        W_dec /= norm[:, None]
    return SparseAutoencoder(W_enc, b_enc / scale_in, W_dec, b_dec / scale_out, decoder_norm=norm, **others)
