"""What explainers and scorers ask of a language model, whichever runs it: three verbs and declared capabilities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from resources.errors import UnusableInput

Capability = Literal["generate", "choose", "log_likelihood"]


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class GenerateRequest:
    """Ask for text."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    draw: int = 0
    "Tells apart several samples of one prompt; each has its own seed."


@dataclass(frozen=True)
class ChooseRequest:
    """Ask for the log-probability of each choice as the reply.

    Requests of one group (of one latent, say) share a long beginning; engines compute it once.
    """

    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class LikelihoodRequest:
    """Ask for log p(continuation | text), plain text without a chat format."""

    text: str
    continuation: str
    group: str = ""


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    cached_tokens: int
    "How many of the prompt's tokens did not have to be computed."
    completion_tokens: int


@dataclass(frozen=True)
class Generated:
    text: str
    finished: bool
    "False where the reply was cut off at max_tokens."
    usage: Usage


@dataclass(frozen=True)
class Chosen:
    log_probabilities: tuple[float, ...]
    "One for each choice, in nats; not normalised over the choices."
    usage: Usage


@dataclass(frozen=True)
class Likelihood:
    log_probability: float
    "Sum over the continuation's tokens, in nats."
    tokens: int
    usage: Usage


Advance = Callable[[int], None]
"Told how many more requests have been answered."


def silent(answered: int) -> None:
    """An `Advance` that tells nobody."""


class LanguageModel(Protocol):
    """An engine. Replies come in the order of the requests."""

    name: str
    capabilities: frozenset[Capability]

    def generate(self, requests: Sequence[GenerateRequest], advance: Advance = silent) -> list[Generated]: ...

    def choose(self, requests: Sequence[ChooseRequest], advance: Advance = silent) -> list[Chosen]: ...

    def log_likelihood(self, requests: Sequence[LikelihoodRequest], advance: Advance = silent) -> list[Likelihood]: ...

    def close(self) -> None: ...


def require(model: LanguageModel, capability: Capability, purpose: str) -> None:
    """
    Raises:
        UnusableInput: before anything is run, naming the engine and what it can do.
    """
    if capability not in model.capabilities:
        can = ", ".join(sorted(model.capabilities))
        raise UnusableInput(f"{purpose} needs an engine that can {capability}; {model.name} can: {can}")


def message_hash(messages: Sequence[Message]) -> str:
    """A short name for a prompt, the same wherever it is asked."""
    content = json.dumps([[message.role, message.content] for message in messages])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
