"""Settings of SAEs as they are published on the Hugging Face hub: where they lie, what they say, and what that means.

They are those of the named repositories as public code quotes them (September 2026), without keys that decide nothing. Of
the weights there are headers alone.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

Shapes = dict[str, list[int]]
GPT_2, NEOX, LLAMA, MISTRAL = "gpt2", "gpt_neox", "llama", "mistral"
GEMMA_2, GEMMA_3, GEMMA_3_TEXT, QWEN_3 = "gemma2", "gemma3", "gemma3_text", "qwen3"


class Published(NamedTuple):
    """One SAE of a repository."""

    place: str
    "The repository, and the folder in it."
    settings: tuple[str, dict[str, Any]] | None
    "The file and what stands in it."
    weights: str
    shapes: Shapes
    model_type: str
    "Of the subject model."
    architecture: str = ""
    reads: str = ""
    writes: str | None = None
    "Of a transcoder."
    size: tuple[int, int] = (0, 0)
    "Latents and dimensions."
    l0: float | None = None
    model: str | None = None
    "On the hub."
    refused: str = ""
    "What the message says where it cannot be read."

    def lay_out(self, root: Path) -> Path:
        """The files, below a folder; they take no room on the disk, whatever their size."""
        folder = root / self.place
        (folder / self.weights).parent.mkdir(parents=True, exist_ok=True)
        if self.settings is not None:
            name, said = self.settings
            (folder / name).write_text(json.dumps(said))  # which is YAML too
        if self.weights.endswith(".safetensors"):
            write_header(folder / self.weights, self.shapes or {"encoder": list(self.size)})
        else:
            zipfile.ZipFile(folder / self.weights, "w").close()  # as torch writes
        return root.joinpath(*Path(self.place).parts[:2])


def write_header(file: Path, shapes: Shapes) -> None:
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(header)) + header)
        opened.truncate(8 + len(header) + end)


def scope_2(kind: str, reads: str, writes: str | None = None) -> tuple[str, dict[str, Any]]:
    said = {"hf_hook_point_in": f"model.layers.17.{reads}", "hf_hook_point_out": f"model.layers.17.{writes or reads}"}
    said |= {"width": 16384, "model_name": "google/gemma-3-4b-pt", "architecture": "jump_relu", "l0": 150, "type": kind}
    return "config.json", said | {"affine_connection": False}


def of_several(kind: str, reads: str, writes: str) -> tuple[str, dict[str, Any]]:
    said = {"hf_hook_point_in": f"model.layers.{reads}", "hf_hook_point_out": f"model.layers.{writes}", "l0": 150}
    said |= {"width": 262080, "model_name": "google/gemma-3-270m-pt", "architecture": "jump_relu", "type": kind}
    return "config.json", said


SCOPE_2: Shapes = {
    "w_enc": [2560, 16384],
    "w_dec": [16384, 2560],
    "b_enc": [16384],
    "b_dec": [2560],
    "threshold": [16384],
}
OF_SCOPE_2 = {"size": (16384, 2560), "l0": 150, "model": "google/gemma-3-4b-pt"}
TEXT = "language_model.layers.17"
"Gemma 3 sees too: from 4B on its text model is one part of it."
LLAMA_SCOPE = {"d_model": 4096, "d_sae": 32768, "top_k": 50, "act_fn": "jumprelu", "norm_activation": "dataset-wise"}
PYTHIA = {
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": 32768,
    "k": 16,
    "signed": False,
    "d_in": 512,
}
TRACER = {"model_kind": "transcoder_set", "feature_output_hook": "hook_mlp_out"}

PUBLISHED: dict[str, Published] = {
    "Gemma Scope 2, residual": Published(
        "google/gemma-scope-2-4b-pt/resid_post/layer_17_width_16k_l0_big", scope_2("sae", "output"), "params.safetensors",
        SCOPE_2, GEMMA_3, "jump_relu", TEXT, **OF_SCOPE_2,
    ),
    "Gemma Scope 2, MLP": Published(
        "google/gemma-scope-2-4b-pt/mlp_out/layer_17_width_16k_l0_big", scope_2("sae", "post_feedforward_layernorm.output"),
        "params.safetensors", SCOPE_2, GEMMA_3, "jump_relu", f"{TEXT}.post_feedforward_layernorm", **OF_SCOPE_2,
    ),
    "Gemma Scope 2, attention": Published(
        "google/gemma-scope-2-4b-pt/attn_out/layer_17_width_16k_l0_big", scope_2("sae", "self_attn.o_proj.input"),
        "params.safetensors", SCOPE_2, GEMMA_3, "jump_relu", f"{TEXT}.self_attn.o_proj:in", **OF_SCOPE_2,
    ),
    "Gemma Scope 2, transcoder": Published(
        "google/gemma-scope-2-4b-pt/transcoder/layer_17_width_16k_l0_big",
        scope_2("transcoder", "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
        "params.safetensors", SCOPE_2, GEMMA_3, "jump_relu transcoder", f"{TEXT}.pre_feedforward_layernorm",
        f"{TEXT}.post_feedforward_layernorm", **OF_SCOPE_2,
    ),
    "Gemma Scope 2, cross-layer": Published(
        "google/gemma-scope-2-270m-pt/clt/width_262k_l0_big",
        of_several("clt", "{all}.pre_feedforward_layernorm.output", "{all}.post_feedforward_layernorm.output"),
        "params_layer_0.safetensors", {"w_dec": [14560, 18, 640]}, GEMMA_3_TEXT,
        refused="type 'clt' is not supported; supported: sae, transcoder",
    ),
    "Gemma Scope 2, crosscoder": Published(
        "google/gemma-scope-2-270m-pt/crosscoder/layer_5_9_12_15_width_1m_l0_big",
        of_several("crosscoder", "{5,9,12,15}.output", "{5,9,12,15}.output"), "params_layer_0.safetensors",
        {"w_dec": [262144, 4, 640]}, GEMMA_3_TEXT, refused="type 'crosscoder' is not supported",
    ),
    "Llama Scope, MLP": Published(
        "fnlp/Llama3_1-8B-Base-LXM-8x/Llama3_1-8B-Base-L15M-8x",
        ("hyperparams.json", LLAMA_SCOPE | {"hook_point_in": "blocks.15.hook_mlp_out",
         "hook_point_out": "blocks.15.hook_mlp_out", "expansion_factor": 8, "dtype": "torch.bfloat16"}),
        "checkpoints/final.safetensors", {}, LLAMA, "jumprelu", "layers.15.mlp", size=(32768, 4096), l0=50,
        model="meta-llama/Llama-3.1-8B",
    ),
    "Llama Scope, transcoder": Published(
        "fnlp/Llama3_1-8B-Base-LXTC-8x/Llama3_1-8B-Base-L8TC-8x",
        ("hyperparams.json", LLAMA_SCOPE | {"hook_point_in": "blocks.8.ln2.hook_normalized",
         "hook_point_out": "blocks.8.hook_mlp_out", "jump_relu_threshold": 0.10400390625,
         "dataset_average_activation_norm": {"in": 64.0, "out": 3.390625}}),
        "checkpoints/final.safetensors", {}, LLAMA, "jumprelu transcoder", "layers.8.post_attention_layernorm:normed",
        "layers.8.mlp", (32768, 4096), 50, "meta-llama/Llama-3.1-8B",
    ),
    "Qwen Scope": Published(
        "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50",
        ("config.json", {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "d_model": 2048, "d_sae": 32768,
         "k": 50, "num_layers": 28, "hook_point": "resid_post", "dtype": "float32"}),
        "layer5.sae.pt", {}, QWEN_3, "topk_sae", "layers.5", size=(32768, 2048), l0=50, model="Qwen/Qwen3-1.7B-Base",
    ),
    "dictionary_learning": Published(
        "andyrdt/saes-llama-3.1-8b-instruct/resid_post_layer_3/trainer_1",
        ("config.json", {"trainer": {"trainer_class": "BatchTopKTrainer", "dict_class": "BatchTopKSAE", "k": 64, "layer": 3,
         "activation_dim": 4096, "dict_size": 131072, "lm_name": "meta-llama/Llama-3.1-8B-Instruct",
         "submodule_name": "resid_post_layer_3"}}),
        "ae.pt", {}, LLAMA, "BatchTopKSAE", "layers.3", size=(131072, 4096), l0=64,
        model="meta-llama/Llama-3.1-8B-Instruct",
    ),
    "sparsify, layer": Published(
        "EleutherAI/sae-pythia-70m-32k/layers.3", ("cfg.json", PYTHIA), "sae.safetensors", {}, NEOX, "topk", "layers.3",
        size=(32768, 512), l0=16,
    ),
    "sparsify, attention": Published(
        "EleutherAI/sae-pythia-70m-32k/layers.0.attention", ("cfg.json", PYTHIA), "sae.safetensors", {}, NEOX, "topk",
        "layers.0.attention", size=(32768, 512), l0=16,
    ),
    "sparsify, embedding, no number of latents": Published(
        "EleutherAI/sae-llama-3-8b-32x/embed_tokens",
        ("cfg.json", {"expansion_factor": 32, "normalize_decoder": True, "k": 192, "signed": False, "d_in": 4096}),
        "sae.safetensors", {}, LLAMA, "topk", "embed_tokens", size=(131072, 4096), l0=192,
    ),
    "sparsify, transcoder that does not say so": Published(
        "EleutherAI/skip-transcoder-Llama-3.2-1B-131k/layers.5.mlp",
        ("cfg.json", {"expansion_factor": 32, "normalize_decoder": True, "num_latents": 131072, "k": 32, "multi_topk": False,
         "skip_connection": True, "d_in": 2048}),
        "sae.safetensors", {}, LLAMA, "topk transcoder with skip connection", "layers.5.mlp:in", "layers.5.mlp",
        (131072, 2048), 32,
    ),
    "SAELens before 5, residual": Published(
        "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8/blocks.8.hook_resid_pre_768",
        ("cfg.json", {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8,
         "hook_point_head_index": None, "d_in": 768, "d_sae": 768}),
        "sae_weights.safetensors", {}, GPT_2, "standard", "h.8:in", size=(768, 768), model="openai-community/gpt2",
    ),
    "SAELens before 5, MLP": Published(
        "tommmcgrath/gpt2-small-mlp-out-saes/sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1",
        ("cfg.json", {"model_name": "gpt2", "model_class_name": "HookedTransformer", "hook_point": "blocks.0.hook_mlp_out",
         "hook_point_eval": "blocks.{layer}.attn.pattern", "hook_point_layer": 0, "d_in": 768, "d_sae": 24576}),
        "sae_weights.safetensors", {}, GPT_2, "standard", "h.0.mlp", size=(24576, 768), model="openai-community/gpt2",
    ),
    "SAELens 5, between attention and MLP": Published(
        "jbloom/GPT2-Small-OAI-v5-32k-resid-mid-SAEs/v5_32k_layer_0",
        ("cfg.json", {"architecture": "standard", "d_in": 768, "d_sae": 32768, "model_name": "gpt2-small",
         "hook_name": "blocks.0.hook_resid_mid", "hook_layer": 0, "hook_head_index": None}),
        "sae_weights.safetensors", {}, GPT_2, "standard", "h.0.ln_2:in", size=(32768, 768), model="openai-community/gpt2",
    ),
    "SAELens 5, attention": Published(
        "ctigges/pythia-70m-deduped__att-sm_processed/0-att-sm",
        ("cfg.json", {"architecture": "standard", "d_in": 512, "d_sae": 32768, "model_name": "pythia-70m-deduped",
         "hook_name": "blocks.0.hook_attn_out", "hook_layer": 0, "hook_head_index": None}),
        "sae_weights.safetensors", {}, NEOX, "standard", "layers.0.attention.dense", size=(32768, 512),
        model="EleutherAI/pythia-70m-deduped",
    ),
    "SAELens 5, Mistral": Published(
        "JoshEngels/Mistral-7B-Residual-Stream-SAEs/mistral_7b_layer_8",
        ("cfg.json", {"d_in": 4096, "d_sae": 65536, "model_name": "mistral-7b", "hook_name": "blocks.8.hook_resid_pre",
         "hook_layer": 8, "hook_head_index": None}),
        "sae_weights.safetensors", {}, MISTRAL, "standard", "layers.8:in", size=(65536, 4096),
        model="mistralai/Mistral-7B-v0.1",
    ),
    "circuit-tracer, Qwen": Published(
        "mwhanna/qwen3-4b-transcoders",
        ("config.yaml", {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in",
         "feature_output_hook": "mlp.hook_out"}),
        "layer_7.safetensors", {"W_enc": [163840, 2560], "W_dec": [163840, 2560], "b_enc": [163840], "b_dec": [2560]},
        QWEN_3, "transcoder", "layers.7.mlp:in", "layers.7.mlp", (163840, 2560), model="Qwen/Qwen3-4B",
    ),
    "circuit-tracer, Llama": Published(
        "mntss/transcoder-Llama-3.2-1B",
        ("config.yaml", TRACER | {"model_name": "meta-llama/Llama-3.2-1B", "feature_input_hook": "hook_resid_mid"}),
        "layer_7.safetensors", {"W_enc": [131072, 2048], "W_dec": [131072, 2048], "b_enc": [131072], "b_dec": [2048]},
        LLAMA, "transcoder", "layers.7.post_attention_layernorm:in", "layers.7.mlp", (131072, 2048),
        model="meta-llama/Llama-3.2-1B",
    ),
    "circuit-tracer, a list of others'": Published(
        "mwhanna/gemma-scope-transcoders",
        ("config.yaml", TRACER | {"model_name": "google/gemma-2-2b", "feature_input_hook": "ln2.hook_normalized",
         "transcoders": ["hf://google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76/params.npz"]}),
        "README.md", {}, GEMMA_2, refused="lie elsewhere, as in hf://google/gemma-scope-2b-pt-transcoders/layer_0/",
    ),
    "circuit-tracer, cross-layer": Published(
        "mntss/clt-gemma-2-2b-426k",
        ("config.yaml", TRACER | {"model_name": "google/gemma-2-2b", "feature_input_hook": "hook_resid_mid",
         "model_kind": "cross_layer_transcoder"}),
        "W_enc_0.safetensors", {}, GEMMA_2, refused="model_kind 'cross_layer_transcoder' is not supported",
    ),
}  # fmt: skip
