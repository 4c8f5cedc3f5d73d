"""Token ids of chat prompts in which the template alone makes control tokens, whatever the contents spell.

A corpus holds `<|im_end|>` and `<s>` as text. In a prompt they would end a judge's turn or begin a text anew. So where
contents spell control tokens, the template's own are replaced by stand-ins, and nothing else is taken for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from resources.control_tokens import control_ids, respelt_tokenizer
from resources.language_models.protocol import Message
from resources.tokenizers import chat_text

Ids = list[int]
BEGIN, END = "\ue0f2", "\ue0f3"
"Around the number of what a stand-in stands for; for private use in Unicode, so that no text holds them."


class ChatTokens:
    def __init__(self, tokenizer: Any, chat_template: Mapping[str, Any]) -> None:
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self._control_tokens = control_tokens(tokenizer)
        self._controls: dict[tuple[str, ...], int] = {}
        self._ends: dict[tuple[str, ...], str] = {}

    def text(self, messages: Sequence[Message]) -> str:
        return chat_text(self.tokenizer, messages, self.chat_template)

    def ids(self, messages: Sequence[Message]) -> Ids:
        text = self.text(messages)
        ids: Ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        roles = tuple(message.role for message in messages)
        if roles not in self._controls:
            plain = [Message(message.role, "a") for message in messages]
            self._controls[roles] = self._count(self.tokenizer(self.text(plain), add_special_tokens=False)["input_ids"])
        if self._count(ids) == self._controls[roles] or not any(self._spelt_in(m.content) for m in messages):
            return ids
        literals = self._literals(messages)
        parts = between(text, literals, [message.content for message in messages])
        if parts is not None and self._twin is not None and BEGIN not in text:
            for number, token in self._control_tokens.items():
                literals = [literal.replace(token, stand_in(number)) for literal in literals]
            whole = "".join(piece for pair in zip(literals, [*parts, ""], strict=True) for piece in pair)
            ids = self._twin.encode(whole).ids
            if self._count(ids) == self._controls[roles]:
                return ids
        # The template rewrites contents, or this tokenizer's words are control tokens too: a space breaks them up.
        broken = [Message(message.role, self._broken(message.content)) for message in messages]
        return self.tokenizer(self.text(broken), add_special_tokens=False)["input_ids"]

    def end(self, messages: Sequence[Message]) -> str:
        """What the template writes behind the last content."""
        roles = tuple(message.role for message in messages)
        if roles not in self._ends:
            self._ends[roles] = self._literals(messages)[-1]
        return self._ends[roles]

    def _count(self, ids: Ids) -> int:
        return sum(number in self._control_tokens for number in ids)

    def _spelt_in(self, content: str) -> bool:
        return any(token in content for token in self._control_tokens.values())

    def _broken(self, content: str) -> str:
        for token in self._control_tokens.values():
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content

    def _literals(self, messages: Sequence[Message]) -> list[str]:
        """What the template writes before, between and behind the contents."""
        marks = [f"{BEGIN}{i}{END}" for i in range(len(messages))]
        rest, literals = self.text([Message(m.role, mark) for m, mark in zip(messages, marks, strict=True)]), []
        for mark in marks:
            literal, _, rest = rest.partition(mark)
            literals.append(literal)
        return [*literals, rest]

    @cached_property
    def _twin(self) -> Tokenizer | None:
        """The tokenizer with stand-ins in place of its control tokens; None of one that is not of `tokenizers`."""
        if not self.tokenizer.is_fast:
            return None
        spellings = {token: stand_in(number) for number, token in self._control_tokens.items()}
        return respelt_tokenizer(self.tokenizer, spellings)


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens that mean something to the model beside what they spell, by id; longest first, so that none is taken
    for a part of another.

    Those are a tokenizer's special tokens, and added ones that are not called special but that its chat template
    writes, such as `<think>`.
    """
    template = str(tokenizer.chat_template)
    controls = {number: str(tokenizer.convert_ids_to_tokens(number)) for number in control_ids(tokenizer)}
    for number, token in tokenizer.added_tokens_decoder.items():
        text = token.content
        if text in template and text.strip() and not text.strip().isalnum():
            controls[number] = text
    return dict(sorted(controls.items(), key=lambda item: (-len(item[1]), item[1])))


def stand_in(number: int) -> str:
    return f"{BEGIN}{number}{END}"


def between(text: str, literals: Sequence[str], contents: Sequence[str]) -> list[str] | None:
    """The contents as they stand in a text between literals: as they are, or stripped; None where they do not."""
    parts: list[str] = []
    place = len(literals[0])
    if not text.startswith(literals[0]):
        return None
    for content, literal in zip(contents, literals[1:], strict=True):
        for part in (content, content.strip(), content.lstrip(), content.rstrip()):
            if text.startswith(part + literal, place):
                break
        else:
            return None
        parts.append(part)
        place += len(part) + len(literal)
    return parts if place == len(text) else None
