"""Every asset of a study: what it reads, which settings decide it, and the version of its code. Imports no torch.

This table is the truth that fingerprints, lineage in the UI, `interp run` and `interp status` all derive from. The
code that makes an asset stands in `<stage>/assets.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from interp_assets.models_read import (
    engine_files,
    engines_read,
    hub_name,
    model_read,
    scorer_files,
    subject_files,
    tokenizer_files,
    tokenizer_read,
)
from interp_assets.settings import JudgeScorer, LlmExplainer
from interp_assets.study import Study


@dataclass(frozen=True)
class Read:
    """One input: a table of an earlier asset, and the columns that are read (all when left out)."""

    asset: str
    table: str
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Asset:
    name: str
    "Also its folder in storage and, behind the study's name, its Dagster key."
    group: str
    "The stage; the folder under interp_assets."
    code_version: str
    "Raise it when the same inputs give another result."
    description: str
    reads: tuple[Read, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    "The identity settings that it reads."
    files: Mapping[str, Path | list[Path]] = field(default_factory=dict)
    "Files and folders outside the store that it reads; they enter by content. `sae` is filled in by layer."
    scope: Literal["layer", "corpus", "study"] = "layer"
    "layer: one partition per layer. corpus: one for all. study: one, reading all layers, never blocked by any."
    kinds: tuple[str, ...] = ("polars", "parquet")
    pool: str | None = None
    harvests: bool = False
    "One run may commit other requested layers too."

    @property
    def per_layer(self) -> bool:
        return self.scope == "layer"


def assets_of(study: Study) -> dict[str, Asset]:
    """The assets of a study by name, in topological order."""
    subject = subject_files(study)
    corpus_file = study.path(study.corpus.path)
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
            code_version="1",
            description="The text as token ids, packed into contexts of equal length.",
            settings={
                "corpus": study.corpus.identity(),
                "hub": hub_name(study, study.corpus.path),
                "tokenizer": tokenizer_read(study),
            },
            files={"corpus": corpus_file, "tokenizer": tokenizer_files(study)},
            scope="corpus",
        ),
        Asset(
            name="activation_cache",
            group="activations",
            code_version="1",
            description="Every activation of every latent on the corpus, sparse, ordered by latent. Begins with the "
            "proof of load, which stops a layer whose SAE does not fit the place it reads.",
            reads=(Read("sae_weights", "files", ("sha256",)), Read("corpus", "corpus", ("tokens",))),
            settings={
                "subject_model": study.subject_model.identity() | hub_name(study, study.subject_model.path),
                "proof_of_load": study.proof_of_load.identity(),
                "bos": study.corpus.bos,
            },
            files={"subject_model": subject},
            kinds=("torch", "parquet"),
            pool="gpu",
            harvests=True,
        ),
        Asset(
            name="latent_statistics",
            group="activations",
            code_version="1",
            description="Firing rates, quantiles, promoted tokens, positional and unigram measures; dead or not.",
            reads=(
                Read("activation_cache", "activations"),
                Read("sae_weights", "files", ("sha256",)),
                Read("corpus", "corpus", ("tokens",)),
            ),
            settings={
                "subject_model": study.subject_model.identity() | hub_name(study, study.subject_model.path),
                "bos": study.corpus.bos,
            },
            files={"subject_model": subject},
            kinds=("torch", "polars"),
            pool="gpu",
        ),
        Asset(
            name="examples",
            group="examples",
            code_version="1",
            description="For each latent: windows to explain it from and others to test the explanation on.",
            reads=(
                Read("activation_cache", "activations"),
                Read("corpus", "corpus", ("tokens",)),
                *((Read("sae_weights", "files", ("sha256",)),) if study.examples.test.negatives == "neighbour" else ()),
            ),
            settings={"examples": study.examples.identity()},
        ),
        Asset(
            name="explanations",
            group="explanations",
            code_version="1",
            description="What each latent stands for, in words, by each explainer of the study.",
            reads=(
                Read("examples", "examples", EXAMPLE_COLUMNS),
                *(
                    (Read("latent_statistics", "statistics", ("latent", "promoted_tokens")),)
                    if shows_promoted(study)
                    else ()
                ),
            ),
            settings={
                "explainers": {name: explainer.identity() for name, explainer in study.explainers.items()},
                "seed": study.examples.seed,
                "tokenizer": tokenizer_read(study),
                "bos": study.corpus.bos,
            }
            | engines_read(study, [e.engine for e in study.explainers.values() if isinstance(e, LlmExplainer)]),
            files={"tokenizer": tokenizer_files(study)}
            | engine_files(study, [e.engine for e in study.explainers.values() if isinstance(e, LlmExplainer)]),
            kinds=("llm", "polars"),
            pool="llm",
        ),
    ]
    descriptions = {
        "embedding": "How well a sentence embedder finds a latent's examples from its explanation. No LLM.",
        "detection": "Whether an LLM that reads the explanation can tell on which windows the latent is active.",
        "fuzzing": "Whether an LLM that reads the explanation can tell rightly marked tokens from wrongly marked ones.",
    }
    for method, scorer in study.scorers.chosen().items():
        found.append(
            Asset(
                name=f"scores/{method}",
                group="scores",
                code_version="1",
                description=descriptions[method],
                reads=(
                    Read("explanations", "explanations", ("latent", "explainer", "explanation", "status")),
                    Read("examples", "examples", EXAMPLE_COLUMNS),
                ),
                settings={
                    "scorer": scorer.identity(),
                    "explainers": sorted(study.explainers_of(scorer)),
                    "seed": study.examples.seed,
                    "tokenizer": tokenizer_read(study),
                    "bos": study.corpus.bos,
                }
                | model_read(study, scorer),
                files={"tokenizer": tokenizer_files(study)} | scorer_files(study, scorer),
                kinds=("llm", "polars") if isinstance(scorer, JudgeScorer) else ("torch", "polars"),
                pool="llm" if isinstance(scorer, JudgeScorer) else "gpu",
            )
        )
    found.append(
        Asset(
            name="score_report",
            group="report",
            code_version="1",
            description="Scores of all layers and methods beside their controls: one page, one table.",
            reads=tuple(
                [
                    Read("latent_statistics", "statistics"),
                    Read("examples", "examples"),
                    Read("explanations", "explanations"),
                ]
                + [Read(f"scores/{method}", "scores") for method in study.scorers.chosen()]
            ),
            settings={
                "name": study.name,
                "layers": [layer.key for layer in study.layers],
                "tokenizer": tokenizer_read(study),
                "bos": study.corpus.bos,
            },
            files={"tokenizer": tokenizer_files(study)},
            scope="study",
            kinds=("matplotlib", "polars"),
        )
    )
    return {asset.name: asset for asset in found}


EXAMPLE_COLUMNS = (
    "latent",
    "example",
    "purpose",
    "kind",
    "context",
    "start",
    "tokens",
    "activations",
    "peak_activation",
    "status",
    "reason",
)


def layers_of(study: Study, asset: Asset) -> list[str | None]:
    """The partitions of an asset: layer keys, or [None] where there is one for all."""
    return [layer.key for layer in study.layers] if asset.per_layer else [None]


def shows_promoted(study: Study) -> bool:
    return any(
        isinstance(explainer, LlmExplainer) and explainer.promoted_tokens for explainer in study.explainers.values()
    )
