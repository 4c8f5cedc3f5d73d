"""The golden SAEs: what each is, and how far our reader's numbers lie from its maker's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from resources.sparse_autoencoders.autoencoder import SparseAutoencoder, TopActivations
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.location import SaeLocation
from resources.sparse_autoencoders.read import read_sae

GOLDEN = Path(__file__).parent / "golden"
RESIDUAL, NORMED = "layers.3", "layers.3.post_attention_layernorm:normed"
MLP = "layers.3.mlp"


class Case(NamedTuple):
    """What the maker's settings say of one golden SAE."""

    architecture: str
    reads: str | None = RESIDUAL
    writes: str | None = None
    l0: float | None = None
    k: int | None = None
    "Where exactly so many places are kept for each token."
    subtracts: bool = True


PRE, POST = "layers.3.pre_feedforward_layernorm", "layers.3.post_feedforward_layernorm"
HEADS = "layers.3.self_attn.o_proj:in"
MLP_IN = "layers.3.mlp:in"
CASES: dict[str, Case] = {
    "qwen_scope_topk": Case("topk_sae", l0=8, k=8, subtracts=False),
    "circuit_tracer_relu": Case("transcoder", MLP_IN, MLP, subtracts=False),
    "circuit_tracer_jumprelu": Case("jumprelu transcoder", MLP_IN, MLP, subtracts=False),
    "circuit_tracer_skip": Case("transcoder with skip connection", MLP_IN, MLP, subtracts=False),
    "circuit_tracer_jumprelu_skip": Case("jumprelu transcoder with skip connection", MLP_IN, MLP, subtracts=False),
    "sparsify_topk": Case("topk", None, l0=8, k=8),
    "sparsify_expansion_factor": Case("topk", None, l0=24, k=24),
    "sparsify_bf16": Case("topk", None, l0=8, k=8),
    "sparsify_fp16": Case("topk", None, l0=8, k=8),
    "sparsify_mixed": Case("topk", None, l0=8, k=8),
    "sparsify_older": Case("topk", None, l0=8, k=8),
    "sparsify_groupmax": Case("groupmax", None, l0=8, k=8),
    "sparsify_skip": Case("topk with skip connection", None, l0=8, k=8),
    "sparsify_transcoder": Case("topk transcoder", None, l0=8, k=8, subtracts=False),
    "sparsify_skip_transcoder": Case("topk transcoder with skip connection", None, l0=8, k=8, subtracts=False),
    "sparsify_older_skip_transcoder": Case("topk transcoder with skip connection", None, l0=8, k=8),
    "saelens_standard": Case("standard"),
    "saelens_b_dec_not_subtracted": Case("standard", subtracts=False),
    "saelens_topk": Case("topk", l0=8, k=8),
    "saelens_topk_rescaled": Case("topk", l0=8, k=8),
    "saelens_jumprelu": Case("jumprelu"),
    "saelens_gated": Case("gated"),
    "saelens_layer_norm": Case("standard"),
    "saelens_constant_norm": Case("topk", l0=8, k=8),
    "saelens_hook_z": Case("standard", HEADS),
    "saelens_transcoder": Case("transcoder", NORMED, MLP, subtracts=False),
    "saelens_skip_transcoder": Case("skip_transcoder", NORMED, MLP, subtracts=False),
    "saelens_jumprelu_transcoder": Case("jumprelu_transcoder", NORMED, MLP, subtracts=False),
    "saelens_jumprelu_skip_transcoder": Case("jumprelu_skip_transcoder", NORMED, MLP, subtracts=False),
    "saelens_5_standard": Case("standard"),
    "saelens_5_topk": Case("topk", l0=8, k=8),
    "saelens_5_gated": Case("gated"),
    "saelens_5_jumprelu": Case("jumprelu", subtracts=False),
    "saelens_5_average_norm": Case("standard"),
    "saelens_5_hook_z": Case("standard", HEADS),
    "gemma_scope_res": Case("jumprelu", l0=20, subtracts=False),
    "gemma_scope_lower_case": Case("jumprelu", POST, l0=20, subtracts=False),
    "gemma_scope_att": Case("jumprelu", HEADS, l0=20, subtracts=False),
    "gemma_scope_transcoder": Case("jumprelu transcoder", f"{PRE}:normed", POST, l0=20, subtracts=False),
    "gemma_scope_2_res": Case("jump_relu", l0=20, subtracts=False),
    "gemma_scope_2_att": Case("jump_relu", HEADS, l0=20, subtracts=False),
    "gemma_scope_2_transcoder": Case("jump_relu transcoder", PRE, POST, l0=20, subtracts=False),
    "gemma_scope_2_affine": Case("jump_relu transcoder with affine connection", PRE, POST, l0=20, subtracts=False),
    "llama_scope_res": Case("jumprelu", l0=20, subtracts=False),
    "llama_scope_decoder_norms": Case("jumprelu", l0=20, subtracts=False),
    "llama_scope_topk": Case("topk", l0=20, k=20, subtracts=False),
    "llama_scope_relu": Case("relu", subtracts=False),
    "llama_scope_transcoder": Case("jumprelu transcoder", NORMED, MLP, l0=20, subtracts=False),
    "llamascopium_jumprelu": Case("jumprelu", subtracts=False),
    "llamascopium_topk": Case("topk", l0=20, k=20, subtracts=False),
    "llamascopium_plain_norms": Case("topk", l0=20, k=20, subtracts=False),
    "llamascopium_inference": Case("relu", subtracts=False),
    "llamascopium_transcoder": Case("jumprelu transcoder", NORMED, MLP, subtracts=False),
    "dictionary_learning_standard": Case("AutoEncoder"),
    "dictionary_learning_new": Case("AutoEncoderNew", subtracts=False),
    "dictionary_learning_topk": Case("AutoEncoderTopK", l0=8, k=8),
    "dictionary_learning_batchtopk": Case("BatchTopKSAE", l0=8),
    "dictionary_learning_matryoshka": Case("MatryoshkaBatchTopKSAE", l0=8),
    "dictionary_learning_jumprelu": Case("JumpReluAutoEncoder", subtracts=False),
    "dictionary_learning_gated": Case("GatedAutoEncoder"),
}
"Every golden SAE there is."


class Golden(NamedTuple):
    sae: SparseAutoencoder
    "As our readers read it."
    x: Tensor
    target: Tensor
    encoding: Tensor
    reconstruction: Tensor
    fvu: Tensor
    "[1]"


def location_of(case: str) -> SaeLocation:
    (location,) = locate(GOLDEN / case)
    return location


def golden(case: str) -> Golden:
    return Golden(read_sae(location_of(case)), **load_file(GOLDEN / case / "expected.safetensors"))


def dense(top: TopActivations, n_latents: int) -> Tensor:
    return torch.zeros(len(top.activations), n_latents).scatter_add(1, top.indices, top.activations)


def differences(sae: SparseAutoencoder, maker: Golden) -> tuple[float, float]:
    """The largest difference from the maker's encoding, and from its reconstruction."""
    encoding = (dense(sae.encode(maker.x), sae.n_latents) - maker.encoding).abs().max()
    reconstruction = (sae.reconstruct(maker.x) - maker.reconstruction).abs().max()
    return encoding.item(), reconstruction.item()
