"""What OpenMOSS's library, Llamascopium, writes since Llama Scope: `config.json` + `sae_weights.safetensors`.

SAEs and transcoders by the rules of Llama Scope, with a threshold for each latent, stored as its logarithm, and the
average norms of the activations beside the weights. Where those are folded in already, `norm_activation` is inference.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.errors import UnusableInput

from .config import Config, Declared, UnknownSae, read_config
from .llama_scope import PLAIN, activation_of, hooks, in_units_of_the_model, scale

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder

MAKER = "Llamascopium"
CONFIG = "config.json"
WEIGHTS = "sae_weights.safetensors"
ARCHITECTURES = {
    "jumprelu": "pre where it is above the latent's threshold, of the input over its mean norm",
    "jumprelu transcoder": "the same, from hook_point_in to hook_point_out, each with its own norm",
    "topk": "the k largest of relu(pre), in the same scale",
    "relu": "relu(pre), in the same scale",
}
THRESHOLD = "activation_function.log_jumprelu_threshold"
NORM = "dataset_average_activation_norm."
MODEL = "lm_config.json"
KNOWN = {"sae_type", "d_model", "expansion_factor", "use_decoder_bias", "act_fn", "norm_activation", "top_k"}
KNOWN |= {"sparsity_include_decoder_norm", "hook_point_in", "hook_point_out", "use_glu_encoder"}
KNOWN |= {"use_triton_kernel", "sparsity_threshold_for_triton_spmm_kernel", "jumprelu_threshold_window"}


def recognises(config: Config) -> bool:
    return {"sae_type", "d_model"} <= set(config)


def model_of(weights: Path) -> tuple[str | None, bool | None]:
    """The subject model, and whether its contexts began with BOS, where its settings lie beside the SAE's."""
    try:
        config = read_config(weights.with_name(MODEL))
    except (FileNotFoundError, UnusableInput):
        return None, None
    bos = config.get("prepend_bos")
    return config.text("model_name"), bos if isinstance(bos, bool) else None


def declared(config: Config, weights: Path) -> Declared:
    """
    Raises:
        UnknownSae: it is a crosscoder, a cross-layer transcoder, or another kind that reads or writes several places.
    """
    config.one_of("sae_type", ("sae",))
    d_model = config.integer("d_model")
    n_latents = int(d_model * config.number("expansion_factor"))
    config.only(KNOWN, MAKER)
    if hooks(config, weights, None).reads is None:
        raise UnknownSae(f"{config.file}: hook_point_in is missing")
    activation = activation_of(config)
    kind = activation + (" transcoder" if hooks(config, weights, None).transcodes else "")
    l0 = config.number("top_k", 50) if activation == "topk" else None
    return Declared(kind, n_latents, d_model, d_model, l0, *model_of(weights))


def read(config: Config, weights: Path, device: str) -> SparseAutoencoder:
    """Its maker's rules; an average over a token or a batch is refused, as is what depends on the rest of a batch."""
    from .tensors import Weights

    facts = declared(config, weights)
    for key, value in PLAIN.items():
        config.one_of(key, (value,), value)
    activation: Any = activation_of(config)
    norm = config.one_of("norm_activation", ("dataset-wise", "inference"), "dataset-wise")
    unit_rows = config.one_of("sparsity_include_decoder_norm", (False, True), True)
    opened = Weights(weights, device, CONFIG)
    names = [f"{NORM}{config.text(key)}" for key in ("hook_point_in", "hook_point_out")]
    scales = (1.0, 1.0)
    if norm == "dataset-wise":
        one, other = (scale(facts.d_in, float(opened.get(name, ())), f"{opened.file}: {name}") for name in names)
        scales = one, other
    sae = in_units_of_the_model(
        opened.get("W_E", (facts.d_in, facts.n_latents)),
        opened.get("b_E"),
        opened.get("W_D", (facts.n_latents, facts.d_out)).clone(),
        opened.get("b_D"),
        scales,
        unit_rows=unit_rows,
        activation=activation,
        k=config.integer("top_k", 50) if activation == "topk" else None,
        threshold=opened.get(THRESHOLD).exp() if activation == "jumprelu" else None,
        subtract_b_dec=False,
        undo_norm=False,
    )
    opened.all_read(names)
    return sae
