"""How a prompt begins: instructions, then questions with their answers, in one of two layouts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from interp_assets.settings import Layout
from resources.language_models.protocol import Message

DEFAULT_LAYOUT: Layout = "turns"
ANSWER = "Answer:"
"Before the answer of a worked example that stands in the system message."


def beginning(instructions: str, examples: Iterable[tuple[str, str]], layout: Layout) -> tuple[Message, ...]:
    """What stands before a question.

    Args:
        examples: questions and answers.
    """
    if layout == "turns":
        turns = [(Message("user", question), Message("assistant", answer)) for question, answer in examples]
        return Message("system", instructions), *(message for pair in turns for message in pair)
    worked = [f"{question}\n{ANSWER} {answer}" for question, answer in examples]
    return (Message("system", "\n\n".join([instructions, *worked])),)


def as_text(messages: Sequence[Message]) -> str:
    """Messages with their roles, as a fingerprint reads them."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)
