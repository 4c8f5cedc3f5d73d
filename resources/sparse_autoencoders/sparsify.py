"""EleutherAI sparsify: `<root>/<hookpoint>/cfg.json` + `sae.safetensors` (TopK)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder

WEIGHTS = "sae.safetensors"


def recognises(config: dict[str, Any]) -> bool:
    return {"k", "d_in"} <= set(config) and "architecture" not in config and "d_sae" not in config


def hookpoint(config: dict[str, Any], name: str | None) -> str | None:
    return name


def published_l0(config: dict[str, Any]) -> float:
    return float(config["k"])


def declared_latents(config: dict[str, Any]) -> int:
    return int(config.get("num_latents") or config["d_in"] * config.get("expansion_factor", 32))  # 0 means the latter


def read(folder: Path, config: dict[str, Any], device: str) -> SparseAutoencoder:
    """Its maker's rules: x - b_dec, the k largest of relu(x W_enc + b_enc), decoder rows [n_latents, d_in]."""
    from .autoencoder import InvalidSae, SparseAutoencoder
    from .tensors import check_declared, load_tensors

    # `signed` is of early releases: the k largest of either sign.
    settings = (("activation", "topk"), ("transcode", False), ("skip_connection", False), ("signed", False))
    for key, supported in settings:
        if config.get(key, supported) != supported:
            raise InvalidSae(f"{folder / 'cfg.json'}: {key} {config[key]!r} is not supported; supported: {supported!r}")
    tensors = load_tensors(folder / WEIGHTS, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"), device)
    declared = (declared_latents(config), config["d_in"])
    check_declared(folder / WEIGHTS, tensors, {"encoder.weight": declared, "W_dec": declared})
    return SparseAutoencoder(
        W_enc=tensors["encoder.weight"].T,
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation="topk",
        k=int(config["k"]),
    )
