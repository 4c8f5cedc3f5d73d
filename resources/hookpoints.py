"""Where activations are read: the grammar of hookpoints, and what other tools call the same places. Needs no torch.

A hookpoint is a path of modules below the model's base model, without its head:

    layers.10                                    what a module puts out
    layers.10.self_attn.o_proj:in                what goes into it
    layers.10.pre_feedforward_layernorm:normed   of a norm: what goes into it, over its scale, before gain and bias

The last is a tensor that no module puts out, yet one that transcoders are trained on. TransformerLens names are mapped
by the family that the model's settings name. One table, FAMILIES, says what the parts of a layer are called; of all other
families LAYER_PATHS says where their layers lie, so what stands before and behind each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from resources.errors import UnusableInput
from resources.layer_paths import LAYER_PATHS, WITHOUT_PATHS

Side = Literal["out", "in", "normed"]
PATH = r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*"


class UnknownHook(UnusableInput):
    """A name that stands for no hookpoint; the message says which names do."""


class Place(NamedTuple):
    """A hookpoint, taken apart."""

    module: str
    side: Side


class Family(NamedTuple):
    """What the models of one `model_type` call their parts; those of a layer are relative to it."""

    base: str
    "Where the base model stands in the model with its head."
    layers: str
    embedding: str
    final_norm: str
    attention_norm: str
    "Reads the residual stream before the attention."
    attention_out: str
    "The attention's output projection."
    mlp_norm: str
    "Reads the residual stream before the MLP."
    mlp: str
    mlp_out: str
    "The MLP's last linear map."
    after_attention: str | None = None
    "A norm between the attention and the residual stream."
    after_mlp: str | None = None
    "A norm between the MLP and the residual stream."
    rms: bool = True
    "Whether norms divide by the root mean square alone; LayerNorm also subtracts the mean and adds a bias."
    parallel: bool = False
    "Attention and MLP read the same residual stream, so that there is none between them."
    text: str = ""
    "Where the text model stands in a base model that has other parts, with a dot behind it."


LLAMA = Family(
    base="model",
    layers="layers",
    embedding="embed_tokens",
    final_norm="norm",
    attention_norm="input_layernorm",
    attention_out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    mlp="mlp",
    mlp_out="mlp.down_proj",
)
GEMMA_2 = LLAMA._replace(
    mlp_norm="pre_feedforward_layernorm",
    after_attention="post_attention_layernorm",
    after_mlp="post_feedforward_layernorm",
)
GPT_2 = Family(
    base="transformer",
    layers="h",
    embedding="wte",
    final_norm="ln_f",
    attention_norm="ln_1",
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    mlp="mlp",
    mlp_out="mlp.c_proj",
    rms=False,
)
GPT_NEOX = Family(
    base="gpt_neox",
    layers="layers",
    embedding="embed_in",
    final_norm="final_layer_norm",
    attention_norm="input_layernorm",
    attention_out="attention.dense",
    mlp_norm="post_attention_layernorm",
    mlp="mlp",
    mlp_out="mlp.dense_4h_to_h",
    rms=False,
    parallel=True,
)
FAMILIES: dict[str, Family] = {
    "gpt2": GPT_2,
    "gpt_neo": GPT_2._replace(attention_out="attn.attention.out_proj"),
    "gptj": GPT_2._replace(attention_out="attn.out_proj", mlp_norm="ln_1", mlp_out="mlp.fc_out", parallel=True),
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "phi3": LLAMA,
    "phi": LLAMA._replace(
        final_norm="final_layernorm",
        attention_out="self_attn.dense",
        mlp_norm="input_layernorm",
        mlp_out="mlp.fc2",
        rms=False,
        parallel=True,
    ),
    "gemma": LLAMA,
    "gemma2": GEMMA_2,
    "gemma3_text": GEMMA_2,
    "gemma3": GEMMA_2._replace(text="language_model."),
}
"By `model_type`. Models of other types are read by module paths; only TransformerLens names need this table."
BASES = {family.base for family in FAMILIES.values()}
AROUND_A_LAYER = {"hook_resid_pre": ":in", "hook_resid_post": ""}
"What TransformerLens calls the two ends of a block, in a model of any family."


def place_of(hookpoint: str) -> Place:
    """
    Raises:
        UnknownHook: it is not of the grammar.
    """
    found = re.fullmatch(rf"({PATH})(?::(in|normed))?", hookpoint)
    if found is None:
        raise UnknownHook(
            f"{hookpoint!r} is no hookpoint; hookpoints are module paths such as layers.10, layers.10.mlp, "
            "layers.10.self_attn.o_proj:in (what goes in) or layers.10.post_attention_layernorm:normed "
            "(a norm's input over its scale)"
        )
    side: Any = found[2] or "out"
    return Place(found[1], side)


def hookpoint_of(name: str, config: Mapping[str, Any] | None = None, before_gain: bool = False) -> str:
    """The hookpoint that a name stands for: a TransformerLens name, a module path, or a hookpoint itself.

    A module path may begin at the model with its head (`model.layers.10`), and may say `.input` or `.output`.

    Args:
        config: the settings of the model (its `config.json`); a model like Llama when they are not known.
        before_gain: whether the `hook_normalized` of a LayerNorm is meant as TransformerLens has it since 3.0, before
            gain and bias, and not behind them as it had it until then.

    Raises:
        UnknownHook: no hookpoint is meant by it, or the model's family is none whose parts are known.
    """
    if re.fullmatch(r"blocks\.\d+\..+|hook_embed|hook_pos_embed|ln_final\..+", name):
        return of_transformer_lens(name, config, before_gain)
    path = re.sub(rf"^({PATH})\.(input|output)$", lambda found: found[1] + {"input": ":in"}.get(found[2], ""), name)
    place_of(path)
    kind = model_type(config)
    known = config is not None and kind in LAYER_PATHS
    base, layers = LAYER_PATHS[kind] if known else ("", LLAMA.layers)
    first, _, rest = path.partition(".")
    if rest and first in ({base} if known else BASES):
        path = rest
    # Of a model with other parts than text, what is named without them is the text's.
    text, _, stack = layers.rpartition(".")
    family = FAMILIES.get(kind)
    of_text = {stack, family.embedding, family.final_norm} if family else {stack}
    if text and re.split("[.:]", path)[0] in of_text:
        path = f"{text}.{path}"
    return path


def of_transformer_lens(name: str, config: Mapping[str, Any] | None, before_gain: bool) -> str:
    kind = model_type(config)
    family = FAMILIES.get(kind)
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if family is None:
        if found and found[2] in AROUND_A_LAYER and kind in LAYER_PATHS:
            return f"{LAYER_PATHS[kind][1]}.{found[1]}{AROUND_A_LAYER[found[2]]}"
        raise UnknownHook(not_known(name, kind))
    if kind == "gpt_neox" and config is not None:
        family = family._replace(parallel=bool(config.get("use_parallel_residual", True)))
    outside = {
        "hook_embed": family.embedding,
        "ln_final.hook_normalized": family.final_norm + normed(family, before_gain),
    }
    if name in outside:
        return family.text + outside[name]
    inside = in_layer(family, before_gain)
    if found is None or found[2] not in inside:
        known = ", ".join([*(f"blocks.L.{each}" for each in inside), *outside])
        raise UnknownHook(f"{name}: this TransformerLens name is not supported; supported are: {known}")
    if inside[found[2]] is None:
        raise UnknownHook(
            f"{name}: in a model of type {kind!r} attention and MLP read the same residual stream, there is none between "
            "them; blocks.L.hook_resid_pre and blocks.L.hook_resid_post are what stands before and behind both"
        )
    return f"{family.text}{family.layers}.{found[1]}{inside[found[2]]}"


def not_known(name: str, kind: str) -> str:
    """Why a TransformerLens name stands for nothing in a model whose layers' parts are in no table."""
    layers = LAYER_PATHS[kind][1] if kind in LAYER_PATHS else "layers"
    if kind in LAYER_PATHS:
        ends = " and ".join(f"blocks.L.{each}" for each in AROUND_A_LAYER)
        why = f"is not known, only {ends} are"
    elif kind in WITHOUT_PATHS:
        why = f"is not known: {WITHOUT_PATHS[kind]}"
    else:
        why = "is not known: the installed tables have no such type"
    return (
        f"{name}: what it means in a model of type {kind!r} {why}; name the module path instead, as in hookpoints: "
        f"[{layers}.10]"
    )


def in_layer(family: Family, before_gain: bool = False) -> dict[str, str | None]:
    """What TransformerLens names in a block, as what is to be added to the layer's path; None where there is none.

    What it calls the outputs of attention and MLP is what is added to the residual stream, behind a norm where there
    is one; its `hook_normalized` is an RMS norm before its gain, and a LayerNorm with or without gain and bias.
    """
    return {
        "hook_resid_pre": ":in",
        "hook_resid_mid": None if family.parallel else f".{family.mlp_norm}:in",
        "hook_resid_post": "",
        "ln1.hook_normalized": f".{family.attention_norm}{normed(family, before_gain)}",
        "attn.hook_z": f".{family.attention_out}:in",
        "hook_attn_out": f".{family.after_attention or family.attention_out}",
        "hook_mlp_in": f".{family.mlp_norm}:in",
        "ln2.hook_normalized": f".{family.mlp_norm}{normed(family, before_gain)}",
        "mlp.hook_in": f".{family.mlp}:in",
        "mlp.hook_post": f".{family.mlp_out}:in",
        "mlp.hook_out": f".{family.mlp}",
        "hook_mlp_out": f".{family.after_mlp or family.mlp}",
    }


def normed(family: Family, before_gain: bool) -> str:
    return ":normed" if family.rms or before_gain else ""


def model_type(config: Mapping[str, Any] | None) -> str:
    return "llama" if config is None else str(config.get("model_type", ""))
