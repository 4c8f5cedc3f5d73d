"""Qwen Scope: `config.json` + `layer*.sae.pt`, one TopK SAE of the residual stream for each layer.

Rules as the releases' model cards give them, https://huggingface.co/Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50. These keep the
k largest of pre even where fewer than k are above 0; here, as everywhere, what is not above 0 does not fire.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .config import Config, Declared, Hooks, number_in_name

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder

MAKER = "Qwen Scope"
CONFIG = "config.json"
WEIGHTS = "layer*.sae.pt"
ARCHITECTURES = {"topk_sae": "the k largest of relu(pre); b_dec is not subtracted"}
KNOWN = {"model_type", "base_model", "d_model", "d_sae", "k", "num_layers", "hook_point", "dtype"}


def recognises(config: Config) -> bool:
    return {"d_model", "d_sae", "base_model"} <= set(config)


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    """What the decoder layer puts out; as a module's path, since not all of the models are known by their families."""
    config.one_of("hook_point", ("resid_post",))
    return Hooks(f"layers.{number_in_name(weights, WEIGHTS)}")


def declared(config: Config, weights: Path) -> Declared:
    config.only(KNOWN, MAKER)
    config.one_of("model_type", tuple(ARCHITECTURES))
    d_model, kind = config.integer("d_model"), str(config.get("model_type"))
    return Declared(kind, config.integer("d_sae"), d_model, d_model, config.number("k"), config.text("base_model"))


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules: the k largest of x W_enc + b_enc; both matrices are stored the other way round."""
    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

    facts = declared(config, weights)
    opened = Weights(weights, device, CONFIG)
    sae = SparseAutoencoder(
        W_enc=opened.get("W_enc", (facts.n_latents, facts.d_in)).T,
        b_enc=opened.get("b_enc"),
        W_dec=opened.transposed("W_dec", (facts.d_in, facts.n_latents)),
        b_dec=opened.get("b_dec"),
        activation="topk",
        k=config.integer("k"),
        subtract_b_dec=False,
    )
    opened.all_read()
    return sae
