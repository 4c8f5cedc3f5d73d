"""EleutherAI sparsify: `<root>/<hookpoint>/cfg.json` + `sae.safetensors`, SAEs and transcoders, TopK and groupmax."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config, Declared, Hooks

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder

MAKER = "sparsify (EleutherAI)"
CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
ARCHITECTURES = {
    "topk": "the k largest of relu(pre)",
    "groupmax": "of k groups of neighbouring latents the largest of relu(pre) each",
    "topk with skip connection": "the k largest of relu(pre); W_skip x is added to the reconstruction",
    "topk transcoder": "reads what goes into the module, writes what it puts out; b_dec is not subtracted",
    "topk transcoder with skip connection": "the same, and W_skip x is added; before `transcode` was written, b_dec is subtracted",
}
KNOWN = {"activation", "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk", "skip_connection"}
KNOWN |= {"transcode", "d_in", "signed"}
"All keys that its releases have written."


def recognises(config: Config) -> bool:
    return {"k", "d_in"} <= set(config) and "architecture" not in config and "d_sae" not in config


def transcodes(config: Config) -> bool:
    """Early transcoders did not say that they are: a skip connection, which tells an SAE nothing, tells of them."""
    return bool(config.get("transcode", config.get("skip_connection")))


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    """The folder's name is the module's path; a transcoder reads what goes in."""
    if not transcodes(config):
        return Hooks(name)
    return Hooks(f"{name}:in", name, True) if name else Hooks(None, None, True)


def activation_of(config: Config) -> Any:
    return config.one_of("activation", ("topk", "groupmax"), "topk")


def declared(config: Config, weights: Path) -> Declared:
    config.only(KNOWN, MAKER)
    d_in = config.integer("d_in")
    # 0 latents mean as many as the expansion factor says.
    n_latents = config.integer("num_latents", 0) or d_in * config.integer("expansion_factor", 32)
    kind = activation_of(config)
    kind += " transcoder" if transcodes(config) else ""
    kind += " with skip connection" if config.get("skip_connection") else ""
    return Declared(kind, n_latents, d_in, d_in, config.number("k"))


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules: x - b_dec unless it transcodes, then the largest of relu(x W_enc + b_enc); W_dec [n, d_in].

    Transcoders that do not say they are subtract it: https://github.com/EleutherAI/sparsify/pull/49.
    """
    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

    # Of early releases: the k largest of either sign.
    config.one_of("signed", (False,), False)
    transcode = config.one_of("transcode", (False, True), False)
    skip = config.one_of("skip_connection", (False, True), False)
    facts = declared(config, weights)
    shape = (facts.n_latents, facts.d_in)
    opened = Weights(weights, device, CONFIG)
    sae = SparseAutoencoder(
        W_enc=opened.get("encoder.weight", shape).T,
        b_enc=opened.get("encoder.bias"),
        W_dec=opened.get("W_dec", shape),
        b_dec=opened.get("b_dec"),
        activation=activation_of(config),
        k=config.integer("k"),
        subtract_b_dec=not transcode,
        W_skip=opened.get("W_skip") if skip else None,
        undo_norm=False,
    )
    opened.all_read()
    return sae
