"""What explainers and scorers ask of a language model, whichever runs it: three verbs and declared capabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from resources.errors import UnusableInput

Capability = Literal["generate", "choose", "log_likelihood"]

CODE_VERSIONS = {"transformers": "3", "vllm": "2", "openai": "2"}
"""Of each kind of engine; part of its identity. Raise it when the same requests get other
replies. They stand here because the plan needs them without the engine and its libraries."""


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


def without_system_role(messages: Sequence[Message]) -> list[Message]:
    """The same for a model whose chat format has no system role: its text begins the first message of the user."""
    if not messages or messages[0].role != "system":
        return [*messages]
    first, *others = messages
    if others and others[0].role == "user":
        first = Message("user", f"{first.content}\n\n{others[0].content}")
        others = others[1:]
    return [Message("user", first.content), *others]


PARAGRAPHS_END = "\n\nAnswer:"
"Of a prompt for a model without a chat format. No space at its end: the reply's first token brings its own."


def paragraphs(messages: Sequence[Message]) -> str:
    """A prompt for a model without a chat format; what the assistant said stands where the reply is to stand."""
    said = [f"{'Answer: ' if message.role == 'assistant' else ''}{message.content}" for message in messages]
    return "\n\n".join(said) + PARAGRAPHS_END


Form = Literal["json_schema", "regex", "choice"]
FORMS: frozenset[Form] = frozenset({"json_schema", "regex", "choice"})


@dataclass(frozen=True)
class Constraint:
    """What form a reply has to have. An engine that knows the form allows no other; whoever asks checks all the same."""

    form: Form
    content: str | tuple[str, ...]
    "The schema as JSON text, the regular expression, or the choices."


@dataclass(frozen=True)
class GenerateRequest:
    """Ask for text."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    draw: int = 0
    "Tells apart several samples of one prompt; each has its own seed."
    constraint: Constraint | None = None


@dataclass(frozen=True)
class ChooseRequest:
    """Ask for the log-probability of each choice as the reply.

    Requests of one group (of one latent, say) share a long beginning; engines compute it once.
    """

    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    group: str = ""
    shared: int = 0
    "With how many characters of the last message every request of the group begins."


@dataclass(frozen=True)
class LikelihoodRequest:
    """Ask for log p(continuation | text), plain text without a chat format."""

    text: str
    continuation: str
    group: str = ""
    shared: int = 0
    "With how many characters of the text every request of the group begins."


Request = GenerateRequest | ChooseRequest | LikelihoodRequest


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    cached_tokens: int
    "How many of the prompt's tokens did not have to be computed."
    completion_tokens: int
    reused: bool = field(default=False, compare=False)
    "The reply was there already; the tokens are those that it cost when it was made."


@dataclass(frozen=True)
class Generated:
    text: str
    finished: bool
    "False where the reply was cut off at max_tokens."
    usage: Usage
    refused: str | None = None
    "Why there is no reply, where this one request cannot be answered. Such an outcome is not kept for others."


@dataclass(frozen=True)
class Chosen:
    log_probabilities: tuple[float, ...]
    "One for each choice, in nats; not normalised over the choices."
    usage: Usage
    refused: str | None = None


@dataclass(frozen=True)
class Likelihood:
    log_probability: float
    "Sum over the continuation's tokens, in nats."
    tokens: int
    usage: Usage
    refused: str | None = None


LEAST_MASS = 1e-5
"""Of all probability, what choices must have together to be an answer. Models that think first, or answer in a form of their
own, leave them some 1e-6 or nothing, and the odds of two such numbers mean nothing; the least that a model of 135M gave
choices that it was asked for is 3e-4."""

NOT_ASKED = "not asked: the budget was reached"
"What stands in `refused` where whoever pays wanted no more."


class EnoughSpent(Exception):
    """Raised by whoever is told of replies: no more is to be asked. What is in flight is awaited and handed over."""


def silent(index: int, reply: object) -> None:
    """Told that a reply has arrived, does nothing."""


class LanguageModel(Protocol):
    """An engine. It returns replies in the order of the requests, and hands over each as it arrives.

    `arrived` is called once for each request, with its index and its reply, in whatever order they are ready. Where a
    verb raises, the replies handed over until then are good. Where `arrived` raises EnoughSpent, the engine starts nothing
    more, hands over what it has begun if that costs anything, and raises it too.
    """

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    @property
    def forms(self) -> frozenset[Form]:
        """The forms of constraints that it holds replies to; others it leaves to whoever asks."""

    @property
    def retries(self) -> int:
        """How many requests it had to send again, since it was made."""

    @property
    def identity(self) -> Any:
        """What decides the replies, as plain JSON values: which model, by name and revision or by the content of its
        files, in which dtype, and the version of the code that asks it."""

    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]: ...

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]: ...

    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]: ...

    def close(self) -> None: ...


def require(model: LanguageModel, capability: Capability, purpose: str) -> None:
    """
    Raises:
        UnusableInput: before anything is run, naming the engine and what it can do.
    """
    if capability not in model.capabilities:
        can = ", ".join(sorted(model.capabilities))
        why = why_not(model, capability)
        raise UnusableInput(f"{purpose} needs an engine that can {capability}; {model.name} can: {can}{why}")


def why_not(model: LanguageModel, capability: Capability) -> str:
    """The end of a message: why an engine lacks a capability, where it says so in `lacks`."""
    why = getattr(model, "lacks", {}).get(capability)
    return f" ({capability}: {why})" if why else ""
