"""Are a study's engines there, what can they do, how fast are they? Asked before any work, and by `interp doctor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any, Literal, NamedTuple

from interp_assets.api_keys import key_of
from interp_assets.asset import Asset
from interp_assets.engine_needs import check_needs
from interp_assets.examples.rendering import Rendering
from interp_assets.explanations import pending as explaining
from interp_assets.forecast import forecast, scoring_method
from interp_assets.freshness import Freshness, PartitionState
from interp_assets.job import Inputs
from interp_assets.models import check_package, logged_engine
from interp_assets.progress import Progress
from interp_assets.sample_prompts import SAMPLE, SENTENCE, made_up_window, of_explainer, of_method
from interp_assets.scores.intervention.effects import Effect, Raised
from interp_assets.scores.intervention.explaining import request as effect_request
from interp_assets.scores.intervention.wording import SCORED
from interp_assets.scores.methods import methods_of
from interp_assets.scores.pending import pending
from interp_assets.settings import LlmExplainer, OpenAIEngine
from interp_assets.study import Study
from resources.language_models.logged import VERBS, LoggedEngine, request_key
from resources.language_models.protocol import LikelihoodRequest, Request
from resources.loaded_models import LoadedModels

Role = Literal["explaining", "judging", "intervening"]

PATIENCE = 10.0
"Seconds for which a server that has trouble is waited for at the start of a run; one that is down is told of at once."


class Speed(NamedTuple):
    role: Role
    prompts: int
    real: bool
    "They are the study's own, whose replies are kept for the run."
    seconds: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    refused: str | None
    "Why one of them was not answered."

    @property
    def calls_per_second(self) -> float:
        return self.prompts / self.seconds


def roles(study: Study, engine: str) -> list[Role]:
    """What a study uses an engine for."""
    found: list[Role] = []
    if any(isinstance(e, LlmExplainer) and e.engine == engine for e in study.explainers.values()):
        found.append("explaining")
    if any(method.engine == engine for method in methods_of(study).values()):
        found.append("judging")
    intervention = study.scorers.intervention
    if intervention is not None and engine in (intervention.explainer, intervention.scorer):
        found.append("intervening")
    return found


def role_of(asset: Asset) -> Role:
    """What an engine does that is asked for an asset."""
    if asset.group == "explanations":
        return "explaining"
    return "intervening" if asset.name == "scores/intervention" else "judging"


def require_engines(due: list[PartitionState], freshness: Freshness) -> None:
    """Before the first partition is made: packages are installed, servers answer, take the key and know the model.

    Args:
        due: the partitions that are to be made.

    Raises:
        NotNow: one does not; in one line, with what to do.
    """
    for name, settings in freshness.study.engines.items():
        special = isinstance(settings, OpenAIEngine) or settings.package is not None
        if not (special and will_be_asked(name, due, freshness)):
            continue
        check_package(name, settings)
        if isinstance(settings, OpenAIEngine):
            from resources.language_models.openai_engine import OpenAIEngine as Server

            key, patience = key_of(name, settings), min(PATIENCE, settings.wait_seconds)
            server = Server(
                settings.base_url, settings.model, key, wait_seconds=patience, request=settings.request, must_be_up=True
            )
            server.close()
            check_needs(freshness.study, name, server, {state.asset for state in due})


def will_be_asked(engine: str, due: list[PartitionState], freshness: Freshness) -> bool:
    """Whether the plan has a call for an engine, as far as that is known before."""
    asking = (state for state in due if engine in freshness.assets[state.asset].engines)
    return any(forecast(freshness, state, engine).llm_calls != 0 for state in asking)


def measure(freshness: Freshness, models: LoadedModels, engine: str, role: Role) -> Speed:
    """Ask a few prompts; what that costs counts for the study's budget like any other call."""
    model = logged_engine(freshness, models, engine)
    sample = list(islice(new_requests(freshness, model, engine, role), SAMPLE))
    real = len(sample) == SAMPLE
    if not real:
        sample = made_up(freshness.study, engine, role)
    began = time.monotonic()
    refused = None
    with Progress(f"engine {engine} is {role}", len(sample), "prompts") as progress:
        for kind in dict.fromkeys(map(type, sample)):
            ask: Any = getattr(model, VERBS[kind])
            mine = [request for request in sample if isinstance(request, kind)]
            replies = ask(mine, lambda i, reply: progress.advance(1))
            refused = refused or next((reply.refused for reply in replies if reply.refused), None)
    return Speed(role, len(sample), real, time.monotonic() - began, *model.made[1:], refused)


def new_requests(freshness: Freshness, model: LoggedEngine, engine: str, role: Role) -> Iterator[Request]:
    """Requests of the study that can be built now and have no reply in the log yet."""
    for state in asked_in(freshness, engine, role):
        if state.due_now:
            inputs = Inputs(freshness.study, freshness.assets[state.asset], state.partition, freshness)
            asked = list(requests_of(inputs, engine))
            keys = [request_key(model.identity, request) for request in asked]
            known = model.log.look_up(keys)
            yield from (request for request, key in zip(asked, keys, strict=True) if key not in known)


def asked_in(freshness: Freshness, engine: str, role: Role) -> Iterator[PartitionState]:
    """The partitions with work left for an engine in one role."""
    for state in freshness.states():
        asset = freshness.assets[state.asset]
        if engine in asset.engines and role_of(asset) == role and state.state in ("stale", "missing", "partial"):
            yield state


def requests_of(inputs: Inputs, engine: str) -> Iterator[Request]:
    study, rendering = inputs.study, Rendering.of(inputs.study)
    if inputs.asset.group == "explanations":
        todo = explaining.pending(inputs)
        for name, explainer in study.explainers.items():
            if isinstance(explainer, LlmExplainer) and explainer.engine == engine:
                yield from explaining.requests(inputs, explainer, todo.latents(name), todo.windows, rendering)
        return
    method, _ = scoring_method(inputs)
    if method is not None:
        yield from method.requests(pending(inputs, method).subjects)


def about_effects(
    study: Study, engine: str, rendering: Rendering, window: Callable[[], list[int]]
) -> Iterator[Request]:
    """An effect to be explained, then passages to be scored, in about the proportion in which a study asks for them."""
    settings = study.scorers.intervention
    assert settings is not None
    raised = [Raised(token, 0.1) for token in range(settings.shown_tokens)]
    for latent in range(SAMPLE):
        if engine == settings.explainer:
            shown = [(window(), raised) for _ in range(settings.explain_prompts)]
            yield effect_request(Effect(latent, "sample", shown=shown), settings, rendering)
        for _ in range(2 * settings.score_prompts if engine == settings.scorer else 0):
            passage = SCORED.format(passage=rendering.text(window()))
            yield LikelihoodRequest(passage, SENTENCE)


def made_up(study: Study, engine: str, role: Role) -> list[Request]:
    """Prompts of the study's form and length, for when its own cannot be built yet; new ones each time."""
    rendering, draw = Rendering.of(study), Random()  # noqa: S311 no secret
    if role == "explaining":
        explainer = next(e for e in study.explainers.values() if isinstance(e, LlmExplainer) and e.engine == engine)
        return of_explainer(study, explainer, rendering, draw)
    if role == "intervening":
        return [*islice(about_effects(study, engine, rendering, made_up_window(study, rendering, draw)), SAMPLE)]
    method = next(method for method in methods_of(study).values() if method.engine == engine)
    return of_method(study, method, rendering, draw)
