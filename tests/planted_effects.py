"""A tiny study in which every latent has one known effect: it makes the model write its own word.

The hookpoint is the output of the last layer, and the decoder row of latent i is the direction along which the logit
of word i is read off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import HIDDEN, SPECIAL, VOCABULARY, make_corpus, make_model, make_sae, write_study

HOOKPOINT = "layers.1"
INTERVENTION: dict[str, Any] = {
    "explainer": "oracle",
    "scorer": "oracle",
    "latents": 6,
    "prompt_tokens": 32,
    "explain_prompts": 5,
    "score_prompts": 10,
    "target_kl": [0.1, 1.0, 3.0],
    "zero_ablation": True,
    "batch_latents": 4,
}


def make_planted_model(folder: Path) -> Path:
    make_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.eye(len(VOCABULARY), HIDDEN)
    weights["lm_head.weight"][: len(SPECIAL)] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_planted(root: Path, **changes: Any) -> Path:
    """The study file; `changes` replace settings of the scorer."""
    make_planted_model(root / "model")
    make_sae(root / "saes", HOOKPOINT)
    make_corpus(root / "corpus.parquet")
    return write_study(
        root / "study.yaml",
        saes=[{"path": "saes", "hookpoints": [HOOKPOINT]}],
        # The two layers hardly move what they read, so the SAE fits all of them.
        proof_of_load={"tokens": 1024, "compare_layers": False},
        explainers={"quotes": {"kind": "extractive"}},
        scorers={"intervention": {**INTERVENTION, **changes}},
    )
