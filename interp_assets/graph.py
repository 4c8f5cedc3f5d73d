"""Every asset of a study: what it reads, which settings decide it, and the version of its code. Imports no torch.

This table is the truth that fingerprints, lineage in the UI, `interp run` and `interp status` all derive from. The
code that makes an asset stands in `<stage>/assets.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from interp_assets.explanations.wording import system_message
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
from interp_assets.partitions import layer_keys, layer_pairs, layers_of_pair, pair_key
from interp_assets.scores.wording import prompts_read
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
    scope: Literal["layer", "pair", "corpus", "study"] = "layer"
    "layer: one partition per layer. pair: one per pair of layers, reading both. corpus: one for all. study: one, reading all layers, never blocked by any."
    kinds: tuple[str, ...] = ("polars", "parquet")
    pool: str | None = None
    harvests: bool = False
    "One run may commit other requested layers too."
    engines: tuple[str, ...] = ()
    "The study's engines that it asks, by name."
    in_process: bool = False
    "It loads a model into its own process."

    @property
    def slots(self) -> tuple[str, ...]:
        """What of the machine it occupies: its pool, and the device where a model runs in its process."""
        names = {self.pool, "gpu" if self.in_process else None}
        return tuple(sorted(name for name in names if name))

    @property
    def per_layer(self) -> bool:
        return self.scope == "layer"

    @property
    def partitioned(self) -> bool:
        return self.scope in ("layer", "pair")


def assets_of(study: Study) -> dict[str, Asset]:
    """The assets of a study by name, in topological order."""
    subject = subject_files(study)
    asked = sorted({e.engine for e in study.explainers.values() if isinstance(e, LlmExplainer)})
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
            in_process=True,
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
            in_process=True,
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
            | {
                "prompts": {
                    name: system_message(explainer)
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
                | ({"prompts": prompts_read(method, scorer)} if isinstance(scorer, JudgeScorer) else {})
                | model_read(study, scorer),
                files={"tokenizer": tokenizer_files(study)} | scorer_files(study, scorer),
                kinds=("llm", "polars") if engines else ("torch", "polars"),
                pool="llm" if engines else "gpu",
                engines=engines,
                in_process=all(study.engines[name].in_process for name in engines),
            )
        )
    if study.alignment is not None:
        found.append(
            Asset(
                name="layer_matching",
                group="alignment",
                code_version="1",
                description="Latents of two layers matched one to one, so that their similarities add up to most.",
                reads=(
                    Read("sae_weights", "files", ("sha256",)),
                    Read("latent_statistics", "statistics", ("latent", "dead")),
                ),
                settings={"alignment": study.alignment.identity()},
                scope="pair",
                kinds=("scipy", "polars"),
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


def partitions_of(study: Study, asset: Asset) -> list[str | None]:
    """The partition keys of an asset, or [None] where there is one for all."""
    if asset.scope == "pair":
        return [pair_key(*pair) for pair in layer_pairs(study)]
    return [*layer_keys(study)] if asset.per_layer else [None]


def partitions_read(study: Study, asset: Asset, key: str | None, source: Asset) -> list[str | None]:
    """Which partitions of an input a partition reads."""
    if not source.partitioned:
        return [None]
    if asset.scope == "study":
        return partitions_of(study, source)
    if asset.scope == "pair" and source.per_layer:
        return [*layers_of_pair(study, str(key))]
    return [key]


def layers_touched(study: Study, asset: Asset, key: str | None) -> list[str]:
    """The layers that a partition is about; none where it is one for all."""
    if key is None:
        return []
    return [*layers_of_pair(study, key)] if asset.scope == "pair" else [key]


def shows_promoted(study: Study) -> bool:
    return any(
        isinstance(explainer, LlmExplainer) and explainer.promoted_tokens for explainer in study.explainers.values()
    )
