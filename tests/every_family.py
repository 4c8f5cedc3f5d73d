"""Every family of causal language models that transformers can build, small: the list is its own, sizes go by names.

A setting's name says what it sizes, whichever family has it (SIZES). What a family demands beyond that stands in
DEMANDS. What cannot be built so is listed with its reason in docs/models.md, made by `python -m tests.every_family`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WIDTH, LAYERS, HEADS, HEAD_WIDTH, VOCABULARY, POSITIONS = 32, 4, 4, 8, 96, 256

NAMES_OF_SIZES: dict[float, str] = {
    VOCABULARY: "vocab_size decoder_vocab_size vocab_size_per_layer_input",
    WIDTH: "hidden_size d_model n_embd word_embed_proj_dim embedding_size input_embedding_size output_embedding_size "
    "emb_dim lru_width embedding_dim backbone_hidden_size",
    LAYERS: "num_hidden_layers decoder_layers encoder_layers n_layer num_layers n_layers num_decoder_layers "
    "num_encoder_layers num_blocks num_attention_heads decoder_attention_heads encoder_attention_heads n_head num_heads "
    "n_heads num_decoder_attention_heads num_encoder_attention_heads attention_heads linear_num_heads "
    "swa_num_attention_heads mamba_num_heads mamba_n_heads index_n_heads num_experts n_routed_experts "
    "num_local_experts moe_num_experts zero_expert_num linear_num_value_heads rotary_dim n_mamba_heads "
    "moe_num_shared_experts",
    2: "num_key_value_heads swa_num_key_value_heads num_kv_heads num_query_groups linear_num_key_heads "
    "num_experts_per_tok moe_topk num_experts_per_token moe_k n_shared_experts num_shared_experts mamba_n_groups "
    "mamba_ngroups n_groups attn_layer_period expert_layer_period",
    1: "attn_layer_offset expert_layer_offset first_k_dense_replace num_dense_layers n_group topk_group "
    "moe_layer_start_index num_kv_shared_layers num_nextn_predict_layers",
    3: "moe_layer_end_index",
    HEAD_WIDTH: "head_dim attention_head_size attention_head_dim linear_key_head_dim linear_value_head_dim "
    "linear_head_dim v_head_dim swa_head_dim qk_rope_head_dim qk_nope_head_dim kv_channels d_head dim_head "
    "swa_v_head_dim index_head_dim query_pre_attn_scalar",
    48: "intermediate_size moe_intermediate_size decoder_ffn_dim encoder_ffn_dim ffn_dim "
    "shared_expert_intermediate_size ffn_hidden_size dff dim_ff d_inner feed_forward_size expert_ffn_hidden_size "
    "intermediate_size_mlp dense_intermediate_size shared_intermediate_size moe_shared_expert_intermediate_size "
    "router_hidden_size",
    POSITIONS: "max_position_embeddings n_positions n_ctx max_target_positions max_seq_len model_max_length "
    "context_length",
    # As many as any text here has: the small indexers' scores are often all zero, and which of equals are taken differs
    # from one length to another, in the model's own forward pass too.
    64: "index_topk",
    # The windows are shorter than what the tests run, so that they show.
    16: "kv_lora_rank q_lora_rank mamba_d_state state_size ssm_state_size hidden_size_per_layer_input laurel_rank "
    "o_lora_rank mamba_dt_rank time_step_rank gated_norm_rank adapter_rank hc_lowrank sliding_window "
    "mamba_chunk_size chunk_size mamba_d_head mamba_headdim mamba_head_dim attention_window_size rel_extent "
    "prompt_mid_dim attention_chunk_size local_attention sliding_window_size window_size qk_head_dim",
}
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks")
SIZES = {name: size for size, names in NAMES_OF_SIZES.items() for name in names.split()}
FACTORS = {"logits_scaling": 8.0, "logit_scale": 0.25, "lm_head_multiplier": 3.0, "final_logit_softcapping": 5.0}
"What families multiply or bend their logits with: by what nobody who leaves it out would come near."
FACTORS |= {"embedding_multiplier": 2.0, "residual_multiplier": 0.5}

DEMANDS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "deepseek_v2": {"topk_group": 1, "n_group": 1, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "topk_group": 1, "n_group": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"layer_types": None},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen4_exp_text": {"indexer_budget": 16, "indexer_compress_ratio": 4},
    "reformer": {"axial_pos_embds": False},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "layer_types": ["mamba", "hybrid"] * 2},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16, "layer_types": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(family: str) -> Any:
    kind = CONFIG_MAPPING[family]
    settings = small_settings(kind())
    for part in getattr(kind, "sub_configs", {}):
        if (default := getattr(kind(), part, None)) is not None:
            demands = DEMANDS.get(default.model_type, {})
            settings[part] = {"model_type": default.model_type} | small_settings(default) | demands
            if "text" not in part:
                # Other modalities have one layer fewer, so that their layers are not taken for those of the text.
                settings[part] |= {name: LAYERS - 1 for name in COUNTS if name in settings[part]}
    settings |= DEMANDS.get(family, {})
    return kind(**{name: value for name, value in settings.items() if value is not None})


def small_settings(default: Any) -> dict[str, Any]:
    known = default.to_dict()
    settings: dict[str, Any] = {}
    for name, value in known.items():
        if name in SIZES and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            settings[name] = SIZES[name]
        if name in FACTORS and isinstance(value, int | float) and not isinstance(value, bool):
            settings[name] = FACTORS[name]
    for name in ("num_key_value_heads", "head_dim"):
        if known.get(name, 0) is None:
            settings[name] = SIZES[name]
    if known.get("kv_lora_rank"):
        settings["num_key_value_heads"] = HEADS  # latent attention has as many as heads
    for name in ("layer_types", "mlp_layer_types"):
        if len(set(known.get(name) or ())) > 1:
            settings[name] = one_of_each(known[name], settings.get("num_hidden_layers", LAYERS))
    settings |= {n: i for n, i in (("bos_token_id", 0), ("pad_token_id", 2)) if isinstance(known.get(n), int)}
    if known.get("eos_token_id") is not None:
        settings["eos_token_id"] = 1
    return settings | ({"is_decoder": True} if "is_decoder" in known or hasattr(default, "is_decoder") else {})


def one_of_each(kinds: Sequence[str], count: int) -> list[str]:
    """So many layers, with each of a model's kinds among them."""
    different = [*dict.fromkeys(kinds)][-count:]
    return [different[min(i * len(different) // count, len(different) - 1)] for i in range(count)]


WORDS = [f"{a}{b}" for a in "bdfgklmnprstvz" for b in "aeiou"]
"Enough for the vocabulary beside the special tokens, and no word begins another."
TEMPLATE = "{% for m in messages %}{{ '<s> ' + m['content'] + ' ' }}{% endfor %}{{ '<r> ' }}"


def make_family(family: str, folder: Path) -> Path:
    """A model of random weights, gains of norms and biases included, with a tokenizer.

    Raises:
        Exception: of whatever kind the family raises where it cannot be built or run so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(small_config(family)).eval()
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        model.save_pretrained(folder)
    special = ["<s>", "</s>", "<unk>", "<r>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATE
    )
    made.save_pretrained(folder)
    return folder
