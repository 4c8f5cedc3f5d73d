"""One asset for each scoring method that a study chose; part of `interp_assets.graph`."""

from __future__ import annotations

from interp_assets.asset import EXAMPLE_COLUMNS, Asset, Read
from interp_assets.models_read import model_read, scorer_files, tokenizer_files, tokenizer_read
from interp_assets.scores.wording import prompts_read
from interp_assets.settings import JudgeScorer
from interp_assets.study import Study


def score_assets(study: Study) -> list[Asset]:
    found = []
    descriptions = {
        "embedding": "How well a sentence embedder finds a latent's examples from its explanation. No LLM.",
        "detection": "Whether an LLM that reads the explanation can tell on which windows the latent is active.",
        "fuzzing": "Whether an LLM that reads the explanation can tell rightly marked tokens from wrongly marked ones.",
    }
    for method, scorer in study.scorers.chosen().items():
        engines = (scorer.engine,) if isinstance(scorer, JudgeScorer) else ()
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
