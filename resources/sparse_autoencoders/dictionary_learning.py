"""dictionary_learning: `config.json` + `ae.pt`. The settings stand under `trainer`; `dict_class` is the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from .config import Config, Declared, Hooks

if TYPE_CHECKING:
    from torch import Tensor

    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

MAKER = "dictionary_learning"
CONFIG = "config.json"
WEIGHTS = "ae.pt"


class Kind(NamedTuple):
    """How a class names its tensors; matrices of torch's Linear are stored the other way round."""

    activation: Literal["relu", "topk", "jumprelu"]
    linear: bool
    b_dec: str
    subtract_b_dec: bool = True


KINDS = {
    "AutoEncoder": Kind("relu", True, "bias"),
    "AutoEncoderNew": Kind("relu", True, "decoder.bias", False),
    "AutoEncoderTopK": Kind("topk", True, "b_dec"),
    "BatchTopKSAE": Kind("jumprelu", True, "b_dec"),
    "MatryoshkaBatchTopKSAE": Kind("jumprelu", False, "b_dec"),
    "JumpReluAutoEncoder": Kind("jumprelu", False, "b_dec", False),
    "GatedAutoEncoder": Kind("jumprelu", True, "decoder_bias"),
}
ARCHITECTURES = {
    "AutoEncoder": "relu(pre), with decoder rows scaled to norm 1, as its maker's loader does",
    "AutoEncoderNew": "relu(pre); b_dec is not subtracted",
    "AutoEncoderTopK": "the k largest of relu(pre)",
    "BatchTopKSAE": "pre where it is above one threshold for all latents",
    "MatryoshkaBatchTopKSAE": "the same, with all its groups",
    "JumpReluAutoEncoder": "pre where it is above the threshold; b_dec is not subtracted",
    "GatedAutoEncoder": "relu(magnitude) where the gate is open; read as the JumpReLU that computes the same",
}
UNUSED = ("k", "threshold", "group_sizes")
"Tensors that hold settings, or serve training alone."


def recognises(config: Config) -> bool:
    return {"dict_class", "activation_dim"} <= set(config.section("trainer"))


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    """The module where it is named as a path, else the residual stream behind the layer."""
    trainer = config.section("trainer")
    module = trainer.text("submodule_name")
    layer = trainer.get("layer")
    if module and "." in module:
        return Hooks(module)
    if isinstance(layer, int) and not isinstance(layer, bool) and (module is None or module.startswith("resid_post")):
        return Hooks(f"blocks.{layer}.hook_resid_post")
    return Hooks(None)


def declared(config: Config, weights: Path) -> Declared:
    trainer = config.section("trainer")
    kind = trainer.one_of("dict_class", tuple(KINDS))
    d_in = trainer.integer("activation_dim")
    l0 = trainer.number("k") if "TopK" in kind and "k" in trainer else None
    return Declared(kind, trainer.integer("dict_size"), d_in, d_in, l0, trainer.text("lm_name"), None)


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules: x less its bias where the class subtracts it, linear, activation."""
    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

    trainer = config.section("trainer")
    facts = declared(config, weights)
    name, kind = facts.architecture, KINDS[facts.architecture]
    opened = Weights(weights, device, CONFIG)
    wide, tall = (facts.d_in, facts.n_latents), (facts.n_latents, facts.d_in)
    if kind.linear:
        W_enc, W_dec = opened.get("encoder.weight", tall).T, opened.transposed("decoder.weight", wide)
    else:
        W_enc, W_dec = opened.get("W_enc", wide), opened.get("W_dec", tall)
    decoder_norm = threshold = None
    if name == "GatedAutoEncoder":
        magnitude = opened.get("r_mag").exp()
        # The gate as a threshold: see the reader of SAELens.
        b_enc = opened.get("mag_bias")
        threshold = b_enc - magnitude * opened.get("gate_bias")
        W_enc = W_enc * magnitude
    else:
        b_enc = opened.get("encoder.bias" if kind.linear else "b_enc")
        if kind.activation == "jumprelu":
            threshold = one_for_each(opened, facts.n_latents)
    if name == "AutoEncoder":
        decoder_norm = W_dec.norm(dim=1)
        W_dec /= decoder_norm[:, None]
    sae = SparseAutoencoder(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=opened.get(kind.b_dec),
        activation=kind.activation,
        k=trainer.integer("k") if kind.activation == "topk" else None,
        threshold=threshold,
        subtract_b_dec=kind.subtract_b_dec,
        decoder_norm=decoder_norm,
    )
    opened.all_read(UNUSED)
    return sae


def one_for_each(weights: Weights, n_latents: int) -> Tensor:
    """The threshold of each latent, where the file may hold a single one; below 0 it was never set, and relu holds."""
    threshold = weights.get("threshold")
    return threshold.expand(n_latents) if threshold.ndim == 0 else threshold
