"""What TransformerLens itself holds at its hooks, in tiny models of `tests/families.py`; kept in `transformer_lens/`.

    pip install torch==2.13.0 transformer-lens==4.3.0            # in an environment of its own: for what it needs
    pip install --no-deps transformer-lens==2.16.1 better-abc    # the last line with HookedTransformer
    python -m tests.golden.make_transformer_lens

HookedTransformer, with none of its processing of weights, as SAEs' makers load it; the second of three layers is kept.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions as conversions
from transformers import AutoModelForCausalLM

from resources.hookpoints import FAMILIES, in_layer
from tests.families import HIDDEN, LAYERS, LENS_IDS, VOCABULARY, make_family

FOLDER = Path(__file__).parent / "transformer_lens"
SIZES: dict[str, Any] = {
    "n_layers": LAYERS,
    "d_model": HIDDEN,
    "n_ctx": 128,
    "d_head": 8,
    "n_heads": 4,
    "d_vocab": VOCABULARY,
    "d_mlp": 48,
    "dtype": torch.float32,
    "device": "cpu",
    "use_hook_mlp_in": True,
    "eps": 1e-6,
}
ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 8, "rotary_adjacent_pairs": False}
GATED = ROTARY | {"normalization_type": "RMS", "final_rms": True, "gated_mlp": True, "n_key_value_heads": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "d_mlp": 128,
        "act_fn": "gelu_new",
        "normalization_type": "LN",
        "eps": 1e-5,
        "original_architecture": "GPT2LMHeadModel",
    },
    "gpt_neox": ROTARY
    | {
        "rotary_dim": 2,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "eps": 1e-5,
        "parallel_attn_mlp": True,
        "original_architecture": "GPTNeoXForCausalLM",
    },
    "llama": GATED | {"act_fn": "silu", "original_architecture": "LlamaForCausalLM"},
    "gemma2": GATED
    | {
        "act_fn": "gelu_pytorch_tanh",
        "use_normalization_before_and_after": True,
        "attn_scores_soft_cap": 2.0,
        "output_logits_soft_cap": 30.0,
        "window_size": 4,
        "use_local_attn": True,
        "attn_types": ["local", "global", "local"],
        "use_attn_scale": True,
        "attn_scale": 8**0.5,
        "original_architecture": "Gemma2ForCausalLM",
    },
}
CONVERT = {
    "gpt2": conversions.convert_gpt2_weights,
    "gpt_neox": conversions.convert_neox_weights,
    "llama": conversions.convert_llama_weights,
    "gemma2": conversions.convert_gemma_weights,
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for family, settings in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_family(family, Path(folder))
            model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
        # Its older name, under which the converter looks.
        model.__dict__["embed_out"] = model.get_output_embeddings()
        lens = HookedTransformer(HookedTransformerConfig(**(SIZES | settings)))
        lens.load_and_process_state_dict(
            CONVERT[family](model, lens.cfg),
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
        _, cache = lens.run_with_cache(LENS_IDS[None])
        names = [f"blocks.1.{name}" for name in in_layer(FAMILIES[family])]
        names += ["hook_embed", "ln_final.hook_normalized"]
        kept = {name: cache[name][0] for name in names if name in cache.cache_dict}
        # hook_z holds heads apart; SAEs read them side by side.
        kept = {name: value.flatten(1).contiguous() for name, value in kept.items()}
        save_file(
            kept | {"weights": model.get_input_embeddings().weight.detach()[:2]}, FOLDER / f"{family}.safetensors"
        )
        print(f"{family}: {len(kept)} hooks")


if __name__ == "__main__":
    main()
