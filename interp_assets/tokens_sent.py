"""How many tokens a call takes: what was sent in this study says more than its settings do. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import polars as pl

from interp_assets.examples.rendering import Rendering
from interp_assets.job import Inputs
from interp_assets.models_read import engine_tokenizer
from interp_assets.partitions import partitions_of
from interp_assets.settings import LocalModel
from interp_assets.study import Study
from resources.language_models.protocol import LikelihoodRequest, Request
from resources.tokenizers import count_tokens, request_texts

COUNTS = frozenset(
    ("latents", "seed", "activating", "non_activating", "negatives", "shuffled_control", "explainers", "engines")
)
"Settings of how much is asked, and of whom, not of what a prompt looks like."
PARTITIONS_READ = 4
"Of what is recorded; the others say the same."
SAMPLED = 50
"Prompts of which the tokens are counted, where all are too many."


class Recorded(NamedTuple):
    tokens: float
    "Of the prompt of one call, on average."
    calls: int


def recorded(inputs: Inputs, table: str, explainer: str | None = None) -> Recorded | None:
    """What the prompts of an asset took that the study made last, if they looked as they would now.

    Args:
        table: that of the asset in which the calls stand.
        explainer: whose rows count; all where None.
    """
    known = inputs.freshness.tokens_sent
    if (name := (inputs.asset.name, table, explainer)) not in known:
        known[name] = _recorded(inputs, table, explainer)
    found: Recorded | None = known[name]
    return found


def _recorded(inputs: Inputs, table: str, explainer: str | None) -> Recorded | None:
    freshness, study, asset = inputs.freshness, inputs.study, inputs.asset
    tokens = calls = read = 0
    for key in partitions_of(study, asset):
        made = freshness.current(asset.name, key)
        if made is None or table not in made.tables or not same_prompts(made.parts, asset.settings, explainer):
            continue
        examples = freshness.current("examples", key)
        if examples is not None and examples.parts["settings"]["examples"]["window"] != study.examples.window:
            continue
        rows = made.read(table, ["prompt_hash", "prompt_tokens", *(["explainer"] if explainer else [])])
        rows = rows.filter(pl.col("prompt_hash").is_not_null() & (pl.col("prompt_tokens") > 0))
        if explainer:
            rows = rows.filter(explainer=explainer)
        # Rows that share a call each name it; of a list of answers its tokens stand on the first.
        each = rows.group_by("prompt_hash").agg(pl.max("prompt_tokens"))
        tokens += int(each["prompt_tokens"].sum())
        calls += int((each["prompt_hash"].str.count_matches(" ") + 1).sum())
        read += len(each) > 0
        if read == PARTITIONS_READ:
            break
    return Recorded(tokens / calls, calls) if calls else None


def same_prompts(before: Mapping[str, Any], now: dict[str, Any], explainer: str | None) -> bool:
    """Whether prompts looked alike: how many are sent may differ."""

    def shape(settings: Mapping[str, Any]) -> Any:
        if explainer is not None:
            return without_counts(settings["explainers"].get(explainer)), settings.get("prompts")
        return without_counts(settings.get("scorer")), settings.get("prompts")

    return bool(shape(before["settings"]) == shape(now))


def without_counts(settings: Any) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    return {name: without_counts(value) for name, value in settings.items() if name not in COUNTS}


class Reckoned(NamedTuple):
    tokens: float
    "Of the prompt of one call."
    told: str
    "How that is known, in words."


def reckoned(
    inputs: Inputs,
    engine: str,
    prompts: Sequence[Request] | Callable[[Rendering, Random], Sequence[Request]],
    answered: Sequence[tuple[Request, int]],
    table: str,
    explainer: str | None,
    most: int = 0,
) -> Reckoned:
    """What the prompt of a call takes: as recorded of the same prompts, else as counted in some.

    Args:
        prompts: those that are to be sent, or how some like them are made up.
        answered: others of the same kind that are in the log, with the tokens that their prompts took.
        table, explainer: as for `recorded`.
        most: what one takes by its settings alone, where none can be made up.
    """
    step = f"{inputs.asset.name} by {explainer}" if explainer else inputs.asset.name
    answered = [(request, tokens) for request, tokens in answered if tokens > 0]
    if not callable(prompts) and answered:
        characters = sum(len(text_of(request)) for request, _ in answered)
        ratio = sum(tokens for _, tokens in answered) / max(1, characters)
        tokens = ratio * sum(len(text_of(request)) for request in prompts) / len(prompts)
        return Reckoned(tokens, f"{step} {tokens:,.0f}, by the {len(answered):,} answered calls")
    if found := recorded(inputs, table, explainer):
        return Reckoned(found.tokens, recorded_in_words(step, found))
    if callable(prompts):
        some = prompts(Rendering.of(inputs.study), Random(0))  # noqa: S311 no secret
    else:
        some = prompts[:: max(1, len(prompts) // SAMPLED)]
    if not some:
        return Reckoned(most, f"{step} at most {most:,}, by its settings")
    tokens = counted(inputs.study, engine, some) / len(some)
    kind = "made-up prompts" if callable(prompts) else "of its prompts"
    return Reckoned(tokens, f"{step} {tokens:,.0f}, by {len(some)} {kind}")


def recorded_or(inputs: Inputs, table: str, most: int) -> Reckoned:
    """As recorded, else what one takes by its settings alone."""
    step = f"{inputs.asset.name} ({table})"
    if found := recorded(inputs, table):
        return Reckoned(found.tokens, recorded_in_words(step, found))
    return Reckoned(most, f"{step} at most {most:,}, by its settings")


def recorded_in_words(step: str, found: Recorded) -> str:
    return f"{step} {found.tokens:,.0f}, as recorded of {found.calls:,} calls"


def counted(study: Study, engine: str, requests: Sequence[Request]) -> int:
    """The prompt tokens of requests: by the engine's own tokenizer, or where a server has it by that of the model under study."""
    settings, tokenizer = study.engines[engine], engine_tokenizer(study, engine)
    if tokenizer is not None:
        template = settings.chat_template if isinstance(settings, LocalModel) else {}
        return sum(count_tokens(tokenizer, request_texts(tokenizer, requests, template)))
    return sum(count_tokens(Rendering.of(study).tokenizer, [*map(text_of, requests)])) if requests else 0


def text_of(request: Request) -> str:
    if isinstance(request, LikelihoodRequest):
        return request.text + request.continuation
    return "\n".join(message.content for message in request.messages)
