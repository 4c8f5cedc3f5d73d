"""Golden SAEs of sparsify."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its kernels are for GPUs

import torch
from drawing import D_IN, HERE, N_LATENTS, TOKENS, Draw, store
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig

ONE_BY_ONE: Mapping[str, torch.dtype] = {}


def sparsify(
    case: str,
    seed: int,
    dtype: torch.dtype = torch.float32,
    dtypes: Mapping[str, torch.dtype] = ONE_BY_ONE,
    older: Mapping[str, object] | None = None,
    absent: Collection[str] = (),
    **settings: int | str | bool,
) -> None:
    """
    Args:
        dtypes: those of single tensors, which differ from the others'.
        older: settings of earlier releases, which the maker's class reads over.
        absent: settings that earlier releases did not write yet; the maker's class takes its defaults.
    """
    draw = Draw(seed)
    coder = SparseCoder(D_IN, SparseCoderConfig(**settings), dtype=dtype)
    coder.encoder.weight.copy_(draw.W_enc.T)
    coder.encoder.bias.copy_(draw.b_enc)
    coder.W_dec.copy_(draw.W_dec)
    coder.b_dec.copy_(draw.b_dec)
    target = None
    if coder.W_skip is not None:
        coder.W_skip.copy_(draw.normal(D_IN, D_IN) * 0.2)
    if coder.cfg.transcode or "transcode" in absent:
        target = draw.normal(TOKENS, D_IN)
    coder.save_to_disk(HERE / case)
    file = HERE / case / "sae.safetensors"
    if dtypes:
        save_file({name: each.to(dtypes.get(name, dtype)) for name, each in load_file(file).items()}, file)
    if older is not None or absent:
        config = HERE / case / "cfg.json"
        kept = {key: value for key, value in json.loads(config.read_text()).items() if key not in absent}
        config.write_text(json.dumps(kept | dict(older or {})))

    # It runs in the dtype of the file; float32 shows what the stored numbers mean without rounding on the way.
    coder = SparseCoder.load_from_disk(HERE / case).float()
    acts, indices, _ = coder.encode(draw.x)
    encoding = torch.zeros(TOKENS, N_LATENTS).scatter(1, indices, acts)
    store(case, "eai-sparsify", draw.x, encoding, coder(draw.x, target).sae_out, target)


def make() -> None:
    full = {"num_latents": N_LATENTS, "k": 8}
    sparsify("sparsify_topk", 1, **full)
    sparsify("sparsify_expansion_factor", 2, num_latents=0, expansion_factor=N_LATENTS // D_IN, k=24)
    sparsify("sparsify_bf16", 3, torch.bfloat16, **full)
    sparsify("sparsify_fp16", 31, torch.float16, **full)
    mixed = {"encoder.weight": torch.bfloat16, "b_dec": torch.float16}
    sparsify("sparsify_mixed", 32, dtypes=mixed, **full)
    sparsify("sparsify_groupmax", 33, activation="groupmax", **full)
    sparsify("sparsify_skip", 34, skip_connection=True, **full)
    sparsify("sparsify_transcoder", 35, transcode=True, **full)
    sparsify("sparsify_skip_transcoder", 36, transcode=True, skip_connection=True, **full)
    sparsify("sparsify_older", 37, older={"signed": False}, **full)
    # Of before https://github.com/EleutherAI/sparsify/pull/49: a transcoder did not say so, and subtracted b_dec.
    sparsify("sparsify_older_skip_transcoder", 38, absent=("transcode", "activation"), skip_connection=True, **full)
