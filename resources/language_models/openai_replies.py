"""What the bodies of OpenAI's interface say: texts in all their shapes, likeliest tokens, counts of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from resources.language_models.protocol import Message, Usage
from resources.language_models.token_pieces import as_text

CHARACTERS_PER_TOKEN = 3
"Few texts have fewer; stands in where a server does not count tokens."
ROUNDING = 1e-5
"By which probabilities in float32 add up to more or less than one."
CUT_OFF = {"length", "max_tokens", "model_length", "model_context_window_exceeded"}
FILTERED = {"content_filter", "sensitive"}
"Values of `finish_reason`."


class Said(NamedTuple):
    text: str
    finished: bool
    refused: str | None


def said(body: Any, chat: bool) -> Said:
    """The first reply in a body, without what a model thinks before it where the server keeps that apart."""
    (choice, *_) = body["choices"]
    why = choice.get("finish_reason")
    refused = "the server's content filter stopped the reply" if why in FILTERED else None
    if chat:
        message = choice["message"]
        text = text_of(message.get("content"))
        if not text and isinstance(message.get("refusal"), str):
            refused = refused or f"the model declines: {message['refusal']}"
    else:
        text = text_of(choice["text"])
    return Said(text, why not in CUT_OFF, refused)


def text_of(content: Any) -> str:
    """Plain text, or the text among parts of which others hold what the model thought."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") in ("text", "output_text"))
    if not isinstance(content, str | None):
        raise TypeError("the reply is no text")
    return content or ""


class Listed(NamedTuple):
    """What a server tells of the likeliest first tokens of a reply."""

    tokens: list[tuple[str, float]]
    "With log-probabilities, at least one."
    bound: float
    "The most that the log-probability of any other token can be."

    def mass(self, choice: str) -> float:
        """The probability of a choice as far as it is listed: of "Yes" and " Yes" together."""
        return math.fsum(math.exp(each) for token, each in self.tokens if token.strip() == choice)

    def log_probabilities(self, choices: Sequence[str]) -> tuple[float, ...]:
        """Of each choice.

        For a choice that is not listed its bound stands, which draws
        what is made of it towards even odds. Where no choice is listed, nothing is known: minus infinity.
        """
        masses = [self.mass(choice) for choice in choices]
        unknown = self.bound if any(masses) else -math.inf
        return tuple(math.log(mass) if mass else unknown for mass in masses)


def likeliest(body: Any) -> Listed:
    """
    Raises:
        KeyError, TypeError, ValueError, IndexError: it lists none.
    """
    told = body["choices"][0]["logprobs"]
    if "content" in told:
        first = told["content"][0]
        own = token_text(first)
        tokens = [(token_text(each), float(each["logprob"])) for each in first["top_logprobs"]]
    else:
        own = as_text(next(iter(told.get("tokens") or ()), ""))
        tokens = [(as_text(token), float(each)) for token, each in told["top_logprobs"][0].items()]
    if not tokens:
        raise ValueError("no likeliest tokens")
    falling = sorted(tokens, key=lambda each: -each[1])
    # Some servers list the token that was drawn in place of the last, however improbable it is.
    others = falling[:-1] if falling[-1][0] == own else falling
    rest = 1 - math.fsum(math.exp(log_probability) for _, log_probability in tokens)
    return Listed(tokens, min([each for _, each in others[-1:]] + [math.log(max(rest, ROUNDING))]))


def token_text(told: dict[str, Any]) -> str:
    """By its bytes where the server gives them: `token` may be a form for showing it."""
    raw = told.get("bytes")
    if raw and isinstance(raw, list):
        try:
            return as_text(bytes(raw).decode())
        except (ValueError, TypeError):
            pass
    return as_text(told["token"])


def usage_of(body: Any, messages: Sequence[Message], reply: str) -> Usage:
    """The server's own figures; estimates where it has none that can be."""
    told = body.get("usage") or {}
    details = told.get("prompt_tokens_details") or {}
    prompt = count(told.get("prompt_tokens"), tokens_at_most(sum(len(message.content) for message in messages)))
    cached = min(prompt, count(details.get("cached_tokens"), 0))
    return Usage(prompt, cached, count(told.get("completion_tokens"), tokens_at_most(len(reply))))


def count(told: Any, otherwise: int) -> int:
    return told if isinstance(told, int) and 0 <= told < 2**32 else otherwise


def tokens_at_most(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)
