"""Which model a stage asks for, from the study's settings; each is loaded when first needed and kept by the process."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from interp_assets.api_keys import key_of
from interp_assets.budget import Purse
from interp_assets.freshness import Freshness
from interp_assets.job import Job
from interp_assets.settings import (
    EmbedderSettings,
    Engine,
    LocalModel,
    OpenAIEngine,
    RerankerScorer,
    SimilarText,
    VllmEngine,
)
from interp_assets.study import Study
from resources.errors import NotNow, install_command
from resources.language_models.logged import LoggedEngine
from resources.loaded_models import LoadedModels

if TYPE_CHECKING:
    from resources.language_models.protocol import LanguageModel
    from resources.reranker import Reranker
    from resources.subject_model import SubjectModel
    from resources.text_embedder import TextEmbedder


def subject_model(study: Study, models: LoadedModels, untrained: int | None = None) -> SubjectModel:
    """
    Args:
        untrained: seed of fresh weights that stand in place of the trained ones.
    """
    from resources.subject_model import SubjectModel

    settings = study.subject_model
    arguments = (
        *study.model_at(settings.path, settings.revision),
        settings.dtype,
        settings.device,
        untrained,
        settings.device_map,
        settings.quantization,
    )
    return models.get(("subject", *map(str, arguments)), lambda: SubjectModel(*arguments))


def engine(job: Job, name: str) -> LoggedEngine:
    return logged_engine(job.freshness, job.models, name)


def logged_engine(freshness: Freshness, models: LoadedModels, name: str) -> LoggedEngine:
    """An engine of the study behind the reply log; it is loaded when a reply is missing."""
    study = freshness.study
    settings = study.engines[name]
    identity = freshness.engine_identity(name)
    place = study.model_at(settings.path, settings.revision) if isinstance(settings, LocalModel) else None

    def load() -> LanguageModel:
        return models.get(("engine", str(place), settings.model_dump_json()), load_anew)

    def load_anew() -> LanguageModel:
        check_package(name, settings)
        if isinstance(settings, OpenAIEngine):
            from resources.language_models import openai_engine as servers

            return servers.OpenAIEngine(
                settings.base_url,
                settings.model,
                key_of(name, settings),
                identity,
                settings.concurrency,
                settings.timeout_seconds,
                settings.wait_seconds,
                settings.request,
            )
        assert place is not None
        model = (*place, settings.dtype)
        if isinstance(settings, VllmEngine):
            from resources.language_models import vllm_engine

            return vllm_engine.VllmEngine(
                *model,
                settings.tensor_parallel_size,
                settings.gpu_memory_utilization,
                settings.max_model_len,
                settings.enforce_eager,
                settings.kv_cache_gb,
                identity,
                settings.chat_template,
            )
        from resources.language_models import transformers_engine as embedded

        return embedded.TransformersEngine(
            *model, settings.device, settings.batch_size, identity, settings.chat_template
        )

    log, purse = freshness.log, Purse(study, freshness.log)
    return LoggedEngine(load, identity, log, study.name, name, settings.capabilities, purse.empty)


def check_package(name: str, settings: Engine) -> None:
    """
    Raises:
        NotNow: an engine needs a package that is not installed.
    """
    package = settings.package
    if package is not None and importlib.util.find_spec(package) is None:
        raise NotNow(
            f"engines.{name}: kind {settings.kind} needs the {package} package: {install_command(package)}; "
            f"or ask a server, with kind openai"
        )


def embedder(study: Study, settings: EmbedderSettings | SimilarText, models: LoadedModels) -> TextEmbedder:
    from resources.text_embedder import TextEmbedder

    path, revision = study.model_at(settings.model)
    identity = ("embedder", str(path), revision, settings.dtype, settings.device)
    return models.get(
        identity, lambda: TextEmbedder(path, settings.dtype, settings.device, settings.batch_size, revision)
    )


def reranker(study: Study, settings: RerankerScorer, models: LoadedModels) -> Reranker:
    from resources.reranker import Reranker

    path, revision = study.model_at(settings.model)
    identity = ("reranker", str(path), revision, settings.dtype, settings.device)
    return models.get(identity, lambda: Reranker(path, settings.dtype, settings.device, settings.batch_size, revision))
