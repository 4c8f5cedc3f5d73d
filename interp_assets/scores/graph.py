"""One asset for each scoring method that a study chose; part of `interp_assets.graph`."""

from __future__ import annotations

from interp_assets.asset import EXAMPLE_COLUMNS, Asset, Read
from interp_assets.models_read import (
    engines_asked,
    hub_name,
    model_read,
    scorer_files,
    subject_files,
    tokenizer_files,
    tokenizer_read,
)
from interp_assets.scores.intervention import wording
from interp_assets.scores.wording import prompts_read
from interp_assets.settings import InterventionScorer, JudgeScorer
from interp_assets.study import Study


def score_assets(study: Study) -> list[Asset]:
    found = []
    descriptions = {
        "embedding": "How well a sentence embedder finds a latent's examples from its explanation. No LLM.",
        "detection": "Whether an LLM that reads the explanation can tell on which windows the latent is active.",
        "fuzzing": "Whether an LLM that reads the explanation can tell rightly marked tokens from wrongly marked ones.",
    }
    for method, scorer in study.scorers.chosen().items():
        if isinstance(scorer, InterventionScorer):
            found.append(intervention(study, scorer))
            continue
        engines = engines_asked(scorer)
        found.append(
            Asset(
                name=f"scores/{method}",
                group="scores",
                code_version="3" if engines else "2",
                description=descriptions[method],
                reads=(
                    Read("explanations", "explanations", ("latent", "explainer", "explanation", "status")),
                    Read("examples", "examples", (*EXAMPLE_COLUMNS, "decile")),
                    Read("examples", "latents", ("latent", "windows")),
                    Read("corpus", "corpus", ("context",)),
                ),
                settings={
                    "scorer": scorer.identity(),
                    "explainers": sorted(study.explainers_of(scorer)),
                    "seed": study.examples.seed,
                    "tokenizer": tokenizer_read(study),
                    "bos": study.corpus.bos,
                    "windows_per_context": windows_per_context(study),
                }
                | ({"prompts": prompts_read(method, scorer)} if isinstance(scorer, JudgeScorer) else {})
                | model_read(study, scorer),
                files={"tokenizer": tokenizer_files(study)} | scorer_files(study, scorer),
                kinds=("llm", "polars") if engines else ("torch", "polars"),
                pool="llm" if engines else "gpu",
                engines=engines,
                in_process=all(study.engines[name].in_process for name in engines),
            )
        )
    return found


def windows_per_context(study: Study) -> int:
    """How many windows a context is cut into; a centred window stands for its whole context."""
    examples = study.examples
    return study.corpus.context_length // examples.window if examples.placement == "aligned" else 1


def intervention(study: Study, scorer: InterventionScorer) -> Asset:
    """It has its own explanations, of what a latent does, so it reads neither examples nor explanations."""
    return Asset(
        name="scores/intervention",
        group="scores",
        code_version="1",
        description="What changing a latent makes the model write, and whether an explanation of that effect foresees it.",
        reads=(
            Read("sae_weights", "files", ("sha256",)),
            Read("activation_cache", "activations"),
            Read("corpus", "corpus", ("tokens",)),
            Read("latent_statistics", "statistics", ("latent", "max_activation")),
        ),
        settings={
            "scorer": scorer.identity(),
            "prompts": wording.prompts_read(),
            "subject_model": study.subject_model.identity() | hub_name(study, study.subject_model.path),
            "bos": study.corpus.bos,
            "seed": study.examples.seed,
            "interpreted": {name: getattr(study.examples, name) for name in DECIDE_INTERPRETED},
        }
        | model_read(study, scorer),
        files={"subject_model": subject_files(study)} | scorer_files(study, scorer),
        kinds=("torch", "llm", "polars"),
        pool="llm",
        engines=engines_asked(scorer),
        in_process=True,
    )


DECIDE_INTERPRETED = ("latents", "min_windows", "window", "placement")
"Settings of examples that decide which latents are interpreted."
