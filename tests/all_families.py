"""A tiny model of every family of causal language models that transformers knows, from its own settings made small.

Which families there are, transformers says; none is named here. Run as `python -m tests.all_families` it writes
`resources/layer_paths.py`: where the layers of each lie, or why that cannot be told.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from resources.errors import UnusableInput
from resources.model_structure import Structure, looks_like_norm

ALL = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LAYERS, WIDTH = 4, 32
IDS = torch.randint(2, 60, (2, 12), generator=torch.Generator().manual_seed(0))
SMALL: dict[tuple[str, ...], int] = {
    ("hidden_size", "n_embd", "d_model", "dim", "emb_dim"): WIDTH,
    ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "dim_ff", "d_inner"): 48,
    ("intermediate_size_mlp", "ffn_hidden_size", "shared_intermediate_size", "mlp_hidden_size"): 48,
    (
        "moe_intermediate_size",
        "expert_ffn_hidden_size",
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
    ): 24,
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads"): 4,
    ("num_key_value_heads",): 2,
    ("head_dim", "attention_head_dim", "dim_head", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"): 8,
    ("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"): 8,
    ("linear_num_heads", "linear_num_key_heads", "linear_num_value_heads"): 4,
    ("rotary_dim",): 4,
    ("q_lora_rank", "kv_lora_rank"): 16,
    ("vocab_size", "vocab_size_per_layer_input", "encoder_hash_byte_group_vocab", "n_words"): 64,
    ("pronunciation_vocab_size", "shape_vocab_size"): 64,
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"): LAYERS,
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"): 4,
    ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k", "moe_topk"): 2,
    ("n_group", "topk_group"): 1,
    ("mamba_n_heads", "mamba_num_heads", "mamba_d_head", "mamba_head_dim"): 8,
    ("max_position_embeddings", "n_positions", "n_ctx"): 128,
    ("sliding_window",): 8,
    ("num_kv_shared_layers",): 0,
    ("bos_token_id",): 0,
    ("eos_token_id", "pad_token_id"): 1,
}
SIZES = {name: size for names, size in SMALL.items() for name in names}
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def tiny_config(family: str) -> PretrainedConfig:
    """The family's default settings, all sizes small; what stands there once for each layer is cut to LAYERS."""
    config = AutoConfig.for_model(family)
    values = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    return type(config).from_dict(shrunk(values, None))


def shrunk(values: dict[str, Any], layers: int | None, kept: int = LAYERS) -> dict[str, Any]:
    """
    Args:
        layers: how many a model of the settings around these has.
        kept: how many are kept.
    """
    layers = next((values[name] for name in COUNTS if isinstance(values.get(name), int)), layers)

    def small(name: str, value: Any) -> Any:
        if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
            return {key: small(name, each) for key, each in value.items() if int(key) < kept}
        if isinstance(value, dict):
            # Other modalities have one layer fewer, so that their layers are not taken for those of the text.
            return shrunk(value, layers, LAYERS if "text" in name or not name.endswith("_config") else LAYERS - 1)
        if name in COUNTS and isinstance(value, int):
            return kept
        if name in SIZES and (value is None or isinstance(value, int)):
            return SIZES[name]
        return value[:kept] if isinstance(value, list | tuple) and len(value) == layers else value

    found = {name: small(name, value) for name, value in values.items()}
    if values.get("num_key_value_heads") == values.get("num_attention_heads", 0):
        found["num_key_value_heads"] = found["num_attention_heads"]
    return found


@cache
def tiny_model(family: str) -> PreTrainedModel:
    """With random weights, gains of norms and biases included.

    Raises:
        Exception: whatever transformers says of settings that do not fit one another.
    """
    model: Any = AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation="eager")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draw))
    return model.float().eval()


def layers_of(family: str) -> tuple[str, str] | str:
    """Where the base model of a family stands in the model with its head, and where its layers stand in the base model,
    if each of them reads and writes the residual stream; else why that is not so, seen by running it.
    """
    try:
        model: Any = tiny_model(family)
        structure = Structure(model)
        norms = [module for module in model.modules() if looks_like_norm(module, WIDTH)]
        into, out_of, normed = run(model, structure, norms, IDS)
        changed = IDS.clone()
        changed[:, -1] += 1
        later = run(model, structure, norms, changed)[1]
    except UnusableInput as error:
        return str(error)
    except Exception as error:
        return f"its default settings, made small, make no model that runs: {type(error).__name__}"
    if not all(isinstance(each, Tensor) for each in out_of):
        return f"its layers put out no tensor, but a {type(out_of[0]).__name__}"
    if any(each.shape != (*IDS.shape, WIDTH) for each in out_of):
        return f"its layers put out no vector for each token, but {list(out_of[0].shape)} for {list(IDS.shape)} tokens"
    if any(each is one for each in out_of for one in normed):
        return "its layers put out what a norm has made of the residual stream"
    if not all(torch.equal(one, other) for one, other in zip(out_of, into[1:], strict=False)):
        return "its layers do not read what the layers before them put out"
    if not all(torch.allclose(a[:, :-1], b[:, :-1], atol=1e-5) for a, b in zip(out_of, later, strict=True)):
        return "what stands at a token depends on later ones"
    return model.base_model_prefix, structure.layers_path


@torch.no_grad()
def run(
    model: Any, structure: Structure, norms: list[nn.Module], ids: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What goes into each layer, what comes out of it, and what norms put out."""
    into: list[Tensor] = []
    out_of: list[Tensor] = []
    normed: list[Tensor] = []

    def layer_ran(_layer: nn.Module, given: Any, named: Any, out: Any) -> None:
        into.append(given[0] if given else next(iter(named.values())))
        out_of.append(out[0] if isinstance(out, tuple) else out)

    handles = [each.register_forward_hook(layer_ran, with_kwargs=True) for each in structure.layers]
    handles += [each.register_forward_hook(lambda _norm, _given, out: normed.append(out)) for each in norms]
    model.base_model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return into, out_of, normed


def main() -> None:
    measured = {family: layers_of(family) for family in ALL}
    lines = [
        f'"""Where the layers of each family of models lie, as seen in tiny models of transformers {transformers.__version__}.',
        "",
        "Written by `python -m tests.all_families`; a test compares it with the transformers that is installed.",
        '"""',
        "",
        "LAYER_PATHS = {",
        *(f"    {family!r}: {found!r}," for family, found in measured.items() if not isinstance(found, str)),
        "}",
        '"By `model_type`: the base model in the model with its head, and the layers in the base model."',
        "",
        "WITHOUT_PATHS = {",
        *(f"    {family!r}: {found!r}," for family, found in measured.items() if isinstance(found, str)),
        "}",
        '"By `model_type`, why."',
    ]
    file = Path(__file__).parents[1] / "resources" / "layer_paths.py"
    file.write_text("\n".join(lines) + "\n")
    print(f"{file}: format it with ruff")


if __name__ == "__main__":
    main()
