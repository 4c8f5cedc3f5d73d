"""The assets that compare two layers; part of `interp_assets.graph`."""

from __future__ import annotations

from typing import Any

from interp_assets.asset import Asset, Read
from interp_assets.models_read import model_read, scorer_files
from interp_assets.study import Study

MATCHES = Read("layer_matching", "matching", ("latent_a", "latent_b"))


def matching_asset(study: Study) -> list[Asset]:
    settings = study.alignment
    if settings is None:
        return []
    by_activations = settings.similarity == "activations"
    compared = (
        (Read("activation_cache", "activations"), Read("corpus", "corpus", ("tokens",)))
        if by_activations
        else (Read("sae_weights", "files", ("sha256",)),)
    )
    dead = (Read("latent_statistics", "statistics", ("latent", "dead")),) if settings.dead == "left_out" else ()
    return [
        Asset(
            name="layer_matching",
            group="alignment",
            code_version="4",
            description="Latents of two layers matched one to one, so that their similarities add up to most.",
            reads=(*compared, *dead),
            settings={"alignment": settings.identity()} | (study.corpus.positions_read() if by_activations else {}),
            scope="pair",
            kinds=("torch", "polars"),
            pool="gpu",
        )
    ]


def overlap_asset(study: Study) -> list[Asset]:
    scorer = study.scorers.embedding
    if study.alignment is None or scorer is None:
        return []
    return [
        Asset(
            name="semantic_overlap",
            group="alignment",
            code_version="3",
            description="Whether matched latents are explained alike: cosine of their explanations, against chance.",
            reads=(
                MATCHES,
                Read("layer_matching", "greedy", ("latent_a", "latent_b")),
                Read("explanations", "explanations", ("latent", "explainer", "explanation", "status")),
                Read("examples", "draws", ("latent", "number"))
                if study.examples.along_alignment
                else Read("examples", "latents", ("latent", "windows", "smaller_side")),
            ),
            settings={"dtype": scorer.dtype, "seed": study.examples.seed, "drawn_from": drawn_from(study)}
            | model_read(study, scorer),
            files=scorer_files(study, scorer),
            scope="pair",
            kinds=("torch", "polars"),
            pool="gpu",
            in_process=True,
        )
    ]


def drawn_from(study: Study) -> dict[str, Any]:
    """What decides which latents could be drawn, beside their windows."""
    listed = isinstance(study.examples.latents, tuple)
    return {"min_windows": study.examples.min_windows} | ({"latents": study.examples.latents} if listed else {})
