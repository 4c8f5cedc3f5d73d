"""A study whose SAE has 2,048 latents, of which a few are then changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import HIDDEN, VOCABULARY, make_corpus, make_embedder, make_model, shift, write_study

LATENTS, CHANGED = 2048, 10
JUMPRELU = {"architecture": "jumprelu", "d_in": HIDDEN, "d_sae": LATENTS, "metadata": {"hf_hook_name": "embed_tokens"}}
TOPK = {"d_in": HIDDEN, "num_latents": LATENTS, "k": 24, "activation": "topk"}


def make_many(root: Path, architecture: str) -> Path:
    """The study's file. Each latent fires on two words, more strongly on one of them."""
    make_model(root / "model")
    make_embedder(root / "embedder")
    make_corpus(root / "corpus.parquet", documents=300)
    folder = root / "saes" / "embed_tokens"
    folder.mkdir(parents=True)
    directions = torch.stack([direction(latent, latent) for latent in range(LATENTS)])
    weights = {"b_dec": shift(), "W_dec": directions.clone()}
    if architecture == "jumprelu":
        weights |= {
            "W_enc": directions.T.contiguous(),
            "b_enc": torch.zeros(LATENTS),
            "threshold": torch.full((LATENTS,), 0.5),
        }
    else:
        weights |= {"encoder.weight": directions, "encoder.bias": torch.zeros(LATENTS)}
    save_file(weights, folder / file_name(architecture))
    (folder / "cfg.json").write_text(json.dumps(JUMPRELU if architecture == "jumprelu" else TOPK))
    scorer = {"engine": "oracle", "activating": 2, "non_activating": 2}
    return write_study(
        root / "study.yaml",
        corpus={"path": "corpus.parquet", "tokens": 16_384, "context_length": 64, "separator": " "},
        proof_of_load={"tokens": 512, "max_fvu": 1e9, "compare_layers": False},
        examples={"window": 16, "min_windows": 8, "explain": {"n": 4}, "test": {"activating": 2, "non_activating": 2}},
        explainers={"llm": {"kind": "llm", "engine": "oracle"}, "quotes": {"kind": "extractive"}},
        scorers={
            "detection": {**scorer, "explainers": ["llm"]},
            "embedding": {"model": "./embedder", "explainers": ["quotes"], "activating": 2, "non_activating": 2},
        },
    )


def file_name(architecture: str) -> str:
    return "sae_weights.safetensors" if architecture == "jumprelu" else "sae.safetensors"


def direction(latent: int, draw: int) -> torch.Tensor:
    words = np.random.default_rng(draw).choice(np.arange(2, len(VOCABULARY)), size=2, replace=False)
    found = torch.zeros(HIDDEN)
    found[int(words[0])], found[int(words[1])] = 1.0, 0.3 + 0.2 * (latent % 3)
    return found


def change_some(root: Path, architecture: str) -> None:
    """Other words for CHANGED of the latents."""
    file = root / "saes" / "embed_tokens" / file_name(architecture)
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    for latent in range(0, LATENTS, LATENTS // CHANGED + 1):
        new = direction(latent, LATENTS + latent)
        weights["W_dec"][latent] = new
        if architecture == "jumprelu":
            weights["W_enc"][:, latent] = new
        else:
            weights["encoder.weight"][latent] = new
    save_file(weights, file)
