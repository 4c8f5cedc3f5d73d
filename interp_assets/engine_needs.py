"""What a study's engines must be able to do, told before anything is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from interp_assets.scores.method import AskingMethod
from interp_assets.scores.methods import methods_of
from interp_assets.settings import LlmExplainer
from interp_assets.study import Study
from resources.errors import NotNow
from resources.language_models.protocol import Capability, LanguageModel, why_not


def needs(study: Study, engine: str, assets: Collection[str]) -> Iterator[tuple[str, Capability]]:
    """What some assets need of an engine, each time with the setting that needs it."""
    if "explanations" in assets:
        for name, explainer in study.explainers.items():
            if isinstance(explainer, LlmExplainer) and explainer.engine == engine:
                yield f"explainers.{name}", "generate"
    for name, method in methods_of(study).items():
        if f"scores/{name}" in assets and isinstance(method, AskingMethod) and method.engine == engine:
            yield from ((f"scorers.{name}", verb) for verb in method.verbs)
    intervention = study.scorers.intervention
    if intervention is not None and "scores/intervention" in assets:
        if intervention.explainer == engine:
            yield "scorers.intervention.explainer", "generate"
        if intervention.scorer == engine:
            yield "scorers.intervention.scorer", "log_likelihood"


def check_needs(study: Study, name: str, model: LanguageModel, assets: Collection[str]) -> None:
    """
    Raises:
        NotNow: the engine of that name cannot do what some assets ask of it; it is said which ones can.
    """
    for setting, verb in needs(study, name, assets):
        if verb not in model.capabilities:
            can = ", ".join(sorted(model.capabilities))
            able = [
                other for other, engine in study.engines.items() if engine.in_process and verb in engine.capabilities
            ]
            there = f"of this study's engines {', '.join(able)} can" if able else "engines in this process can"
            raise NotNow(
                f"{setting} needs an engine that can {verb}; {name} ({model.name}) can: {can}{why_not(model, verb)}; {there}"
            )
