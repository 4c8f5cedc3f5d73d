"""Tiny models of every family: settings from which transformers builds them, and such models on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

HIDDEN = 32
LAYERS = 3
VOCABULARY = 64

LENS_IDS = torch.tensor([17, 3, 58, 3, 41, 9, 26, 60, 12])
"What TransformerLens was run on for `golden/transformer_lens`."

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
OLD = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": VOCABULARY}
GPT = OLD | {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 128}
GEMMA = GROUPED | {"sliding_window": 4, "query_pre_attn_scalar": 8}
"The window is shorter than what the tests run, so that it shows."
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

SMALL: dict[str, dict[str, Any]] = {
    "gpt2": GPT,
    "gpt_neo": OLD
    | {
        "hidden_size": HIDDEN,
        "num_layers": LAYERS,
        "num_heads": 4,
        "max_position_embeddings": 128,
        "attention_types": [[["global"], LAYERS]],
    },
    "gptj": GPT | {"rotary_dim": 4},
    "gpt_neox": SIZES,
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 4},
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "smollm3": GROUPED | {"no_rope_layer_interval": 2},
    "phi3": SIZES | {"num_key_value_heads": 2},
    "phi": SIZES,
    "gemma": GROUPED,
    "gemma2": GEMMA | {"attn_logit_softcapping": 2.0},
    "gemma3_text": GEMMA,
    "gemma3": {"text_config": GEMMA | {"model_type": "gemma3_text"}, "vision_config": VISION},
}


def make_family(family: str, folder: Path, **changes: Any) -> Path:
    """A model of random weights, gains of norms and biases included."""
    config = AutoConfig.for_model(family, **(SMALL[family] | changes))
    model = AutoModelForCausalLM.from_config(config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(folder)
    return folder
