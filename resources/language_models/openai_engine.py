"""A language model behind any server that speaks OpenAI's HTTP interface: vLLM, llama.cpp, a router, a hosted one.

What the server can do is found out with a few small requests when the engine is made (`server_probe`), which fields it
takes by its refusals, then and later (`accepted_fields`).
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from resources.errors import NotNow
from resources.language_models.accepted_fields import OUTPUT_LIMIT, Accepted
from resources.language_models.attempt import Call
from resources.language_models.logged import VERBS
from resources.language_models.openai_fields import form_fields
from resources.language_models.openai_replies import likeliest, said, usage_of
from resources.language_models.protocol import (
    FORMS,
    Capability,
    ChooseRequest,
    Chosen,
    Form,
    Generated,
    GenerateRequest,
    Likelihood,
    LikelihoodRequest,
    Message,
    Usage,
    paragraphs,
    silent,
    why_not,
    without_system_role,
)
from resources.language_models.server import Server
from resources.language_models.server_errors import Refused
from resources.language_models.server_probe import look
from resources.language_models.weighing import weighing

CODE_VERSION = "2"
"Raise it, here and in `protocol.CODE_VERSIONS`, when the same request gets another reply."

Reply = TypeVar("Reply", Generated, Chosen, Likelihood)
NOTHING = Usage(0, 0, 0)


class OpenAIEngine:
    def __init__(
        self,
        base_url: str,
        model: str,
        key: str | None = None,
        identity: Any = None,
        concurrency: int = 64,
        timeout_seconds: float = 600,
        wait_seconds: float = 600,
        request: Mapping[str, Any] | None = None,
        must_be_up: bool = False,
    ) -> None:
        """
        Args:
            base_url: up to and with the version, as in https://api.openai.com/v1.
            key: sent to the server and shown nowhere.
            identity: what decides the replies, as plain JSON values; the address is no part of it.
            concurrency: most requests in flight.
            timeout_seconds: longest time to one reply.
            wait_seconds: how long a server that answers nothing is waited for.
            request: further fields of each request; the engine's own come before them.
            must_be_up: a server that cannot even be reached is not waited for.

        Raises:
            NotNow: the server does not answer, does not take the key or does not know the model.
        """
        self.name = model
        self.identity = {"kind": "openai", "model": model} if identity is None else identity
        self.server = Server(base_url, key, concurrency, timeout_seconds, wait_seconds, must_be_up)
        self.accepted = Accepted()
        self.chat = True
        self.before: int | None = None
        "How many tokens the server puts before any text; None where it gives no prompt back."
        self._request = dict(request or {})
        self.forms: frozenset[Form] = FORMS  # asked for until it is known which the server holds to
        self.lacks: dict[Capability, str] = {}
        "Why it cannot do what it cannot, mostly in the server's words."
        look(self)
        self.capabilities: frozenset[Capability] = frozenset(VERBS.values()) - set(self.lacks)

    @property
    def retries(self) -> int:
        return self.server.retries

    def close(self) -> None:
        """Connections live no longer than a call."""

    # --- the three verbs ---

    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]:
        return self._all(
            requests, "generate", self.generating, lambda _, why: Generated("", False, NOTHING, why), arrived
        )

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        """A choice that is not among the likeliest first tokens gets the most that it can have; see `Listed`."""

        def refused(request: ChooseRequest, why: str) -> Chosen:
            return Chosen((-math.inf,) * len(request.choices), NOTHING, why)

        return self._all(requests, "choose", self.choosing, refused, arrived)

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        """A token that reaches over the boundary belongs to the continuation."""
        return self._all(
            requests,
            "log_likelihood",
            partial(weighing, self),
            lambda _, why: Likelihood(-math.inf, 0, NOTHING, why),
            arrived,
        )

    def _all(
        self,
        requests: Sequence[Any],
        capability: Capability,
        call: Callable[[Any], Call],
        refused: Callable[[Any, str], Reply],
        arrived: Callable[[int, Reply], None],
    ) -> list[Reply]:
        if capability not in self.capabilities:
            can = ", ".join(sorted(self.capabilities))
            raise NotNow(
                f"{self.server.base_url}: {self.name} cannot {capability} there; it can: {can}{why_not(self, capability)}"
            )
        replies: list[Any] = [None] * len(requests)

        def keep(place: int, reply: Any) -> None:
            replies[place] = refused(requests[place], reply.reason) if isinstance(reply, Refused) else reply
            arrived(place, replies[place])

        self.server.ask_all(map(call, requests), keep)
        return replies

    # --- requests and replies ---

    def ask(self, call: Call) -> Any:
        """The reply to one request, or Refused."""
        return self.server.ask(call)

    def call(self, make: Callable[[Accepted], Call], accepted: Accepted | None = None) -> Call:
        """A request that is put otherwise, and asked again, where the server does not take its fields.

        Args:
            make: puts the request with the fields that are accepted.
            accepted: what is tried; what is known to be accepted when left out.
        """
        trying = self.accepted if accepted is None else accepted
        call = make(trying)

        def read(body: Any) -> Any:
            reply = call.read(body)
            self._learn(trying)
            return reply

        def otherwise(refused: Refused) -> Any:
            changed = trying.after(refused, call.content)
            return call.otherwise(refused) if changed is None else self.call(make, changed.with_also(self.accepted))

        return call._replace(read=read, otherwise=otherwise)

    def _learn(self, accepted: Accepted) -> None:
        if "temperature" in accepted.left_out - self.accepted.left_out:
            said = "takes no temperature but its own: asked again, it may reply otherwise"
            print(f"{'note':8} {self.server.base_url}: {self.name} {said}", file=sys.stderr, flush=True)
        self.accepted = accepted.with_also(self.accepted)

    def _prompt(
        self,
        accepted: Accepted,
        messages: Sequence[Message],
        limit: int,
        settings: dict[str, Any],
        read: Callable[[Any], Any],
    ) -> Call:
        limit = max(limit, accepted.least_tokens)
        if self.chat:
            messages = messages if accepted.system_role else without_system_role(messages)
            asked = [{"role": message.role, "content": message.content} for message in messages]
            return self.put("chat/completions", accepted, {accepted.limit: limit, "messages": asked} | settings, read)
        return self.put("completions", accepted, {"max_tokens": limit, "prompt": paragraphs(messages)} | settings, read)

    def put(self, path: str, accepted: Accepted, fields: dict[str, Any], read: Callable[[Any], Any]) -> Call:
        mine = {name: value for name, value in fields.items() if name not in accepted.left_out}
        return Call(path, {**self._request, "model": self.name, **mine}, read)

    def generating(self, request: GenerateRequest) -> Call:
        settings: dict[str, Any] = {"temperature": request.temperature}
        if request.temperature > 0:
            digest = hashlib.sha256(repr((request.messages, request.draw)).encode()).digest()
            # Servers may have other values of their own for a model, and some take no seed beyond 31 bits.
            settings |= {"top_p": 1, "seed": int.from_bytes(digest[:4], "big") >> 1}
        if request.constraint is not None and request.constraint.form in self.forms:
            settings |= form_fields(request.constraint)

        def read(body: Any) -> Generated:
            reply = said(body, self.chat)
            return Generated(reply.text, reply.finished, usage_of(body, request.messages, reply.text), reply.refused)

        def otherwise(refused: Refused) -> Generated | None:
            """Some servers refuse, at the end, what others cut off."""
            return Generated("", False, NOTHING) if OUTPUT_LIMIT.search(refused.reason) else None

        def make(accepted: Accepted) -> Call:
            call = self._prompt(accepted, request.messages, request.max_tokens, settings, read)
            return call._replace(otherwise=otherwise)

        return self.call(make)

    def choosing(self, request: ChooseRequest) -> Call:
        def read(body: Any) -> Chosen:
            return Chosen(likeliest(body).log_probabilities(request.choices), usage_of(body, request.messages, ""))

        return self.listing(request.messages, read)

    def listing(self, messages: Sequence[Message], read: Callable[[Any], Any]) -> Call:
        """A request for the likeliest first tokens."""

        def make(accepted: Accepted) -> Call:
            # Not temperature 0: some servers tell the probabilities that they draw from.
            settings: dict[str, Any] = {"temperature": 1, "top_p": 1}
            settings |= {"logprobs": True, "top_logprobs": accepted.top} if self.chat else {"logprobs": accepted.top}
            return self._prompt(accepted, messages, 1, settings, read)

        return self.call(make)
