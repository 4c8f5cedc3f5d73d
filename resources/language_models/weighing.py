"""How probable a continuation is, by a server that gives a prompt's tokens back (`echo`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resources.language_models.accepted_fields import Accepted
from resources.language_models.attempt import Call
from resources.language_models.echoed import Echo, NotEchoed, begins_alike, read_echo
from resources.language_models.openai_replies import usage_of
from resources.language_models.protocol import Likelihood, LikelihoodRequest, Message, Usage
from resources.language_models.server_errors import Refused

if TYPE_CHECKING:
    from resources.language_models.openai_engine import OpenAIEngine


def weighing(engine: OpenAIEngine, request: LikelihoodRequest) -> Call:
    """A request for log p(continuation | text), read by tokens; a second one for the text alone where one does not tell."""

    def read(body: Any) -> Any:
        usage = usage_of(body, (Message("user", request.text + request.continuation),), "")
        try:
            echo = read_echo(body, request.text, request.continuation, engine.before)
        except NotEchoed as error:
            return Refused(200, f"the server does not answer what was asked: {error}")
        if echo.first == echo.last:
            return behind(echo, echo.first, usage)
        # The boundary lies where tokens show parts of characters only: the text's own tokens are counted.
        return echoing(engine, request.text, lambda text: counted(text, echo, usage))

    def counted(body: Any, echo: Echo, usage: Usage) -> Likelihood | Refused:
        also = usage_of(body, (Message("user", request.text),), "")
        cached = usage.cached_tokens + also.cached_tokens
        usage = Usage(
            usage.prompt_tokens + also.prompt_tokens, cached, usage.completion_tokens + also.completion_tokens
        )
        try:
            text = read_echo(body, request.text, "", engine.before)
        except NotEchoed as error:
            return Refused(200, f"the server does not answer what was asked: {error}")
        if begins_alike(echo, text):
            return behind(echo, len(text.tokens), usage)
        return Refused(200, "the server's tokens do not tell where the continuation begins")

    return echoing(engine, request.text + request.continuation, read)


def echoing(engine: OpenAIEngine, text: str, read: Callable[[Any], Any]) -> Call:
    """A request for the log-probabilities of a text's tokens."""

    def make(accepted: Accepted) -> Call:
        # One token more than is needed: some servers take no max_tokens of 0.
        settings = {
            "prompt": text,
            "max_tokens": accepted.least_tokens,
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
        }
        return engine.put("completions", accepted, settings, read)

    return engine.call(make)


def behind(echo: Echo, place: int, usage: Usage) -> Likelihood | Refused:
    values = echo.log_probabilities[place:]
    if None in values:
        return Refused(200, "the server gives the first token of a text no probability, and nothing stands before it")
    return Likelihood(sum(value for value in values if value is not None), len(values), usage)
