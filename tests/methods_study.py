"""A small study with the planted truths of `tests.tiny`, and every scoring method that a study can add to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.tiny import make_embedder, make_reranker, make_study

ADDED: dict[str, dict[str, Any]] = {
    "token_embedding": {"model": "./embedder", "reference_windows": 50},
    "token_fuzzing": {"model": "./embedder", "reference_windows": 50},
    "surprisal": {"engine": "oracle", "activating": 10, "non_activating": 10},
    "simulation": {"engine": "oracle", "activating": 5, "non_activating": 5},
    "generation": {"engine": "oracle", "texts": 4},
    "intruder": {"engine": "oracle", "activating": 24, "non_activating": 10, "shown": 6},
    "example_embedding": {"model": "./embedder", "examples": 10},
    "reranker": {"model": "./reranker"},
}


def make_bag_of_words(folder: Path) -> Path:
    """A sentence embedder for which a text is the mean of its words, wherever they stand."""
    make_embedder(folder)
    (file,) = folder.rglob("model.safetensors")
    weights = load_file(file)
    for name in weights:
        if "position_embeddings" in name or "token_type" in name or "output.dense" in name:
            weights[name].zero_()
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def make_methods(root: Path) -> Path:
    """The study's file: 24 latents, each method added to it."""
    make_reranker(root / "reranker")
    make_bag_of_words(root / "embedder")
    examples = {
        "window": 16,
        "min_windows": 8,
        "latents": 24,
        "explain": {"n": 10},
        "test": {"activating": 24, "non_activating": 10},
    }
    return make_study(root, examples=examples, scorers=ADDED)
