"""An engine behind the reply log: what was ever answered is not asked again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from resources.language_models.protocol import (
    NOT_ASKED,
    Capability,
    ChooseRequest,
    Chosen,
    EnoughSpent,
    Form,
    Generated,
    GenerateRequest,
    LanguageModel,
    Likelihood,
    LikelihoodRequest,
    Request,
    Usage,
    silent,
)
from resources.reply_log import LoggedReply, ReplyLog, Spent

Reply = TypeVar("Reply", Generated, Chosen, Likelihood)

VERBS: dict[type[Request], Capability] = {
    GenerateRequest: "generate",
    ChooseRequest: "choose",
    LikelihoodRequest: "log_likelihood",
}


def request_key(identity: Any, request: Request) -> bytes:
    """The key of a request in the log: 16 bytes of a hash of the engine's identity, the verb and all that is asked.

    What decides only how replies are computed together is left out, and so is what a request leaves at None.
    """
    asked = {
        field.name: value
        for field in fields(request)
        if field.name not in ("group", "shared") and (value := getattr(request, field.name)) is not None
    }
    if isinstance(request, GenerateRequest):
        asked["temperature"] = float(request.temperature)  # 0 and 0.0 ask the same
    content = json.dumps([identity, VERBS[type(request)], asked], sort_keys=True, separators=(",", ":"), default=vars)
    return hashlib.sha256(content.encode()).digest()[:16]


class LoggedEngine:
    """Answers from the log, and asks the engine only for what is not there. Counts what it did."""

    def __init__(
        self,
        load: Callable[[], LanguageModel],
        identity: Any,
        log: ReplyLog,
        study: str,
        name: str | None = None,
        capabilities: frozenset[Capability] | None = None,
        why_no_more: Callable[[], str | None] = lambda: None,
    ) -> None:
        """
        Args:
            load: hands out the engine. Called whenever a reply is missing, so that the engine can be released in
                between; it should keep what it has loaded.
            identity: what decides the engine's replies; see `LanguageModel`.
            study: who pays for what is missing.
            name, capabilities: the engine's; where they are left out, asking for them loads it.
            why_no_more: asked before and after each call; once it gives a reason, what is not in the log is
                answered with `refused` NOT_ASKED.
        """
        self.load = load
        self.identity = identity
        self.log = log
        self.study = study
        self._name = name
        self._capabilities = capabilities
        self._why_no_more = why_no_more
        self.made = Spent()
        "The calls that were made, and their tokens."
        self.replies_reused = 0
        self.refused = 0
        "Requests that the engine could not answer."
        self.retries = 0
        "Requests that it had to send again."
        self.seconds = 0.0
        "In which it was asked."

    @property
    def name(self) -> str:
        return self._name if self._name is not None else self.load().name

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._capabilities if self._capabilities is not None else self.load().capabilities

    @property
    def forms(self) -> frozenset[Form]:
        return self.load().forms

    @property
    def calls_made(self) -> int:
        return self.made.calls

    def close(self) -> None:
        """Neither the engine nor the log belongs to this object."""

    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]:
        return self._answer(requests, Generated, lambda model: model.generate, arrived)

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        return self._answer(requests, Chosen, lambda model: model.choose, arrived)

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        return self._answer(requests, Likelihood, lambda model: model.log_likelihood, arrived)

    def _answer(
        self,
        requests: Sequence[Request],
        kind: type[Reply],
        verb: Callable[[LanguageModel], Callable[..., list[Reply]]],
        arrived: Callable[[int, Reply], None],
    ) -> list[Reply]:
        keys = [request_key(self.identity, request) for request in requests]
        logged = self.log.look_up(keys)
        replies: list[Reply | None] = [None] * len(requests)
        missing: dict[bytes, list[int]] = {}

        def hand_over(place: int, reply: Reply) -> None:
            replies[place] = reply
            self.replies_reused += reply.usage.reused
            arrived(place, reply)

        for place, key in enumerate(keys):
            if key in logged:
                hand_over(place, decoded(logged[key], kind))
            else:
                missing.setdefault(key, []).append(place)
        if missing and not self._why_no_more():
            model = self.load()
            name = self._name or model.name
            before, sent_again, began = (self.retries, self.seconds), model.retries, time.monotonic()
            new = list(missing)

            def keep(index: int, reply: Reply) -> None:
                key, usage = new[index], reply.usage
                cost = Spent(1, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
                if reply.refused is None:
                    self.log.append(self.study, name, key, encoded(reply), *cost[1:])
                self.made = Spent(*map(sum, zip(self.made, cost, strict=True)))
                self.refused += reply.refused is not None
                self.retries, self.seconds = (
                    before[0] + model.retries - sent_again,
                    before[1] + time.monotonic() - began,
                )
                for place in missing[key]:
                    again = place != missing[key][0]
                    hand_over(place, replace(reply, usage=replace(usage, reused=True)) if again else reply)
                if why := self._why_no_more():
                    raise EnoughSpent(why)

            with contextlib.suppress(EnoughSpent):
                verb(model)([requests[places[0]] for places in missing.values()], keep)
        for place, reply in enumerate(replies):
            if reply is None:
                hand_over(place, cast(Reply, not_asked(requests[place])))
        return cast(list[Reply], replies)


def not_asked(request: Request) -> Generated | Chosen | Likelihood:
    nothing = Usage(0, 0, 0)
    if isinstance(request, GenerateRequest):
        return Generated("", True, nothing, NOT_ASKED)
    if isinstance(request, ChooseRequest):
        return Chosen((-math.inf,) * len(request.choices), nothing, NOT_ASKED)
    return Likelihood(-math.inf, 0, nothing, NOT_ASKED)


def encoded(reply: Generated | Chosen | Likelihood) -> str:
    """A reply without its usage as JSON, never one that was refused; Python reads every float, infinities and NaN back as it was."""
    content = {
        field.name: getattr(reply, field.name) for field in fields(reply) if field.name not in ("usage", "refused")
    }
    return json.dumps(content, separators=(",", ":"))


def decoded(entry: LoggedReply, kind: type[Reply]) -> Reply:
    content = json.loads(entry.reply)
    if kind is Chosen:
        content["log_probabilities"] = tuple(content["log_probabilities"])
    return kind(**content, usage=Usage(*entry[1:], reused=True))
