"""What making a partition will ask of language models: exact where its inputs lie ready, an upper bound elsewhere.

Builds the very requests that the stage would ask, and looks them up in the reply log; loads no model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from interp_assets.asset import Asset
from interp_assets.examples.rendering import Rendering
from interp_assets.freshness import Freshness, PartitionState
from interp_assets.job import Inputs
from interp_assets.models_read import engine_tokenizer
from interp_assets.sample_prompts import of_explainer, of_method
from interp_assets.settings import InterventionScorer, LlmExplainer
from interp_assets.study import Study
from interp_assets.tables import calls_behind
from interp_assets.tokens_sent import Reckoned, counted, reckoned, recorded_or
from resources.errors import UnusableInput
from resources.language_models.logged import LoggedEngine, request_key
from resources.language_models.protocol import GenerateRequest, LanguageModel, Request

if TYPE_CHECKING:
    from interp_assets.scores.method import Method

TOKENS_OF_A_MARKED_TOKEN = 3
"A window's token is rarely more than one of the engine's, and its marks two more."
TOKENS_OF_A_TOKEN = 2
"A token of the subject model is rarely more of the engine's."
TOKENS_AROUND = 200
"A chat format, numbers of excerpts and the like."


@dataclass(frozen=True)
class Forecast:
    latents: int | None = None
    "For which something is made; None where that is not known before."
    llm_calls: int | None = 0
    replies_reused: int = 0
    prompt_tokens: int | None = 0
    "Of the calls that will be made."
    cost: float | None = 0.0
    "At the study's prices, with the longest reply that is allowed and nothing found in a prefix cache."
    exact: bool = True
    """False where calls are upper bounds, and tokens and cost those calls times what one takes. Either way a reply that
    cannot be read costs one call more, which nobody can foresee."""
    tokens_of_a_call: tuple[str, ...] = ()
    "Where prompt tokens were not counted in the prompts themselves: what a call takes, and how that is known."

    def __add__(self, other: Forecast) -> Forecast:
        def both(a: Any, b: Any) -> Any:
            return None if a is None or b is None else a + b

        return Forecast(
            both(self.latents, other.latents),
            both(self.llm_calls, other.llm_calls),
            self.replies_reused + other.replies_reused,
            both(self.prompt_tokens, other.prompt_tokens),
            both(self.cost, other.cost),
            self.exact and other.exact,
            tuple(dict.fromkeys(self.tokens_of_a_call + other.tokens_of_a_call)),
        )


def forecast(freshness: Freshness, state: PartitionState, engine: str | None = None) -> Forecast:
    """For a partition that is to be made; of one engine only where it is named."""
    asset = freshness.assets[state.asset]
    if asset.group not in ("explanations", "scores"):
        return Forecast()
    inputs = Inputs(freshness.study, asset, state.partition, freshness)
    sources = [freshness.own_state(freshness.assets[name], key)[0] for name, key in freshness.inputs(asset, inputs.key)]
    if not (state.due_now or state.state == "partial") or "partial" in sources:
        return at_most(inputs, engine)
    return of_explanations(inputs, engine) if asset.group == "explanations" else of_scores(inputs, engine)


def of_explanations(inputs: Inputs, engine: str | None) -> Forecast:
    from interp_assets.explanations.pending import pending, requests

    todo = pending(inputs)
    latents = todo.new["latent"].n_unique()
    total = Forecast(latents, replies_reused=len(calls_behind(todo.kept)))
    for name, explainer in inputs.study.explainers.items():
        if isinstance(explainer, LlmExplainer) and engine in (None, explainer.engine) and (mine := todo.latents(name)):
            asked = requests(inputs, explainer, mine, todo.windows, Rendering.of(inputs.study))
            total += Forecast(0) + of_requests(inputs, explainer.engine, [*asked], "explanations", name)
    return total


def of_scores(inputs: Inputs, engine: str | None) -> Forecast:
    from interp_assets.scores.pending import pending

    method, tried = scoring_method(inputs)
    if method is None:
        # What is asked about interventions depends on what the subject model does.
        return at_most(inputs, engine)
    todo = pending(inputs, method)
    total = Forecast(todo.new["latent"].n_unique())
    if method.engine is None or engine not in (None, method.engine):
        return total
    total += Forecast(0, replies_reused=len(calls_behind(todo.kept_trials)))
    asked = [*tried, *method.requests(todo.subjects)]
    if not asked:
        return total
    most = of_requests(inputs, method.engine, asked)
    return total + replace(most, exact=most.exact and method.exact and not tried)


def scoring_method(inputs: Inputs) -> tuple[Method[Any] | None, list[Request]]:
    """How an asset scores, and what is asked to find that out; None for what follows no common pattern.

    A judge stands as calibration leaves it, where all answers to that lie in the log; else with single prompts, which
    are the most that can come of it.
    """
    from interp_assets.scores.calibration import of_size, sizes_tried
    from interp_assets.scores.judged import Judged
    from interp_assets.scores.methods import methods_of
    from interp_assets.scores.pending import calibrators

    method = methods_of(inputs.study).get(inputs.asset.name.split("/")[1])
    if not isinstance(method, Judged) or method.settings.list_sizes is None:
        return method, []
    some = calibrators(inputs, method, method.settings.list_sizes.latents)
    if inputs.log.file.exists():
        found = method.calibrate(some, only_logged(inputs, method.engine), lambda count: None)
        if found.complete:
            return type(method)(inputs.study, found.settings), []
    single, *lists = (
        type(method)(inputs.study, of_size(method.settings, size)) for size in sizes_tried(method.settings)
    )
    return single, [request for each in lists for request in each.requests(some)]


def only_logged(inputs: Inputs, name: str) -> LoggedEngine:
    """An engine that answers what is in the log, and asks nothing."""

    def load() -> LanguageModel:
        raise AssertionError(f"{name} is asked by a forecast")

    study, identity = inputs.study, inputs.freshness.engine_identity(name)
    capabilities = study.engines[name].capabilities
    return LoggedEngine(load, identity, inputs.log, study.name, name, capabilities, lambda: "this is a forecast")


def of_requests(
    inputs: Inputs, engine: str, requests: list[Request], table: str = "trials", explainer: str | None = None
) -> Forecast:
    """Of requests to one engine: how many are in the log, and what the others take.

    Args:
        table, explainer: where such calls stand in what was made before.
    """
    settings, identity = inputs.study.engines[engine], inputs.freshness.engine_identity(engine)
    by_key = {request_key(identity, request): request for request in requests}
    found = inputs.log.look_up(list(by_key)) if inputs.log.file.exists() else {}
    new = [request for key, request in by_key.items() if key not in found]
    exact = engine_tokenizer(inputs.study, engine) is not None
    told: tuple[str, ...] = ()
    if exact or not new:
        tokens = counted(inputs.study, engine, new)
    else:
        answered = [(by_key[key], reply.prompt_tokens) for key, reply in found.items()]
        one = reckoned(inputs, engine, new, answered, table, explainer)
        tokens, told = round(one.tokens * len(new)), (one.told,)
    replies = sum(request.max_tokens for request in new if isinstance(request, GenerateRequest))
    cost = settings.price.of(tokens, 0, replies) if settings.price else 0.0
    return Forecast(0, len(new), len(requests) - len(new), tokens, cost, exact, told)


def at_most(inputs: Inputs, engine: str | None) -> Forecast:
    """For a partition whose inputs are made first: an upper bound of the calls, by the settings alone, times what one takes."""
    from interp_assets.scores.methods import methods_of

    study = inputs.study
    latents = most_latents(study, inputs.asset, inputs.layer)
    total = Forecast(latents, exact=False)
    window = study.examples.window * TOKENS_OF_A_MARKED_TOKEN
    if inputs.asset.group == "explanations":
        for name, explainer in study.explainers.items():
            if isinstance(explainer, LlmExplainer) and engine in (None, explainer.engine):
                shown = TOKENS_AROUND + 600 + explainer.n_examples * window
                sample = partial(of_explainer, study, explainer)
                one = reckoned(inputs, explainer.engine, sample, (), "explanations", name, shown)
                calls = least(explainer.latents, latents)
                total += bound(study, explainer.engine, calls, one, explainer.max_tokens)
        return total
    scored_by = inputs.asset.name.split("/")[1]
    if isinstance(scorer := study.scorers.chosen()[scored_by], InterventionScorer):
        return of_interventions(inputs, scorer, latents, engine)
    method = methods_of(study)[scored_by]
    limits = [getattr(study.explainers[name], "latents", None) for name in method.explainers or ()] or [None]
    scored = [least(limit, scorer.latents, latents) for limit in limits]
    total = Forecast(None if None in scored else max(filter(None, scored), default=0), exact=False)
    if method.engine is None or engine not in (None, method.engine):
        return total
    controls = 2 if getattr(scorer, "shuffled_control", False) else 1
    for explained in scored:
        for takes in method.most():
            shown = TOKENS_AROUND + 600 + takes.windows * window
            one = reckoned(inputs, method.engine, partial(of_method, study, method), (), "trials", None, shown)
            subjects = explained if explained is None else explained * controls
            asked = subjects if takes.subjects is None else least(takes.subjects, explained)
            calls = None if asked is None else asked * takes.calls
            total += bound(study, method.engine, calls, one, takes.reply_tokens)
    return total


def of_interventions(
    inputs: Inputs, scorer: InterventionScorer, interpreted: int | None, engine: str | None
) -> Forecast:
    """An upper bound: every change within reach, each explanation and its control behind every passage."""
    study = inputs.study
    latents = least(scorer.latents, interpreted)
    effects = None if latents is None else latents * len(scorer.conditions)
    prompt = (scorer.prompt_tokens + 2) * TOKENS_OF_A_TOKEN
    shown = scorer.explain_prompts * (prompt + 12 * scorer.shown_tokens)
    passage = prompt + scorer.new_tokens * TOKENS_OF_A_TOKEN + scorer.max_tokens
    texts = scorer.score_prompts * 2 * (2 if scorer.shuffled_control else 1)
    total = Forecast(latents, exact=False)
    if engine in (None, scorer.explainer):
        # Replies that cannot be used are asked for once more.
        asked = None if effects is None else 2 * effects
        one = recorded_or(inputs, "effects", TOKENS_AROUND + 600 + shown)
        total += bound(study, scorer.explainer, asked, one, scorer.max_tokens)
    if engine in (None, scorer.scorer):
        asked = None if effects is None else effects * texts
        total += bound(study, scorer.scorer, asked, recorded_or(inputs, "trials", TOKENS_AROUND + passage), 0)
    return total


def bound(study: Study, engine: str, calls: int | None, one: Reckoned, reply: int) -> Forecast:
    if calls is None:
        return Forecast(0, None, 0, None, None, exact=False)
    price, tokens = study.engines[engine].price, round(calls * one.tokens)
    cost = price.of(tokens, 0, calls * reply) if price else 0.0
    return Forecast(0, calls, 0, tokens, cost, False, (one.told,) if calls else ())


def least(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return min(known) if known else None


def most_latents(study: Study, asset: Asset, layer: str) -> int | None:
    if (most := study.examples_of(layer).most_latents) is not None:
        return most
    try:
        return study.layer(layer).location.declared_latents()
    except (UnusableInput, OSError):
        return None
