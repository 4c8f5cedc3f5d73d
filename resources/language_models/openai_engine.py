"""A language model behind any server that speaks OpenAI's HTTP interface: vLLM, llama.cpp, a router, a hosted one.

What the server can do is found out with a few small requests when the engine is made.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from resources.errors import NotNow
from resources.language_models.openai_fields import ODD, ODD_FORMS, form_fields, likeliest, paragraphs, usage_of
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
    silent,
    without_system_role,
)
from resources.language_models.server import NOT_FOR_US, SENSELESS, Call, Refused, Server

CODE_VERSION = "1"
"Raise it, here and in `protocol.CODE_VERSIONS`, when the same request gets another reply."

Reply = TypeVar("Reply", Generated, Chosen, Likelihood)

TOP = 20
"Most that OpenAI and, as it is set up, vLLM tell of the likeliest first tokens."
NOTHING = Usage(0, 0, 0)
QUESTION = (Message("user", "Is water wet? Answer Yes or No."),)
FIRST_QUESTION = (Message("system", "You answer in one word."), *QUESTION)
"With a system message, as nearly all prompts have one: there are chat formats without that role."


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
        self._request = dict(request or {})
        self._chat = self._system_role = True
        self._limit = "max_tokens"
        self.forms = FORMS  # asked for until it is known which the server holds to
        self.capabilities = self._look()
        self.forms = self._look_for_forms()

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
            requests, "generate", self._generating, lambda _, why: Generated("", False, NOTHING, why), arrived
        )

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        """A choice that is not among the 20 likeliest first tokens gets minus infinity, so one of several tokens too."""

        def refused(request: ChooseRequest, why: str) -> Chosen:
            return Chosen((-math.inf,) * len(request.choices), NOTHING, why)

        return self._all(requests, "choose", self._choosing, refused, arrived)

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        """A token that reaches over the boundary belongs to the continuation."""
        return self._all(
            requests, "log_likelihood", self._weighing, lambda _, why: Likelihood(-math.inf, 0, NOTHING, why), arrived
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
            raise NotNow(f"{self.server.base_url}: {self.name} cannot {capability} there; it can: {can}")
        replies: list[Any] = [None] * len(requests)

        def keep(place: int, reply: Any) -> None:
            replies[place] = refused(requests[place], reply.reason) if isinstance(reply, Refused) else reply
            arrived(place, replies[place])

        self.server.ask_all(map(call, requests), keep)
        return replies

    # --- what the server can do ---

    def _look(self) -> frozenset[Capability]:
        asking = GenerateRequest(FIRST_QUESTION, max_tokens=1)
        answer = self._adapted_to(asking)
        if isinstance(answer, Refused) and answer.status not in (401, 402, 403):
            self._chat = False
            if isinstance(self._server_answers(asking), Generated):
                answer = None
        if isinstance(answer, Refused):
            raise self.server.not_for_us(answer)
        self.server.probe = self._generating(asking)
        found: set[Capability] = {"generate"}
        choosing = self._choosing(ChooseRequest(QUESTION, ("Yes", "No")))
        if self._can(choosing._replace(read=lambda body: any(likeliest(body)))):
            found.add("choose")
        weighing = self._weighing(LikelihoodRequest("Water is", " wet"))
        if self._can(weighing._replace(read=lambda body: weighing.read(body).tokens > 0)):
            found.add("log_likelihood")
        return frozenset(found)

    def _adapted_to(self, asking: GenerateRequest) -> Any:
        """The server's answer once the request is put as this model takes it: each refusal may be for another reason."""
        answer = self._server_answers(asking)
        if not isinstance(answer, Refused) or answer.status in NOT_FOR_US:
            return answer
        if "max_completion_tokens" in answer.reason and self._limit == "max_tokens":
            self._limit = "max_completion_tokens"
        elif self._system_role:
            self._system_role = False
        else:
            return answer
        return self._adapted_to(asking)

    def _look_for_forms(self) -> frozenset[Form]:
        """The forms that it holds replies to, seen by answers that nobody would give by himself."""
        found: set[Form] = set()
        for constraint in ODD_FORMS:
            asking = self._generating(GenerateRequest(QUESTION, max_tokens=40, constraint=constraint))
            if self._can(asking._replace(read=lambda body: ODD in asking.read(body).text)):  # noqa: B023
                found.add(constraint.form)
        return frozenset(found)

    def _server_answers(self, request: GenerateRequest) -> Any:
        return self.server.ask(self._generating(request))

    def _can(self, call: Call) -> bool:
        """Whether a request gets what it is for: one that the server does not understand may be answered all the same."""

        def read(body: Any) -> bool:
            try:
                return call.read(body)
            except SENSELESS:
                return False

        # A senseless reply may be an accident, so a second one decides.
        replies = (self.server.ask(call._replace(read=read)) for _ in range(2))
        first = next(replies)
        return first is True or (first is False and next(replies) is True)

    # --- requests and replies ---

    def _call(
        self, messages: Sequence[Message], limit: int, settings: dict[str, Any], read: Callable[[Any], Any]
    ) -> Call:
        content: dict[str, Any] = {**self._request, "model": self.name, self._limit: limit, **settings}
        if self._chat:
            messages = messages if self._system_role else without_system_role(messages)
            content["messages"] = [{"role": message.role, "content": message.content} for message in messages]
            return Call("chat/completions", content, read)
        return Call("completions", content | {"prompt": paragraphs(messages)}, read)

    def _generating(self, request: GenerateRequest) -> Call:
        settings: dict[str, Any] = {"temperature": request.temperature}
        if request.temperature > 0:
            digest = hashlib.sha256(repr((request.messages, request.draw)).encode()).digest()
            # Servers may have other values of their own for a model, and some take no seed beyond 31 bits.
            settings |= {"top_p": 1, "seed": int.from_bytes(digest[:4], "big") >> 1}
        if request.constraint is not None and request.constraint.form in self.forms:
            settings |= form_fields(request.constraint)

        def read(body: Any) -> Generated:
            (choice, *_) = body["choices"]
            text = choice["message"]["content"] if self._chat else choice["text"]
            if not isinstance(text, str | None):
                raise TypeError("the reply is no text")
            filtered = choice.get("finish_reason") == "content_filter"
            return Generated(
                text or "",
                choice.get("finish_reason") != "length",
                usage_of(body, request.messages, text or ""),
                "the server's content filter stopped the reply" if filtered else None,
            )

        return self._call(request.messages, request.max_tokens, settings, read)

    def _choosing(self, request: ChooseRequest) -> Call:
        # Not temperature 0: some servers tell the probabilities that they draw from.
        settings: dict[str, Any] = {"temperature": 1, "top_p": 1}
        settings |= {"logprobs": True, "top_logprobs": TOP} if self._chat else {"logprobs": TOP}

        def read(body: Any) -> Chosen:
            found = dict.fromkeys(request.choices, -math.inf)
            for token, log_probability in likeliest(body):
                if (choice := token.strip()) in found:  # "Yes" and " Yes" are two tokens and one answer
                    found[choice] = float(np.logaddexp(found[choice], log_probability))
            return Chosen(tuple(found[choice] for choice in request.choices), usage_of(body, request.messages, ""))

        return self._call(request.messages, 1, settings, read)

    def _weighing(self, request: LikelihoodRequest) -> Call:
        whole = request.text + request.continuation
        # One token more than is needed: some servers take no max_tokens of 0.
        settings = {"prompt": whole, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}

        def read(body: Any) -> Likelihood:
            told = body["choices"][0]["logprobs"]
            tokens, offsets, log_probabilities = told["tokens"], told["text_offset"], told["token_logprobs"]
            # Some servers count a BOS token that the text does not have.
            before = max(0, "".join(tokens).find(whole))
            ends = [*offsets[1:], offsets[-1] + len(tokens[-1])]
            asked = [
                float(log_probabilities[i])
                for i in range(len(tokens))
                if ends[i] - before > len(request.text) and offsets[i] - before < len(whole)
            ]
            return Likelihood(sum(asked), len(asked), usage_of(body, (Message("user", whole),), ""))

        return Call("completions", {**self._request, "model": self.name, **settings}, read)
