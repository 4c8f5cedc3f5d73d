"""A tiny study whose SAE is a transcoder: the MLP of the last layer answers each word with the next one, and so does it.

What goes into that MLP is the normed residual stream, in which the word stands out; neuron j answers to word j alone and
adds the direction along which the logit of the next word is read off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.planted_effects import INTERVENTION, make_planted_model
from tests.tiny import HIDDEN, SPECIAL, VOCABULARY, WORDS, make_corpus, write_study

MODULE = "layers.1.mlp"
READS = f"{MODULE}:in"
STANDS_OUT = 5 / ((5**2 + 8**2) / HIDDEN) ** 0.5
"What a word's own coordinate is after the norm: 5 of it and a shift of 8 are all that the stream holds."
ADDED = 3.0
"What the MLP adds along the next word's direction."


def answer_to(latent: int) -> int:
    """The word that is answered to a word."""
    return len(SPECIAL) + (latent - len(SPECIAL) + 1) % len(WORDS)


def make_transcoding_model(folder: Path) -> Path:
    make_planted_model(folder)
    weights = load_file(folder / "model.safetensors")
    own = torch.eye(HIDDEN)[len(SPECIAL) : len(VOCABULARY)]
    answer = float(torch.nn.functional.silu(torch.tensor(STANDS_OUT))) * STANDS_OUT
    for name in ("gate_proj", "up_proj"):
        weights[f"model.layers.1.mlp.{name}.weight"] = own.clone()
    weights["model.layers.1.mlp.down_proj.weight"] = (own.roll(-1, 0).T * ADDED / answer).contiguous()
    assert own.shape == (len(WORDS), HIDDEN)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_transcoder(folder: Path, name: str = MODULE, transcode: bool = True) -> Path:
    """Latent i reads word i and writes the direction of the next; of what all words share it reads nothing."""
    n = len(VOCABULARY)
    reads = torch.eye(n, HIDDEN)
    reads[: len(SPECIAL)] = 0
    weights = {
        "encoder.weight": reads,
        "encoder.bias": torch.zeros(n),
        "W_dec": torch.eye(HIDDEN)[[answer_to(latent) for latent in range(n)]] * ADDED / STANDS_OUT,
        "b_dec": torch.zeros(HIDDEN),
    }
    (folder / name).mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / name / "sae.safetensors")
    settings = {"d_in": HIDDEN, "num_latents": n, "k": 1, "activation": "topk", "transcode": transcode}
    (folder / name / "cfg.json").write_text(json.dumps(settings))
    return folder


def that_needs_1_to_fire() -> dict[str, torch.Tensor]:
    """The same as a transcoder without a k: matrices [latents, HIDDEN], and a bias below 0."""
    n, heard = len(VOCABULARY), STANDS_OUT - 1
    reads = torch.eye(n, HIDDEN)
    reads[: len(SPECIAL)] = 0
    return {
        "W_enc": reads,
        "b_enc": torch.full((n,), -1.0),
        "W_dec": torch.eye(HIDDEN)[[answer_to(latent) for latent in range(n)]] * ADDED / heard,
        "b_dec": torch.zeros(HIDDEN),
    }


def make_saelens_transcoder(folder: Path) -> Path:
    """The same in the layout of SAELens, which names the places in the words of TransformerLens."""
    weights = that_needs_1_to_fire()
    weights |= {"W_enc": weights["W_enc"].T.contiguous()}
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae_weights.safetensors")
    metadata = {"sae_lens_version": "6.0.0", "hook_name": "blocks.1.ln2.hook_normalized"}
    metadata["hook_name_out"] = "blocks.1.hook_mlp_out"
    settings = {
        "architecture": "transcoder",
        "d_in": HIDDEN,
        "d_out": HIDDEN,
        "d_sae": len(VOCABULARY),
        "apply_b_dec_to_input": False,
    }
    (folder / "cfg.json").write_text(json.dumps(settings | {"metadata": metadata}))
    return folder


def make_transcoder_set(folder: Path) -> Path:
    """The same in the layout of circuit-tracer, beside one of the first layer, which reads and writes nothing."""
    weights = that_needs_1_to_fire()
    folder.mkdir(parents=True)
    save_file(weights, folder / "layer_1.safetensors")
    save_file({name: torch.zeros_like(each) for name, each in weights.items()}, folder / "layer_0.safetensors")
    (folder / "config.yaml").write_text(
        "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    )
    return folder


def make_transcoding(root: Path, **changes: Any) -> Path:
    """The study file; `changes` replace top-level settings."""
    make_transcoding_model(root / "model")
    make_transcoder(root / "saes")
    make_corpus(root / "corpus.parquet")
    settings: dict[str, Any] = {
        "saes": [{"path": "saes"}],
        "explainers": {"quotes": {"kind": "extractive"}},
        "scorers": {"intervention": {**INTERVENTION, "latents": 4, "target_kl": [0.1, 1.0]}},
    }
    return write_study(root / "study.yaml", **settings | changes)
