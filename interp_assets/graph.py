"""Every asset of a study: what it reads, which settings decide it, and the version of its code. Imports no torch.

This table is the truth that fingerprints, lineage in the UI, `interp run` and `interp status` all derive from. The
code that makes an asset stands in `<stage>/assets.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from interp_assets.alignment.graph import MATCHES, matching_asset, overlap_asset
from interp_assets.asset import EXAMPLE_COLUMNS, ORDER_OF_DRAWS, TOKEN_COLUMNS, TRIAL_COLUMNS, Asset, Read
from interp_assets.corpus.files import corpus_files
from interp_assets.explanations.wording import first_messages
from interp_assets.models_read import (
    embedder_read,
    engine_files,
    engines_read,
    hub_name,
    model_files,
    subject_files,
    subject_read,
    tokenizer_files,
    tokenizer_read,
)
from interp_assets.proof_limits import PROOF_VERSION
from interp_assets.scores.graph import score_assets
from interp_assets.settings import JudgeScorer, LlmExplainer, SimilarText
from interp_assets.study import Study
from interp_assets.worked_examples import as_text


def assets_of(study: Study) -> dict[str, Asset]:
    """The assets of a study by name, in topological order."""
    subject, by_text = subject_files(study), similar_text_of(study)
    asked = sorted({e.engine for e in study.explainers.values() if isinstance(e, LlmExplainer)})
    found = [
        Asset(
            name="sae_weights",
            group="activations",
            code_version="1",
            description="Fingerprint of one layer's SAE. The weights stay where they are.",
            reads=(),
            settings={},
            kinds=("safetensors",),
        ),
        Asset(
            name="corpus",
            group="corpus",
            code_version="2",
            description="The text as token ids, packed into contexts of equal length.",
            settings={
                "corpus": study.corpus.text_read(),
                "hub": hub_name(study, study.corpus.path),
                "tokenizer": tokenizer_read(study),
            },
            files={"corpus": corpus_files(study.path(study.corpus.path)), "tokenizer": tokenizer_files(study)},
            scope="corpus",
        ),
        Asset(
            name="activation_cache",
            group="activations",
            # Up to 2, activations that had left float16's range were lost without a word; other types have room.
            code_version="3" if study.subject_model.dtype == "float16" else "2",
            description="Every activation of every latent on the corpus, sparse, ordered by latent. Begins with the "
            "proof of load, which stops a layer whose SAE does not fit the place it reads.",
            reads=(Read("sae_weights", "files", ("sha256",)), Read("corpus", "corpus", ("tokens",))),
            settings={
                "subject_model": subject_read(study),
                "proof_of_load": study.proof_of_load.identity(),
            }
            | study.corpus.positions_read(),
            files={"subject_model": subject},
            kinds=("torch", "parquet"),
            pool="gpu",
            in_process=True,
            harvests=True,
        ),
        Asset(
            name="latent_statistics",
            group="activations",
            code_version="3",
            description="Firing rates, quantiles, promoted tokens, positional and unigram measures; dead or not.",
            reads=(
                Read("activation_cache", "activations"),
                Read("sae_weights", "files", ("sha256",)),
                Read("corpus", "corpus", ("tokens",)),
            ),
            settings={"subject_model": subject_read(study)} | study.corpus.positions_read(),
            files={"subject_model": subject},
            kinds=("torch", "polars"),
            pool="gpu",
            in_process=True,
        ),
        *matching_asset(study),
        *text_index_asset(study),
        Asset(
            name="examples",
            group="examples",
            code_version="3",
            description="For each latent: windows to explain it from and others to test the explanation on.",
            reads=(
                Read("activation_cache", "activations"),
                Read("corpus", "corpus", ("tokens",)),
                *((Read("sae_weights", "files", ("sha256",)),) if reads_directions(study) else ()),
                *((Read("text_index", "windows"),) if by_text else ()),
                *((replace(MATCHES, optional=True),) if study.examples.along_alignment else ()),
            ),
            settings={"examples": study.examples.identity()} | similar_text_read(study, by_text),
            files=embedder_files(study, by_text),
            interprets=True,
            # Neurons have their directions in the subject model.
            in_process=by_text is not None or (reads_directions(study) and study.controls.neurons is not None),
        ),
        Asset(
            name="explanations",
            group="explanations",
            code_version="4",
            description="What each latent stands for, in words, by each explainer of the study.",
            reads=(
                Read("examples", "examples", EXAMPLE_COLUMNS),
                *(
                    (Read("latent_statistics", "statistics", ("latent", "promoted_tokens")),)
                    if shows_promoted(study)
                    else ()
                ),
                *((ORDER_OF_DRAWS,) if study.examples.along_alignment and explains_some(study) else ()),
            ),
            settings={
                "explainers": {name: explainer.identity() for name, explainer in study.explainers.items()},
                "seed": study.examples.seed,
                "tokenizer": tokenizer_read(study),
                "bos": study.corpus.bos,
            }
            | {
                "prompts": {
                    name: as_text(first_messages(explainer))
                    for name, explainer in study.explainers.items()
                    if isinstance(explainer, LlmExplainer)
                }
            }
            | engines_read(study, asked),
            files={"tokenizer": tokenizer_files(study)} | engine_files(study, asked),
            kinds=("llm", "polars"),
            pool="llm" if asked else None,
            engines=tuple(asked),
            in_process=any(study.engines[name].in_process for name in asked),
        ),
    ]
    found += score_assets(study)
    found += overlap_asset(study)
    found.append(
        Asset(
            name="score_report",
            group="report",
            code_version="9",
            description="Scores of all layers and methods beside their controls: one page, and the tables behind it.",
            reads=tuple(
                [
                    Read("activation_cache", "activations"),
                    Read("latent_statistics", "statistics"),
                    Read("examples", "examples"),
                    Read("examples", "latents", ("latent", "windows", "repeated")),
                    Read("examples", "shortfalls"),
                    Read("explanations", "explanations"),
                ]
                + [
                    Read(f"scores/{method}", *read)
                    for method in study.scorers.chosen()
                    for read in (("scores",), ("trials", TRIAL_COLUMNS + nearest_read(method)))
                ]
                + [
                    Read(asset, table)
                    for asset, tables in REPORTED_OF_PAIRS.items()
                    if asset in {each.name for each in found}
                    for table in tables
                ]
                + ([Read("scores/intervention", "effects")] if study.scorers.intervention else [])
                + [
                    Read(f"scores/{method}", "calibration")
                    for method, scorer in study.scorers.chosen().items()
                    if isinstance(scorer, JudgeScorer) and scorer.list_sizes
                ]
            ),
            settings={
                "name": study.name,
                "layers": [layer.key for layer in study.layers],
                "tokenizer": tokenizer_read(study),
                "bos": study.corpus.bos,
                "proof_of_load": PROOF_VERSION,
                "costs": {f"{kind}.{name}": engine_asked(each) for kind, name, each in roles(study)}
                | ({"effects": study.scorers.intervention.explainer} if study.scorers.intervention else {}),
            },
            files={"tokenizer": tokenizer_files(study)},
            scope="study",
            kinds=("matplotlib", "polars"),
        )
    )
    return {asset.name: asset for asset in found}


REPORTED_OF_PAIRS = {"layer_matching": ("matching", "left_over", "next_best"), "semantic_overlap": ("overlap",)}
"What the report reads of pairs of layers."


def nearest_read(method: str) -> tuple[str, ...]:
    """What the report reads of a method's trials beside what it reads of all."""
    return tuple(each for each in TOKEN_COLUMNS if each not in TRIAL_COLUMNS) if method == "token_embedding" else ()


def similar_text_of(study: Study) -> SimilarText | None:
    """The settings of the text index, where a test negative comes from it."""
    return study.examples.similar_text if "similar_text" in study.examples.test.kinds else None


def similar_text_read(study: Study, settings: SimilarText | None) -> dict[str, Any]:
    """How windows become vectors, but for the embedder's files."""
    if settings is None:
        return {}
    return embedder_read(study, settings.model) | {"tokenizer": tokenizer_read(study), "bos": study.corpus.bos}


def embedder_files(study: Study, settings: SimilarText | None) -> dict[str, list[Path]]:
    if settings is None:
        return {}
    return {"embedder": model_files(study, settings.model), "tokenizer": tokenizer_files(study)}


def text_index_asset(study: Study) -> list[Asset]:
    settings = similar_text_of(study)
    if settings is None:
        return []
    return [
        Asset(
            name="text_index",
            group="examples",
            code_version="3",
            description="Embeddings of windows of the corpus, in which negatives that read alike are looked up.",
            reads=(Read("corpus", "corpus", ("tokens",)),),
            settings={
                "similar_text": settings.identity(),
                "window": study.examples.window,
                "seed": study.examples.seed,
            }
            | similar_text_read(study, settings),
            files=embedder_files(study, settings),
            scope="corpus",
            kinds=("torch", "parquet"),
            pool="gpu",
            in_process=True,
        )
    ]


def reads_directions(study: Study) -> bool:
    """Whether neighbours are found by the SAE's weights."""
    return "neighbour" in study.examples.test.kinds and study.examples.test.neighbour_by != "cooccurrence"


def roles(study: Study) -> list[tuple[str, str, Any]]:
    explainers = [("explainers", name, each) for name, each in study.explainers.items()]
    return explainers + [("scorers", name, each) for name, each in study.scorers.chosen().items()]


def engine_asked(role: Any) -> str | None:
    """The name of the engine at whose price a role's calls are counted."""
    return getattr(role, "engine", None) or getattr(role, "scorer", None)


def explains_some(study: Study) -> bool:
    """Whether some explainer explains only some of the latents that have examples."""
    return any(getattr(explainer, "latents", None) is not None for explainer in study.explainers.values())


def shows_promoted(study: Study) -> bool:
    return any(
        isinstance(explainer, LlmExplainer) and explainer.promoted_tokens for explainer in study.explainers.values()
    )
