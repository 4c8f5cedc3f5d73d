"""One asset for each scoring method that a study chose; part of `interp_assets.graph`."""

from __future__ import annotations

from typing import Any

from interp_assets.asset import ORDER_OF_DRAWS, Asset, Read
from interp_assets.models_read import (
    engines_asked,
    model_read,
    scorer_files,
    subject_files,
    subject_read,
    tokenizer_files,
    tokenizer_read,
)
from interp_assets.scores.intervention import wording
from interp_assets.scores.method import SAE, WINDOWS, Method
from interp_assets.scores.methods import methods_of
from interp_assets.scores.population import windows_per_context
from interp_assets.settings import InterventionScorer
from interp_assets.study import Study


def score_assets(study: Study) -> list[Asset]:
    methods = methods_of(study)
    found = []
    for name, scorer in study.scorers.chosen().items():
        if isinstance(scorer, InterventionScorer):
            found.append(intervention(study, scorer))
        else:
            found.append(of_method(study, methods[name]))
    return found


def of_method(study: Study, method: Method[Any]) -> Asset:
    scorer = method.settings
    settings: dict[str, Any] = {
        "scorer": scorer.identity(),
        "seed": study.examples.seed,
        "tokenizer": tokenizer_read(study),
        "bos": study.corpus.bos,
    }
    files = {"tokenizer": tokenizer_files(study)}
    if WINDOWS in method.reads:
        settings["windows_per_context"] = windows_per_context(study)
    if method.explainers is not None:
        settings["explainers"] = sorted(method.explainers)
    if prompts := method.prompts():
        settings["prompts"] = prompts
    engines = engines_asked(scorer)
    takes_some = study.examples.along_alignment and scorer.latents is not None
    if SAE in method.reads:
        settings["subject_model"] = subject_read(study)
        # No text is read further than the corpus's contexts are long.
        settings["context_length"] = study.corpus.context_length
        settings |= study.corpus.positions_read()
        files["subject_model"] = subject_files(study)
    return Asset(
        name=f"scores/{method.name}",
        group="scores",
        code_version=method.code_version,
        description=method.description,
        reads=(*method.reads, *((ORDER_OF_DRAWS,) if takes_some else ())),
        settings=settings | model_read(study, scorer),
        files=files | scorer_files(study, scorer),
        kinds=("llm", "polars") if engines else ("torch", "polars"),
        pool="llm" if engines else "gpu",
        engines=engines,
        in_process=SAE in method.reads or all(study.engines[name].in_process for name in engines),
    )


def intervention(study: Study, scorer: InterventionScorer) -> Asset:
    """It has its own explanations, of what a latent does, so it reads neither windows nor other explanations."""
    return Asset(
        name="scores/intervention",
        group="scores",
        code_version="4",
        description="What changing a latent makes the model write, and whether an explanation of that effect foresees it.",
        reads=(
            Read("sae_weights", "files", ("sha256",)),
            Read("activation_cache", "activations"),
            Read("corpus", "corpus", ("tokens",)),
            Read("latent_statistics", "statistics", ("latent", "max_activation")),
            *((ORDER_OF_DRAWS,) if study.examples.along_alignment else ()),
        ),
        settings={
            "scorer": scorer.identity(),
            "prompts": wording.prompts_read(),
            "subject_model": subject_read(study),
            "bos": study.corpus.bos,
            "seed": study.examples.seed,
            "interpreted": {name: study.examples.identity()[name] for name in DECIDE_INTERPRETED},
        }
        | model_read(study, scorer),
        files={"subject_model": subject_files(study)} | scorer_files(study, scorer),
        kinds=("torch", "llm", "polars"),
        pool="llm",
        engines=engines_asked(scorer),
        interprets=True,
        in_process=True,
    )


DECIDE_INTERPRETED = ("latents", "min_windows", "window", "placement")
"Settings of examples that decide which latents are interpreted."
