"""Names of hookpoints: what TransformerLens and the makers of SAEs call a place, and what stands there."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from resources.hookpoints import FAMILIES, UnknownHook, hookpoint_of, in_layer, place_of
from tests.families import SMALL

LLAMA = {"model_type": "llama"}
GEMMA = {"model_type": "gemma2"}


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("blocks.10.hook_resid_post", None, "layers.10"),
        ("blocks.1.hook_resid_pre", None, "layers.1:in"),
        ("blocks.10.hook_resid_mid", LLAMA, "layers.10.post_attention_layernorm:in"),
        ("blocks.0.attn.hook_z", LLAMA, "layers.0.self_attn.o_proj:in"),
        ("blocks.0.hook_mlp_out", LLAMA, "layers.0.mlp"),
        ("blocks.0.ln2.hook_normalized", LLAMA, "layers.0.post_attention_layernorm:normed"),
        ("blocks.5.hook_mlp_out", GEMMA, "layers.5.post_feedforward_layernorm"),
        ("blocks.5.hook_attn_out", GEMMA, "layers.5.post_attention_layernorm"),
        ("blocks.5.ln2.hook_normalized", GEMMA, "layers.5.pre_feedforward_layernorm:normed"),
        ("blocks.5.hook_resid_mid", GEMMA, "layers.5.pre_feedforward_layernorm:in"),
        ("blocks.7.hook_resid_pre", {"model_type": "gpt2"}, "h.7:in"),
        ("blocks.7.attn.hook_z", {"model_type": "gpt2"}, "h.7.attn.c_proj:in"),
        ("blocks.7.ln2.hook_normalized", {"model_type": "gpt2"}, "h.7.ln_2"),
        ("blocks.3.hook_mlp_out", {"model_type": "gpt_neox"}, "layers.3.mlp"),
        (
            "blocks.3.hook_resid_mid",
            {"model_type": "gpt_neox", "use_parallel_residual": False},
            "layers.3.post_attention_layernorm:in",
        ),
        ("blocks.9.hook_resid_post", {"model_type": "gemma3"}, "language_model.layers.9"),
        ("hook_embed", {"model_type": "gpt2"}, "wte"),
        ("layers.10", None, "layers.10"),
        ("layers.3.mlp:in", LLAMA, "layers.3.mlp:in"),
        ("h.0", {"model_type": "gpt2"}, "h.0"),
        ("decoder.layers.0", {"model_type": "opt"}, "decoder.layers.0"),
        ("model.layers.20", LLAMA, "layers.20"),
        ("transformer.h.3", None, "h.3"),
        ("model.layers.17.output", {"model_type": "gemma3_text"}, "layers.17"),
        ("model.layers.17.output", {"model_type": "gemma3"}, "language_model.layers.17"),
        ("model.language_model.layers.17", {"model_type": "gemma3"}, "language_model.layers.17"),
        ("model.layers.11.self_attn.o_proj.input", {"model_type": "gemma3_text"}, "layers.11.self_attn.o_proj:in"),
    ],
)
def test_what_a_name_stands_for(name: str, config: dict[str, object] | None, expected: str) -> None:
    assert hookpoint_of(name, config) == expected


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        (
            "blocks.3.attn.hook_q",
            LLAMA,
            r"blocks\.3\.attn\.hook_q: .* not supported; supported are: blocks\.L\.hook_re",
        ),
        ("blocks.3.hook_resid_mid", {"model_type": "gpt_neox"}, "read the same residual stream"),
        (
            "blocks.3.hook_resid_mid",
            {"model_type": "mamba"},
            "'mamba' is not known, only .*hook_resid_post are; .*module path",
        ),
        ("layers.*", None, "no hookpoint; hookpoints are module paths such as"),
        ("layers.1:out", None, "no hookpoint"),
        ("../layers.1", None, "no hookpoint"),
        ("", None, "no hookpoint"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(name: str, config: dict[str, object] | None, said: str) -> None:
    with pytest.raises(UnknownHook, match=said):
        hookpoint_of(name, config)


def test_names_are_compared_whole() -> None:
    assert hookpoint_of("blocks.1.hook_resid_post") != hookpoint_of("blocks.10.hook_resid_post")
    with pytest.raises(UnknownHook):
        hookpoint_of("blocks.1.hook_resid_post2")


def test_a_hookpoint_stands_for_itself() -> None:
    for family, config in SMALL.items():
        for tail in in_layer(FAMILIES[family]).values():
            if tail is not None:
                hookpoint = f"{FAMILIES[family].text}{FAMILIES[family].layers}.1{tail}"
                assert hookpoint_of(hookpoint, {"model_type": family} | config) == hookpoint


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_that_the_table_names_is_in_the_model(family: str) -> None:
    config = AutoConfig.for_model(family, **SMALL[family])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parts, modules = FAMILIES[family], dict(model.base_model.named_modules())
    assert model.base_model_prefix == parts.base
    assert len(modules[parts.text + parts.layers]) == config.get_text_config().num_hidden_layers
    assert modules[parts.text + parts.embedding] is model.get_input_embeddings()
    for tail in in_layer(parts).values():
        if tail is not None:
            assert place_of(f"{parts.text}{parts.layers}.1{tail}").module in modules
    norm = modules[f"{parts.text}{parts.layers}.0.{parts.mlp_norm}"]
    assert isinstance(norm, torch.nn.LayerNorm) is not parts.rms
    assert parts.text + parts.final_norm in modules
