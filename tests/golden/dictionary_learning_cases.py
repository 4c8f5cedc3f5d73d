"""Golden SAEs of dictionary_learning."""

# ruff: noqa: E402
from __future__ import annotations

import json
import sys
from types import ModuleType

import torch
from drawing import D_IN, HERE, N_LATENTS, Draw, store

# They are for running models and reading corpora, not for its SAEs.
for absent in ("nnsight", "zstandard", "datasets"):
    sys.modules[absent] = ModuleType(absent)
sys.modules["nnsight"].LanguageModel = sys.modules["datasets"].load_dataset = object

from dictionary_learning.dictionary import (
    AutoEncoder,
    AutoEncoderNew,
    Dictionary,
    GatedAutoEncoder,
    JumpReluAutoEncoder,
)
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary


def keep(case: str, seed: int, sae: Dictionary, **settings: object) -> None:
    draw = Draw(seed)
    threshold = 0.05 + 0.4 * torch.rand(N_LATENTS, generator=draw.generator)
    drawn = {
        "encoder.weight": draw.W_enc.T,
        "encoder.bias": draw.b_enc,
        "decoder.weight": draw.W_dec.T,
        "W_enc": draw.W_enc,
        "b_enc": draw.b_enc,
        "W_dec": draw.W_dec,
        **dict.fromkeys(("bias", "b_dec", "decoder.bias", "decoder_bias"), draw.b_dec),
        "gate_bias": draw.b_enc,
        "mag_bias": draw.b_enc + draw.normal(N_LATENTS) * 0.3,
        "r_mag": draw.normal(N_LATENTS) * 0.3,
    }
    for name, tensor in sae.state_dict().items():
        if name == "threshold":
            tensor.copy_(threshold if tensor.ndim else torch.tensor(0.35))
        elif name not in ("k", "group_sizes"):
            tensor.copy_(drawn[name])
    folder = HERE / case
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(sae.state_dict(), folder / "ae.pt")
    trainer = {"dict_class": type(sae).__name__, "activation_dim": D_IN, "dict_size": N_LATENTS, "layer": 3}
    trainer |= {"lm_name": "EleutherAI/pythia-70m", "submodule_name": "resid_post_layer_3", **settings}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))

    sae, _ = load_dictionary(str(folder), "cpu")
    encoding = sae.encode(draw.x)
    store(case, "dictionary-learning", draw.x, encoding, sae.decode(encoding))


def make() -> None:
    keep("dictionary_learning_standard", 81, AutoEncoder(D_IN, N_LATENTS))
    keep("dictionary_learning_new", 82, AutoEncoderNew(D_IN, N_LATENTS))
    keep("dictionary_learning_topk", 83, AutoEncoderTopK(D_IN, N_LATENTS, 8), k=8)
    keep("dictionary_learning_batchtopk", 84, BatchTopKSAE(D_IN, N_LATENTS, 8), k=8)
    keep("dictionary_learning_matryoshka", 85, MatryoshkaBatchTopKSAE(D_IN, N_LATENTS, 8, [16, 48]), k=8)
    keep("dictionary_learning_jumprelu", 86, JumpReluAutoEncoder(D_IN, N_LATENTS))
    keep("dictionary_learning_gated", 87, GatedAutoEncoder(D_IN, N_LATENTS))
