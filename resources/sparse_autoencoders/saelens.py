"""SAELens 6: `cfg.json` + `sae_weights.safetensors` (standard, topk, jumprelu)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
ACTIVATIONS: dict[str, Literal["relu", "topk", "jumprelu"]] = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
}
"Supported architectures, and the activation function of each."
SETTINGS: dict[str, Any] = {
    "normalize_activations": "none",
    "reshape_activations": "none",
    # Before version 6, where a TopK SAE could be a standard one with another activation function.
    "activation_fn": "relu",
    "activation_fn_str": "relu",
    "finetuning_scaling_factor": False,
}
"The only value of each setting that is read; one that is not there is as good."


def recognises(config: dict[str, Any]) -> bool:
    return {"architecture", "d_in", "d_sae"} <= set(config)


def hookpoint(config: dict[str, Any], name: str | None) -> str | None:
    """The HF module path its metadata names, or the one that a TransformerLens residual hook means."""
    metadata = config.get("metadata") or {}
    if metadata.get("hf_hook_name"):
        return str(metadata["hf_hook_name"])
    hook = str(metadata.get("hook_name") or "")
    if found := re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", hook):
        return f"layers.{found[1]}"
    return name if name and not name.startswith("blocks.") else None


def published_l0(config: dict[str, Any]) -> float | None:
    return float(config["k"]) if config["architecture"] == "topk" and "k" in config else None


def declared_latents(config: dict[str, Any]) -> int:
    return int(config["d_sae"])


def read(folder: Path, config: dict[str, Any], device: str) -> SparseAutoencoder:
    """Its maker's rules: x - b_dec where apply_b_dec_to_input, then relu, strict threshold, or the k largest of relu."""
    from .autoencoder import InvalidSae, SparseAutoencoder
    from .tensors import check_declared, load_tensors

    architecture = config["architecture"]
    if architecture not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise InvalidSae(
            f"{folder / 'cfg.json'}: architecture {architecture!r} is not supported; supported: {supported}"
        )
    for key, value in SETTINGS.items():
        if config.get(key) not in (None, value):
            raise InvalidSae(f"{folder / 'cfg.json'}: {key} {config[key]!r} is not supported; supported: {value!r}")
    if architecture == "topk" and "k" not in config:
        raise InvalidSae(f"{folder / 'cfg.json'}: k is missing, which architecture 'topk' needs")
    names = ("W_enc", "b_enc", "W_dec", "b_dec", *(("threshold",) if architecture == "jumprelu" else ()))
    tensors = load_tensors(folder / WEIGHTS, names, device)
    d_in, d_sae = config["d_in"], config["d_sae"]
    check_declared(folder / WEIGHTS, tensors, {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in)})
    decoder_norm = None
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm", False):
        decoder_norm = tensors["W_dec"].norm(dim=1)
        tensors["W_dec"] = tensors["W_dec"] / decoder_norm[:, None]
    return SparseAutoencoder(
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation=ACTIVATIONS[architecture],
        k=int(config["k"]) if architecture == "topk" else None,
        threshold=tensors.get("threshold"),
        subtract_b_dec=bool(config.get("apply_b_dec_to_input", True)),
        decoder_norm=decoder_norm,
    )
