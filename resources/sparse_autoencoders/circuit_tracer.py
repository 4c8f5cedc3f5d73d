"""circuit-tracer's sets of transcoders: `config.yaml` + `layer_*.safetensors`, one transcoder of the MLP for each layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .config import Config, Declared, Hooks, UnknownSae, number_in_name
from .headers import InvalidSae, shapes_in

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder

MAKER = "circuit-tracer"
CONFIG = "config.yaml"
WEIGHTS = "layer_*.safetensors"
ARCHITECTURES = {
    "transcoder": "relu(pre); b_dec is not subtracted",
    "jumprelu transcoder": "pre where it is above the threshold",
    "transcoder with skip connection": "relu(pre); W_skip x is added to the reconstruction",
    "jumprelu transcoder with skip connection": "pre where it is above the threshold; W_skip x is added",
}
SET = "transcoder_set"
ACTIVATION = ("activation", "activation_fn", "activation_function", "act_fn")
THRESHOLD = "activation_function.threshold"


def recognises(config: Config) -> bool:
    return "model_kind" in config


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    """
    Raises:
        UnknownSae: it is no set of transcoders of single layers, lists what lies elsewhere, or names no hooks.
    """
    config.one_of("model_kind", (SET,))
    if listed := config.get("transcoders"):
        where = f", as in {listed[0]}" if isinstance(listed, list) else ""
        raise UnknownSae(f"{config.file}: the transcoders lie elsewhere{where}; name the folder or repository there")
    reads, writes = config.text("feature_input_hook"), config.text("feature_output_hook")
    if reads is None or writes is None:
        raise UnknownSae(
            f"{config.file}: feature_input_hook and feature_output_hook are to name what is read and written"
        )
    block = f"blocks.{number_in_name(weights, WEIGHTS)}"
    return Hooks(f"{block}.{reads}", f"{block}.{writes}", True)


def declared(config: Config, weights: Path) -> Declared:
    """What the weights' headers say, with the subject model of the settings."""
    found = shapes_in(weights) or {}
    shapes = {name: found[name].shape for name in ("W_enc", "W_dec") if name in found}
    if any(len(shape) != 2 for shape in shapes.values()) or len(shapes) < 2:
        raise InvalidSae(f"{weights}: no W_enc and W_dec of rows and columns; there are: {', '.join(sorted(found))}")
    n_latents, d_in = shapes["W_enc"]
    # Its class goes by the weights alone; settings that say something else are not passed over.
    for key in ACTIVATION:
        config.one_of(key, (None, "jumprelu" if THRESHOLD in found else "relu"), None)
    config.one_of("k", (None,), None)
    kind = "jumprelu transcoder" if THRESHOLD in found else "transcoder"
    kind += " with skip connection" if "W_skip" in found else ""
    return Declared(kind, n_latents, d_in, shapes["W_dec"][1], None, config.text("model_name"))


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules: pre = x W_enc^T + b_enc, W_enc [n, d_in], and relu(pre) or pre where it is above a threshold."""
    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

    opened = Weights(weights, device, CONFIG)
    jumps, skips = THRESHOLD in opened, "W_skip" in opened
    sae = SparseAutoencoder(
        W_enc=opened.get("W_enc").T,
        b_enc=opened.get("b_enc"),
        W_dec=opened.get("W_dec"),
        b_dec=opened.get("b_dec"),
        activation="jumprelu" if jumps else "relu",
        threshold=opened.get(THRESHOLD) if jumps else None,
        subtract_b_dec=False,
        W_skip=opened.get("W_skip") if skips else None,
        undo_norm=False,
    )
    opened.all_read()
    return sae
