"""Gemma Scope (Gemma 2): `<release>/layer_N/width_W/average_l0_X/params.npz`, JumpReLU SAEs and transcoders.

The files hold arrays and no settings: layer and L0 stand in the folders' names, what is read in the release's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .config import Config, Declared, Hooks, UnknownSae
from .headers import shapes_in

if TYPE_CHECKING:
    from torch import Tensor

    from .autoencoder import SparseAutoencoder

MAKER = "Gemma Scope"
CONFIG = None
WEIGHTS = "params.npz"
ARCHITECTURES = {
    "jumprelu": "pre where it is above the threshold; b_dec is not subtracted",
    "jumprelu transcoder": "the same, from the MLP's normed input to what it adds to the residual stream",
}
READS = {
    # What the release's name ends in, as (what is read, what is written) in the words of TransformerLens.
    "res": ("hook_resid_post", None),
    "mlp": ("hook_mlp_out", None),
    "att": ("attn.hook_z", None),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
FOLDERS = 3
"Below the release's: layer_N/width_W/average_l0_X, or embedding/..."
FAMILY = {"model_type": "gemma2"}
"Settings of the model that its hooks are to be understood by."


def recognises(config: Config) -> bool:
    return False


def folders_of(weights: Path) -> tuple[str, ...]:
    """The names of the folders that a file lies in. The file itself may be a link: in the hub's cache it leads elsewhere."""
    return weights.parent.resolve().parts


def kind_of(weights: Path) -> tuple[str | None, str | None]:
    """The subject model and what is read, from the release's name; None where no folder bears one."""
    for part in reversed(folders_of(weights)):
        if found := re.search(r"gemma-scope-([0-9]+b-[a-z]+)-(res|mlp|att|transcoders)$", part):
            return f"google/gemma-2-{found[1].removesuffix('-pt')}", found[2]
    return None, None


def number_in(weights: Path, name: str) -> int | None:
    """The number behind a name in the file's path: of layer_12 it is 12."""
    for part in reversed(folders_of(weights)):
        if found := re.fullmatch(rf"{name}_(\d+)", part):
            return int(found[1])
    return None


def hooks(config: Config, weights: Path, name: str | None) -> Hooks:
    """
    Raises:
        UnknownSae: it is an SAE of the embedding.
    """
    if "embedding" in folders_of(weights)[-FOLDERS:]:
        raise UnknownSae(f"{weights.parent}: SAEs of the embedding are not supported; supported: {', '.join(READS)}")
    _, kind = kind_of(weights)
    layer = number_in(weights, "layer")
    if kind is None or layer is None:
        return Hooks(None)
    reads, writes = READS[kind]
    return Hooks(f"blocks.{layer}.{reads}", writes and f"blocks.{layer}.{writes}", writes is not None)


def declared(config: Config, weights: Path) -> Declared:
    """What the arrays' own headers say, with the L0 of the folder's name."""
    found = shapes_in(weights) or {}
    shapes = {name.lower(): header.shape for name, header in found.items()}
    if len(shapes.get("w_enc", ())) != 2 or len(shapes.get("w_dec", ())) != 2:
        raise UnknownSae(f"{weights}: no W_enc and W_dec of rows and columns; there are: {', '.join(found)}")
    d_in, n_latents = shapes["w_enc"]
    l0 = number_in(weights, "average_l0")
    model, kind = kind_of(weights)
    architecture = "jumprelu transcoder" if kind == "transcoders" else "jumprelu"
    return Declared(architecture, n_latents, d_in, shapes["w_dec"][1], float(l0) if l0 else None, model, True)


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules: pre = x W_enc + b_enc, relu(pre) where pre > threshold; no b_dec subtracted, no norm."""
    from .autoencoder import SparseAutoencoder
    from .tensors import Weights

    opened = Weights(weights, device)
    own = {name.lower(): name for name in opened.names}  # some releases write W_enc, some w_enc

    def tensor(name: str) -> Tensor:
        return opened.get(own.get(name.lower(), name))

    sae = SparseAutoencoder(
        W_enc=tensor("W_enc"),
        b_enc=tensor("b_enc"),
        W_dec=tensor("W_dec"),
        b_dec=tensor("b_dec"),
        threshold=tensor("threshold"),
        activation="jumprelu",
        subtract_b_dec=False,
    )
    opened.all_read()
    return sae
