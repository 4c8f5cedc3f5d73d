"""Which models and tokenizers an asset reads: by name where the hub has them, by their files where a folder does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp_assets.layers import Layer
from interp_assets.settings import EmbedderSettings, InterventionScorer, LocalModel, Scorer
from interp_assets.study import Study
from resources.embedder_prompts import treats_roles_apart
from resources.hub import cached
from resources.language_models.protocol import CODE_VERSIONS
from resources.sparse_autoencoders.controls import NeuronsOf
from resources.tokenizers import load_tokenizer

WEIGHTS = (".safetensors", ".bin")
SETTINGS = (".json", ".jinja", ".model", ".tiktoken", ".txt")


def hub_name(study: Study, path: str) -> dict[str, str]:
    """A hub name is identity; a local path is not, its content is."""
    return {} if study.path(path).exists() else {"hub": path}


def hub_model(study: Study, path: str, revision: str | None = None) -> dict[str, str]:
    """The same of a model, with the commit that it was fetched at, if it is here: a branch stands now here, now there."""
    found = hub_name(study, path)
    commit = study.revision_of(path, revision) if found else None
    return found | ({"commit": commit} if commit and commit != revision else {})


def subject_read(study: Study) -> dict[str, Any]:
    """What decides the subject model, but for its files."""
    settings = study.subject_model
    return settings.identity() | hub_model(study, settings.path, settings.revision)


def model_files(study: Study, path: str) -> list[Path]:
    folder = study.local_folder(path)
    if folder is None:
        return []
    return sorted(file for file in folder.rglob("*") if file.suffix in (*WEIGHTS, *SETTINGS) and file.is_file())


def subject_files(study: Study) -> list[Path]:
    return model_files(study, study.subject_model.path)


def sae_files(study: Study, layer: Layer) -> list[Path]:
    """The files of a layer's SAE; for neurons those of the model that they belong to."""
    return subject_files(study) if isinstance(layer.location, NeuronsOf) else layer.location.files()


def control_read(study: Study, layer: Layer) -> dict[str, Any]:
    """What decides a control beside files; nothing for an SAE of the study."""
    found = layer.control_read()
    if isinstance(layer.location, NeuronsOf):
        found["subject_model"] = subject_read(study)
    return found


def tokenizer_read(study: Study) -> dict[str, Any]:
    """Which tokenizer, where the hub has it; that of a folder enters by its files."""
    settings = study.subject_model
    return {"revision": settings.revision} | hub_model(study, settings.path, settings.revision)


def tokenizer_files(study: Study) -> list[Path]:
    """All that reading text can depend on: the model's files without its weights."""
    return [file for file in subject_files(study) if file.suffix not in WEIGHTS]


def engine_read(study: Study, name: str) -> dict[str, Any]:
    """What decides an engine's replies, but for the files of its model."""
    settings = study.engines[name]
    hub = hub_model(study, settings.path, settings.revision) if isinstance(settings, LocalModel) else {}
    return settings.identity() | hub | {"code": CODE_VERSIONS[settings.kind]}


def engine_model_files(study: Study, name: str) -> list[Path]:
    """The files of the model that an engine runs; none where it is the hub's or a server's."""
    settings = study.engines[name]
    return model_files(study, settings.path) if isinstance(settings, LocalModel) else []


def engine_tokenizer(study: Study, name: str) -> Any | None:
    """The tokenizer of an engine that runs its own model; None where a server does.

    Raises:
        UnusableInput: there is none at that place; NotNow where the hub was not reached.
    """
    settings = study.engines[name]
    if not isinstance(settings, LocalModel):
        return None
    return load_tokenizer(*study.model_at(settings.path, settings.revision))


def engines_read(study: Study, names: Sequence[str]) -> dict[str, Any]:
    return {"engines": {name: engine_read(study, name) for name in names}}


def engine_files(study: Study, names: Sequence[str]) -> dict[str, list[Path]]:
    return {f"engine {name}": engine_model_files(study, name) for name in names}


def engines_asked(scorer: Scorer) -> tuple[str, ...]:
    """The engines that a scorer asks, by name."""
    if isinstance(scorer, InterventionScorer):
        return tuple(dict.fromkeys((scorer.explainer, scorer.scorer)))
    return () if isinstance(scorer, EmbedderSettings) else (scorer.engine,)


def embedder_read(study: Study, path: str) -> dict[str, Any]:
    """What decides an embedder's vectors, but for its files."""
    found = {"embedder": hub_model(study, path)}
    here = study.local_folder(path) or (hub.folder if path.count("/") == 1 and (hub := cached(path)) else None)
    # Up to now one prompt stood before all texts, whatever they were.
    return found | ({"embedder_prompts": "by role"} if here is not None and treats_roles_apart(here) else {})


def model_read(study: Study, scorer: Scorer) -> dict[str, Any]:
    if isinstance(scorer, EmbedderSettings):
        return embedder_read(study, scorer.model)
    return engines_read(study, engines_asked(scorer))


def scorer_files(study: Study, scorer: Scorer) -> dict[str, list[Path]]:
    if isinstance(scorer, EmbedderSettings):
        return {"embedder": model_files(study, scorer.model)}
    return engine_files(study, engines_asked(scorer))
