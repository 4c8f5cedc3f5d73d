"""Golden SAEs of Gemma Scope and Gemma Scope 2, computed by plain torch from their published rules.

Their maker's class is no package, it stands in a notebook. SAELens reads both, and must agree.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from drawing import D_IN, HERE, N_LATENTS, TOKENS, Draw, store
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig
from safetensors.torch import save_file
from torch import Tensor

PUBLISHED = "published rules in plain torch"
COMMON = {"d_in": D_IN, "d_sae": N_LATENTS, "apply_b_dec_to_input": False}


def jumprelu(pre: Tensor, threshold: Tensor) -> Tensor:
    return (pre > threshold) * pre.relu()


def positive_threshold(draw: Draw) -> Tensor:
    return 0.05 + 0.4 * torch.rand(N_LATENTS, generator=draw.generator)


def agree(encoding: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(encoding, other, atol=1e-5, rtol=1e-5)


def gemma_scope(case: str, seed: int, release: str, lower: bool = False) -> None:
    """Lieberum et al. 2024; the class of the tutorial notebook: no b_dec subtracted, no norm."""
    draw = Draw(seed)
    threshold = positive_threshold(draw)
    folder = HERE / case / f"gemma-scope-2b-pt-{release}" / "layer_3" / "width_64" / "average_l0_20"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "W_enc": draw.W_enc,
        "b_enc": draw.b_enc,
        "W_dec": draw.W_dec,
        "b_dec": draw.b_dec,
        "threshold": threshold,
    }
    arrays = {name.lower() if lower else name: each.numpy() for name, each in tensors.items()}
    with (folder / "params.npz").open("wb") as file:
        np.savez(file, **arrays)
    encoding = jumprelu(draw.x @ draw.W_enc + draw.b_enc, threshold)
    second = JumpReLUSAE(JumpReLUSAEConfig(**COMMON))
    second.load_state_dict(tensors)
    agree(encoding, second.encode(draw.x))
    target = draw.normal(TOKENS, D_IN) if release == "transcoders" else None
    store(case, PUBLISHED, draw.x, encoding, encoding @ draw.W_dec + draw.b_dec, target)


def gemma_scope_2(case: str, seed: int, place: str, affine: bool | None = None) -> None:
    """As Gemma Scope; a transcoder may have an affine connection, stored [d_in, d_out]."""
    draw = Draw(seed)
    threshold, connection = positive_threshold(draw), draw.normal(D_IN, D_IN) * 0.2
    folder = HERE / case
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "w_enc": draw.W_enc,
        "b_enc": draw.b_enc,
        "w_dec": draw.W_dec,
        "b_dec": draw.b_dec,
        "threshold": threshold,
    }
    layer = "model.layers.3"
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "width": N_LATENTS, "l0": 20}
    if affine is None:
        config |= {"hf_hook_point_in": f"{layer}.{place}", "hf_hook_point_out": f"{layer}.{place}"}
    else:
        config["hf_hook_point_in"] = f"{layer}.pre_feedforward_layernorm.output"
        config |= {"hf_hook_point_out": f"{layer}.post_feedforward_layernorm.output", "affine_connection": affine}
        tensors |= {"affine_skip_connection": connection} if affine else {}
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    encoding = jumprelu(draw.x @ draw.W_enc + draw.b_enc, threshold)
    reconstruction = encoding @ draw.W_dec + draw.b_dec
    if affine:
        reconstruction = reconstruction + draw.x @ connection
        second = JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(**COMMON, d_out=D_IN))
        names = {"w_enc": "W_enc", "w_dec": "W_dec"}
        state = {names.get(name, name): each for name, each in tensors.items() if name != "affine_skip_connection"}
        second.load_state_dict({**state, "W_skip": connection.T})
        agree(reconstruction, second(draw.x))
    store(case, PUBLISHED, draw.x, encoding, reconstruction, None if affine is None else draw.normal(TOKENS, D_IN))


def make() -> None:
    gemma_scope("gemma_scope_res", 61, "res")
    gemma_scope("gemma_scope_lower_case", 62, "mlp", lower=True)
    gemma_scope("gemma_scope_att", 63, "att")
    gemma_scope("gemma_scope_transcoder", 64, "transcoders")
    gemma_scope_2("gemma_scope_2_res", 65, "output")
    gemma_scope_2("gemma_scope_2_att", 66, "self_attn.o_proj.input")
    gemma_scope_2("gemma_scope_2_transcoder", 67, "", affine=False)
    gemma_scope_2("gemma_scope_2_affine", 68, "", affine=True)
