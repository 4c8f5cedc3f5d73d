"""All scoring methods that follow one pattern, by name. Intervention, which makes its own explanations, does not."""

from __future__ import annotations

from typing import Any

from interp_assets.scores.detection import Detection
from interp_assets.scores.embedding import Embedding
from interp_assets.scores.example_embedding import ExampleEmbedding
from interp_assets.scores.fuzzing import Fuzzing
from interp_assets.scores.generation import Generation
from interp_assets.scores.intruder import Intruder
from interp_assets.scores.method import Method
from interp_assets.scores.reranker import Reranker
from interp_assets.scores.simulation import Simulation
from interp_assets.scores.surprisal import Surprisal
from interp_assets.scores.token_embedding import TokenEmbedding, TokenFuzzing
from interp_assets.study import Study

METHODS: dict[str, type[Method[Any]]] = {
    method.name: method
    for method in (
        TokenEmbedding,
        TokenFuzzing,
        Embedding,
        Detection,
        Fuzzing,
        Surprisal,
        Simulation,
        Generation,
        Intruder,
        ExampleEmbedding,
        Reranker,
    )
}


def methods_of(study: Study) -> dict[str, Method[Any]]:
    """The methods that a study chose, in the order of its settings."""
    return {name: METHODS[name](study) for name in study.scorers.chosen() if name in METHODS}
