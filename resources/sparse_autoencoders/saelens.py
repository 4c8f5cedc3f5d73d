"""SAELens, before and after 6.0: `cfg.json` + `sae_weights.safetensors`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .config import Config, Declared, Hooks, UnknownSae, config_in
from .headers import vector_in

if TYPE_CHECKING:
    from torch import Tensor

    from .autoencoder import SparseAutoencoder
    from .input_norm import InputNorm
    from .tensors import Weights

MAKER = "SAELens"
CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SPARSITY = "sparsity.safetensors"
BESIDE = (SPARSITY,)


class Kind(NamedTuple):
    activation: Literal["relu", "topk", "jumprelu"]
    transcodes: bool = False
    skip: bool = False


KINDS = {
    "standard": Kind("relu"),
    "gated": Kind("jumprelu"),
    "jumprelu": Kind("jumprelu"),
    "topk": Kind("topk"),
    "transcoder": Kind("relu", True),
    "skip_transcoder": Kind("relu", True, True),
    "jumprelu_transcoder": Kind("jumprelu", True),
    "jumprelu_skip_transcoder": Kind("jumprelu", True, True),
}
ARCHITECTURES = {
    "standard": "relu(pre)",
    "gated": "relu(magnitude) where the gate is open; read as the JumpReLU that computes the same",
    "jumprelu": "pre where it is above the threshold; BatchTopK and Matryoshka are saved so",
    "topk": "the k largest of relu(pre), with and without rescale_acts_by_decoder_norm",
    "transcoder": "relu(pre); b_dec is not subtracted",
    "skip_transcoder": "the same, and W_skip x is added",
    "jumprelu_transcoder": "pre where it is above the threshold",
    "jumprelu_skip_transcoder": "the same, and W_skip x is added",
}
NORMS_TOLD = {
    "expected_average_only_in": "x times one factor, folded into the weights",
    "constant_norm_rescale": "x sqrt(d_in) / norm of x",
    "layer_norm": "x less its mean, over its unbiased standard deviation + 1e-5",
    "center_writing_weights": "in `model_from_pretrained_kwargs`: x less its mean",
}
NORMS: dict[str, InputNorm] = {
    "none": "none",
    "expected_average_only_in": "none",  # a constant, folded into the weights
    "constant_norm_rescale": "constant_norm",
    "layer_norm": "layer_norm",
}
DECISIVE = {"architecture", "activation_fn", "activation_fn_kwargs", "apply_b_dec_to_input"}
DECISIVE |= {
    "normalize_activations",
    "rescale_acts_by_decoder_norm",
    "reshape_activations",
    "model_from_pretrained_kwargs",
}
DECISIVE |= {"metadata", "hook_name", "hook_point", "hf_hook_name"}
DECISIVE |= {"hook_name_out", "hf_hook_name_out", "hook_head_index", "activation_fn_str"}
DECISIVE |= {"d_in", "d_out", "d_sae", "prepend_bos"}
DECISIVE |= {"model_name", "hook_point_head_index"}
"Settings that change what it computes, or where it is read."
OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
NOT_CENTRED = ("attn.hook_z", "mlp.hook_post", "mlp.hook_pre", ".hook_normalized", "mlp.hook_in")
"Ends of the names of hooks outside the residual stream."
WITH_TRANSFORMER_LENS_3 = (6, 32)
"The first version of SAELens that may be installed beside it."
NOTHING_COUNTED = 0.01
"An L0 below this is no measurement: the counts had just been reset."
FACTOR = "norm_scaling_factor"
"sqrt(d_in) over the mean norm of the inputs in training; SAELens keeps it outside the SAE's own files."


def recognises(config: Config) -> bool:
    return {"d_in", "d_sae"} <= set(config)


def as_of_6(config: Config) -> Config:
    """The settings under their names since 6.0, those of `metadata` beside the others."""
    metadata = config.section("metadata")
    merged: dict[str, Any] = {**metadata, **config}
    if version_of(config) >= (6, 0):
        return config_in(config.file, merged)
    merged = {OLD_NAMES.get(key, key): value for key, value in merged.items() if value is not None}
    merged.setdefault("architecture", "standard")
    merged.setdefault("prepend_bos", True)
    k = config_in(config.file, merged).section("activation_fn_kwargs").get("k")
    if merged.get("activation_fn") == "topk" and k is not None:
        merged |= {"architecture": "topk", "k": k, "activation_fn": "relu"}
    if isinstance(norm := merged.get("normalize_activations"), bool):
        merged["normalize_activations"] = "expected_average_only_in" if norm else "none"
    return config_in(config.file, merged)


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    """As the settings say; the name of a hook in Hugging Face's model first, then that of TransformerLens."""
    settings = as_of_6(config)
    reads = settings.text("hf_hook_name") or settings.text("hook_name")
    writes = settings.text("hf_hook_name_out") or settings.text("hook_name_out")
    kind = KINDS.get(str(settings.get("architecture")))
    transcodes = kind is not None and kind.transcodes
    # A folder's name is no better than a guess, but where the settings name nothing it is the only one.
    name = None if name is None or name.startswith("blocks.") else name
    return Hooks(reads or name, writes, transcodes, before_gain(settings))


def before_gain(settings: Config) -> bool:
    """Whether the model of its training had `hook_normalized` of a LayerNorm before gain and bias.

    Until 6.31 SAELens asked for a TransformerLens before 3, which had it behind them; since then pip installs a newer
    one. Where the model's LayerNorms were folded into what follows, there is neither gain nor bias.
    """
    if settings.section("model_from_pretrained_kwargs").get("fold_ln") is True:
        return True
    return version_of(settings) >= WITH_TRANSFORMER_LENS_3


def version_of(settings: Config) -> tuple[int, int]:
    """Major and minor version of the SAELens that wrote an SAE; (0, 0) where it does not say, as before 4.0."""
    version = settings.section("metadata").text("sae_lens_version") or settings.text("sae_lens_version") or ""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def declared(config: Config, weights: Path) -> Declared:
    config.no_misspelling(DECISIVE)
    config.section("metadata").no_misspelling(DECISIVE)
    settings = as_of_6(config)
    d_in = settings.integer("d_in")
    architecture = settings.one_of("architecture", tuple(KINDS))
    d_out = settings.integer("d_out", d_in)
    bos = settings.get("prepend_bos")
    return Declared(
        architecture,
        settings.integer("d_sae"),
        d_in,
        d_out,
        l0_of(settings, weights),
        settings.text("model_name"),
        bos if isinstance(bos, bool) else None,
    )


def l0_of(settings: Config, weights: Path) -> float | None:
    """k of a TopK; what newer versions write down as `l0`; or its older form, the sum of how often each latent fired in
    the last window of training, which a file beside the weights holds as log10 (of the share + 1e-10)."""
    if settings.get("architecture") == "topk" and "k" in settings:
        return settings.number("k")
    if settings.get("l0") is not None:
        return settings.number("l0")
    logarithms = vector_in(weights.with_name(SPARSITY), "sparsity", settings.integer("d_sae"))
    # Others than logarithms of shares, and a window in which nothing was counted, say nothing.
    if logarithms is None or not (logarithms <= 1e-6).all():
        return None
    l0 = float((10.0**logarithms).sum())
    return l0 if l0 > NOTHING_COUNTED else None


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules: cast, normalise, subtract b_dec where asked, linear, activation; the norm undone at the output."""
    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

    settings = as_of_6(config)
    facts = declared(config, weights)
    architecture, kind = facts.architecture, KINDS[facts.architecture]
    norm = settings.one_of("normalize_activations", tuple(NORMS), "none")
    settings.one_of("activation_fn", ("relu",), "relu")
    settings.one_of("hook_head_index", (None,), None)
    # The heads of z stand side by side in the model as Hugging Face runs it: there is nothing to reshape.
    settings.one_of("reshape_activations", ("none", "hook_z"), "none")
    subtract = settings.one_of("apply_b_dec_to_input", (False, True), not kind.transcodes)
    if kind.transcodes and subtract:
        raise UnknownSae(
            f"{config.file}: apply_b_dec_to_input True is not supported with {architecture}; supported: False"
        )
    opened = Weights(weights, device, CONFIG)
    shape = (facts.d_in, facts.n_latents)
    # Two forms of the weights never stand in memory at once: each is replaced where it is changed.
    W_enc, W_dec = opened.get("W_enc", shape), opened.get("W_dec", (facts.n_latents, facts.d_out))
    b_dec = opened.get("b_dec")
    if architecture == "gated":
        magnitude = opened.get("r_mag").exp()
        b_enc = opened.get("b_mag")
        threshold: Tensor | None = gate_as_threshold(opened, magnitude)
        W_enc = W_enc * magnitude
    else:
        b_enc = opened.get("b_enc")
        threshold = opened.get("threshold") if kind.activation == "jumprelu" else None
    if norm == "expected_average_only_in":
        factor = settings.number(FACTOR, None) if FACTOR in settings else None
        if factor is None:
            raise UnknownSae(
                f"{config.file}: normalize_activations 'expected_average_only_in' needs the factor it was trained with, "
                f'which SAELens keeps elsewhere: add "{FACTOR}" to the settings, sqrt(d_in) over the mean norm of the inputs'
            )
        W_enc, W_dec, b_dec = W_enc * factor, W_dec / factor, b_dec / factor
    decoder_norm = None
    if architecture == "topk" and settings.one_of("rescale_acts_by_decoder_norm", (False, True), False):
        decoder_norm = W_dec.norm(dim=1)
        W_dec = W_dec / decoder_norm[:, None]
    sae = SparseAutoencoder(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        activation=kind.activation,
        k=settings.integer("k") if architecture == "topk" else None,
        threshold=threshold,
        subtract_b_dec=subtract,
        decoder_norm=decoder_norm,
        W_skip=opened.get("W_skip", (facts.d_out, facts.d_in)) if kind.skip else None,
        input_norm=input_norm(settings, norm),
        undo_norm=not kind.transcodes,
    )
    check_neutral(opened)
    opened.all_read()
    return sae


def input_norm(settings: Config, norm: str) -> InputNorm:
    """What is done to the input. Where TransformerLens centred the weights that write to the residual stream, so were
    that stream and what is added to it; other tensors were not, and a layer norm centres by itself.

    Raises:
        UnknownSae: a norm that would have to follow the centring.
    """
    kept, hook = NORMS[norm], str(settings.get("hook_name") or settings.get("hf_hook_name") or "")
    centred = settings.section("model_from_pretrained_kwargs").get("center_writing_weights")
    if not centred or kept == "layer_norm" or hook.endswith(NOT_CENTRED):
        return kept
    if kept != "none":
        raise UnknownSae(
            f"{settings.file}: normalize_activations {norm!r} is not supported with center_writing_weights"
        )
    return "centred"


def gate_as_threshold(weights: Weights, magnitude: Tensor) -> Tensor:
    """The threshold of the JumpReLU that is a gated SAE with shared encoder weights (Rajamanoharan et al. 2024).

    The gate x W + b_gate > 0 is open where the magnitude (x W) exp(r_mag) + b_mag is above b_mag - exp(r_mag) b_gate.
    """
    return weights.get("b_mag") - magnitude * weights.get("b_gate")


def check_neutral(weights: Weights) -> None:
    """For a while every file had a scaling factor of ones; another one multiplies the activations before decoding."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in weights and not bool((weights.get(name) == 1).all()):
            raise UnknownSae(f"{weights.file}: tensor {name} is not supported unless it is 1 throughout")
