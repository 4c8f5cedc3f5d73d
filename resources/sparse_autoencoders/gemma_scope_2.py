"""Gemma Scope 2 (Gemma 3): `config.json` + `params.safetensors`, JumpReLU SAEs and transcoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .config import Config, Declared, Hooks, UnknownSae
from .headers import InvalidSae, shapes_in

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder

MAKER = "Gemma Scope 2"
CONFIG = "config.json"
WEIGHTS = "params.safetensors"
ARCHITECTURES = {
    "jump_relu": "pre where it is above the threshold; b_dec is not subtracted",
    "jump_relu transcoder": "the same, from hf_hook_point_in to hf_hook_point_out",
    "jump_relu transcoder with affine connection": "the same, and x affine_skip_connection is added",
}
FAMILY = {"model_type": "gemma3_text"}
KNOWN = {
    "architecture",
    "model_name",
    "width",
    "l0",
    "type",
    "affine_connection",
    "hf_hook_point_in",
    "hf_hook_point_out",
}


def recognises(config: Config) -> bool:
    return {"architecture", "hf_hook_point_in"} <= set(config)


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    """
    Raises:
        UnknownSae: it is a crosscoder or a cross-layer transcoder.
    """
    config.one_of("type", ("sae", "transcoder"), "sae")
    reads, writes = config.text("hf_hook_point_in"), config.text("hf_hook_point_out")
    transcodes = writes is not None and writes != reads
    return Hooks(reads, writes if transcodes else None, transcodes)


def hub_name(model: str | None) -> str | None:
    """Of the subject model, which is called gemma-v3-1b-pt here; the smallest one's bears no -pt."""
    if model is None or "/" in model:
        return model
    return f"google/{model.replace('-v3', '-3')}".replace("270m-pt", "270m")


def declared(config: Config, weights: Path) -> Declared:
    """
    Raises:
        UnknownSae: it reads or writes several layers at once.
    """
    config.only(KNOWN, MAKER)
    config.one_of("architecture", ("jump_relu",))
    found = shapes_in(weights) or {}
    shapes = {name: header.shape for name, header in found.items()}
    for name in ("w_enc", "w_dec"):
        if name not in shapes:
            raise InvalidSae(f"{weights}: tensor {name} is missing; there are: {', '.join(sorted(shapes))}")
        if len(shapes[name]) != 2:
            raise UnknownSae(
                f"{weights}: {name} has shape {shapes[name]}: crosscoders and cross-layer transcoders are not "
                f"supported; supported: {', '.join(ARCHITECTURES)}"
            )
    d_in, n_latents = shapes["w_enc"]
    kind = str(config.get("architecture")) + (" transcoder" if hooks(config, weights, None).transcodes else "")
    kind += " with affine connection" if "affine_skip_connection" in shapes else ""
    l0 = config.number("l0") if config.get("l0") is not None else None
    return Declared(kind, n_latents, d_in, shapes["w_dec"][1], l0, hub_name(config.text("model_name")), True)


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules: as Gemma Scope; the affine connection is stored [d_in, d_out]."""
    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

    facts = declared(config, weights)
    opened = Weights(weights, device, CONFIG)
    affine = "affine_skip_connection" in opened
    if bool(config.get("affine_connection", affine)) != affine:
        raise InvalidSae(
            f"{config.file}: affine_connection is {config['affine_connection']}, but the weights say {affine}"
        )
    sae = SparseAutoencoder(
        W_enc=opened.get("w_enc"),
        b_enc=opened.get("b_enc"),
        W_dec=opened.get("w_dec"),
        b_dec=opened.get("b_dec"),
        threshold=opened.get("threshold"),
        activation="jumprelu",
        subtract_b_dec=False,
        W_skip=opened.get("affine_skip_connection", (facts.d_in, facts.d_out)).T if affine else None,
        undo_norm=False,
    )
    opened.all_read()
    return sae
