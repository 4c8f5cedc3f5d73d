"""Which model a stage asks for, from the study's settings; each is loaded when first needed and kept by the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp_assets.api_keys import key_of
from interp_assets.budget import Purse
from interp_assets.job import Job
from interp_assets.settings import EmbeddingScorer, OpenAIEngine, TransformersEngine
from interp_assets.study import Study
from resources.language_models.logged import LoggedEngine
from resources.loaded_models import LoadedModels

if TYPE_CHECKING:
    from resources.language_models.protocol import LanguageModel
    from resources.subject_model import SubjectModel
    from resources.text_embedder import TextEmbedder


def subject_model(study: Study, models: LoadedModels) -> SubjectModel:
    from resources.subject_model import SubjectModel

    settings = study.subject_model
    path = study.local_folder(settings.path) or settings.path
    identity = ("subject", str(path), settings.revision, settings.dtype, settings.device)
    return models.get(identity, lambda: SubjectModel(path, settings.revision, settings.dtype, settings.device))


def engine(job: Job, name: str) -> LoggedEngine:
    """An engine of the study behind the reply log; it is loaded when a reply is missing."""
    settings = job.study.engines[name]
    identity = job.freshness.engine_identity(name)

    path = None
    if isinstance(settings, TransformersEngine):
        path = job.study.local_folder(settings.path) or settings.path

    def load() -> LanguageModel:
        return job.models.get(("engine", str(path), settings.model_dump_json()), load_anew)

    def load_anew() -> LanguageModel:
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
            )
        from resources.language_models import transformers_engine as embedded

        assert path is not None
        return embedded.TransformersEngine(
            path, settings.revision, settings.dtype, settings.device, settings.batch_size, identity
        )

    purse = Purse(job.study, job.log)
    return LoggedEngine(load, identity, job.log, job.study.name, name, settings.capabilities, purse.empty)


def embedder(study: Study, settings: EmbeddingScorer, models: LoadedModels) -> TextEmbedder:
    from resources.text_embedder import TextEmbedder

    path = study.local_folder(settings.model) or settings.model
    identity = ("embedder", str(path), settings.dtype, settings.device)
    return models.get(identity, lambda: TextEmbedder(path, settings.dtype, settings.device, settings.batch_size))
