"""Golden SAEs of Gemma Scope and Gemma Scope 2, computed by classes that read the very files.

Their maker has put his class into a notebook, and into no package of his own. eai-delphi carries that class as it is.
circuit-tracer reads the files of both releases: it makes those of Gemma Scope 2, transcoders with an affine connection too,
and the transcoder of Gemma Scope. SAELens must agree with all.
"""

from __future__ import annotations

import json
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import torch
from circuit_tracer.transcoder.single_layer_transcoder import (
    load_gemma_scope_2_transcoder,
    load_gemma_scope_transcoder,
)
from drawing import D_IN, HERE, N_LATENTS, TOKENS, Draw, store
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig
from safetensors.torch import save_file
from torch import Tensor

COMMON = {"d_in": D_IN, "d_sae": N_LATENTS, "apply_b_dec_to_input": False}


def of_the_tutorial(file: Path) -> torch.nn.Module:
    """A file of Gemma Scope in the class of its tutorial; the rest of eai-delphi is not imported."""
    code = distribution("eai-delphi").locate_file("delphi/sparse_coders/custom/gemmascope.py")
    spec = spec_from_file_location("gemmascope", str(code))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with np.load(file) as arrays:
        names = {"w_enc": "W_enc", "w_dec": "W_dec"}
        weights = {names.get(name, name): torch.from_numpy(each) for name, each in arrays.items()}
    sae = module.JumpReluSae(*weights["W_enc"].shape)
    sae.load_state_dict(weights)
    return sae


def positive_threshold(draw: Draw) -> Tensor:
    return 0.05 + 0.4 * torch.rand(N_LATENTS, generator=draw.generator)


def agree(encoding: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(encoding, other, atol=1e-5, rtol=1e-5)


def gemma_scope(case: str, seed: int, release: str, lower: bool = False) -> None:
    """Lieberum et al. 2024."""
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
    file = folder / "params.npz"
    with file.open("wb") as opened:
        np.savez(opened, **arrays)
    sae = of_the_tutorial(file)
    encoding, reconstruction = sae.encode(draw.x), sae(draw.x)
    second = JumpReLUSAE(JumpReLUSAEConfig(**COMMON))
    second.load_state_dict(tensors)
    agree(encoding, second.encode(draw.x))
    if release != "transcoders":
        store(case, "eai-delphi", draw.x, encoding, reconstruction)
        return
    third = load_gemma_scope_transcoder(str(file), 3, device=torch.device("cpu"))
    agree(encoding, third.encode(draw.x))
    store(case, "circuit-tracer", draw.x, third.encode(draw.x), third(draw.x), draw.normal(TOKENS, D_IN))


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
    sae = load_gemma_scope_2_transcoder(str(folder / "params.safetensors"), 3, device=torch.device("cpu"))
    encoding, reconstruction = sae.encode(draw.x), sae(draw.x)
    names = {"w_enc": "W_enc", "w_dec": "W_dec"}
    state = {names.get(name, name): each for name, each in tensors.items() if name != "affine_skip_connection"}
    second = JumpReLUSAE(JumpReLUSAEConfig(**COMMON))
    second.load_state_dict(state)
    agree(encoding, second.encode(draw.x))
    if affine:
        second = JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(**COMMON, d_out=D_IN))
        second.load_state_dict({**state, "W_skip": connection.T})
        agree(reconstruction, second(draw.x))
    store(
        case, "circuit-tracer", draw.x, encoding, reconstruction, None if affine is None else draw.normal(TOKENS, D_IN)
    )


def make() -> None:
    gemma_scope("gemma_scope_res", 61, "res")
    gemma_scope("gemma_scope_lower_case", 62, "mlp", lower=True)
    gemma_scope("gemma_scope_att", 63, "att")
    gemma_scope("gemma_scope_transcoder", 64, "transcoders")
    gemma_scope_2("gemma_scope_2_res", 65, "output")
    gemma_scope_2("gemma_scope_2_att", 66, "self_attn.o_proj.input")
    gemma_scope_2("gemma_scope_2_transcoder", 67, "", affine=False)
    gemma_scope_2("gemma_scope_2_affine", 68, "", affine=True)
