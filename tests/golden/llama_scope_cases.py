"""Golden SAEs of OpenMOSS: Llama Scope's files and those of their library today, Llamascopium, whose class runs both.

That class keeps decoder rows as they are and divides activations by their norms; ours are what a latent adds to the
output, so they are multiplied by the norm again.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from drawing import D_IN, HERE, HOOK, N_LATENTS, TOKENS, Draw, store
from llamascopium.backend.language_model import LanguageModelConfig
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from safetensors.torch import save_file

READS, WRITES = "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"
Norms = tuple[float, float]


def class_of(draw: Draw, settings: dict[str, Any], norms: Norms, log_threshold: torch.Tensor) -> SparseAutoEncoder:
    """
    Args:
        norms: mean norms of what is read and of what is written, in training.
    """
    sae = SparseAutoEncoder(SAEConfig(d_model=D_IN, expansion_factor=N_LATENTS / D_IN, **settings))
    state = {"W_E": draw.W_enc, "b_E": draw.b_enc, "W_D": draw.W_dec, "b_D": draw.b_dec}
    if settings["act_fn"] == "jumprelu":
        state["activation_function.log_jumprelu_threshold"] = log_threshold
    sae.load_state_dict(state)
    sae.set_dataset_average_activation_norm(
        dict(zip((settings["hook_point_in"], settings["hook_point_out"]), norms, strict=True))
    )
    return sae


def settle(case: str, draw: Draw, sae: SparseAutoEncoder) -> None:
    """What the class makes of the inputs, with the norms folded in where they are not yet."""
    if sae.cfg.norm_activation == "dataset-wise":
        sae.standardize_parameters_of_dataset_norm()
    encoding = sae.encode(draw.x)
    if sae.cfg.sparsity_include_decoder_norm:
        encoding = encoding * sae.decoder_norm()
    transcodes = sae.cfg.hook_point_in != sae.cfg.hook_point_out
    store(case, "llamascopium", draw.x, encoding, sae(draw.x), draw.normal(TOKENS, D_IN) if transcodes else None)


def settings_of(act_fn: str, transcodes: bool, **others: Any) -> dict[str, Any]:
    reads, writes = (READS, WRITES) if transcodes else (HOOK, HOOK)
    return {"hook_point_in": reads, "hook_point_out": writes, "act_fn": act_fn, "top_k": 20, **others}


def llama_scope(
    case: str, seed: int, norms: Norms, *, unit: bool = False, transcodes: bool = False, act_fn: str = "jumprelu"
) -> None:
    """He et al. 2024: one threshold for all latents, names of an earlier time.

    Args:
        unit: decoder rows have norm 1, as in what was published.
    """
    draw = Draw(seed)
    if unit:
        draw.W_dec /= draw.norms[:, None]
    threshold = 0.3
    (HERE / case / "checkpoints").mkdir(parents=True, exist_ok=True)
    tensors = {
        "encoder.weight": draw.W_enc.T.contiguous(),
        "encoder.bias": draw.b_enc,
        "decoder.weight": draw.W_dec.T.contiguous(),
        "decoder.bias": draw.b_dec,
    }
    save_file(tensors, HERE / case / "checkpoints" / "final.safetensors")
    settings = settings_of(act_fn, transcodes)
    config = settings | {
        "d_model": D_IN,
        "d_sae": N_LATENTS,
        "expansion_factor": N_LATENTS // D_IN,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "jump_relu_threshold": threshold,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norms[0], "out": norms[1]},
        "sparsity_include_decoder_norm": True,
    }
    (HERE / case / "hyperparams.json").write_text(json.dumps(config))
    settle(case, draw, class_of(draw, settings, norms, torch.full((N_LATENTS,), math.log(threshold))))


def llamascopium(case: str, seed: int, norms: Norms, act_fn: str, *, transcodes: bool = False, **others: Any) -> None:
    """As the library saves and loads it."""
    draw = Draw(seed)
    log_threshold = draw.normal(N_LATENTS) * 0.5 - 1
    sae = class_of(draw, settings_of(act_fn, transcodes, **others), norms, log_threshold)
    (HERE / case).mkdir(exist_ok=True)
    sae.save_pretrained(HERE / case)
    sae.cfg.save_hyperparameters(HERE / case)
    LanguageModelConfig(model_name="meta-llama/Llama-3.1-8B").save_lm_config(str(HERE / case))
    settle(case, draw, SparseAutoEncoder.from_pretrained(str(HERE / case)))


def make() -> None:
    llama_scope("llama_scope_res", 71, (6.5, 6.5), unit=True)
    llama_scope("llama_scope_decoder_norms", 72, (9.0, 9.0))
    llama_scope("llama_scope_topk", 74, (9.0, 9.0), act_fn="topk")
    llama_scope("llama_scope_relu", 75, (9.0, 9.0), act_fn="relu")
    llama_scope("llama_scope_transcoder", 73, (4.0, 2.5), transcodes=True)
    llamascopium("llamascopium_jumprelu", 81, (9.0, 9.0), "jumprelu")
    llamascopium("llamascopium_topk", 82, (9.0, 9.0), "topk")
    llamascopium("llamascopium_plain_norms", 83, (9.0, 9.0), "topk", sparsity_include_decoder_norm=False)
    llamascopium("llamascopium_inference", 84, (9.0, 9.0), "relu", norm_activation="inference")
    llamascopium("llamascopium_transcoder", 85, (4.0, 2.5), "jumprelu", transcodes=True)
