"""Token ids of chat prompts in which the template alone makes control tokens, whatever the contents spell.

A corpus holds `<|im_end|>` and `<s>` as text. In a prompt they would end a judge's turn or begin a text anew. So where
contents spell special tokens, the template's own are replaced by stand-ins, and nothing else is taken for a special token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer

from resources.language_models.protocol import Message
from resources.tokenizers import chat_text

Ids = list[int]
BEGIN, END = "\ue0f2", "\ue0f3"
"Around the number of what a stand-in stands for; for private use in Unicode, so that no text holds them."


class ChatTokens:
    def __init__(self, tokenizer: Any, chat_template: Mapping[str, Any]) -> None:
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self._special_ids = frozenset(tokenizer.all_special_ids) | {
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }
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
        if parts is None or self._twin is None or BEGIN in text:
            # The template rewrites contents, or this tokenizer cannot be told; a space keeps the token from being one.
            broken = [Message(message.role, self._broken(message.content)) for message in messages]
            return self.tokenizer(self.text(broken), add_special_tokens=False)["input_ids"]
        twin, stand_ins, numbers = self._twin
        for special, stand_in in stand_ins.items():
            literals = [literal.replace(special, stand_in) for literal in literals]
        whole = "".join(piece for pair in zip(literals, [*parts, ""], strict=True) for piece in pair)
        return [numbers.get(number, number) for number in twin.encode(whole, add_special_tokens=False).ids]

    def end(self, messages: Sequence[Message]) -> str:
        """What the template writes behind the last content."""
        roles = tuple(message.role for message in messages)
        if roles not in self._ends:
            self._ends[roles] = self._literals(messages)[-1]
        return self._ends[roles]

    def _count(self, ids: Ids) -> int:
        return sum(number in self._special_ids for number in ids)

    @cached_property
    def _specials(self) -> list[tuple[int, str]]:
        """Longest first, so that none is taken for a part of another."""
        named = zip(self._special_ids, self.tokenizer.convert_ids_to_tokens([*self._special_ids]), strict=True)
        return sorted(named, key=lambda pair: (-len(pair[1]), pair[1]))

    def _spelt_in(self, content: str) -> bool:
        return any(token in content for _, token in self._specials)

    def _broken(self, content: str) -> str:
        for _, token in self._specials:
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
    def _twin(self) -> tuple[Tokenizer, dict[str, str], dict[int | None, int]] | None:
        """The tokenizer with stand-ins for its special tokens, which it takes for text; None of one that is not in Rust."""
        if not self.tokenizer.is_fast:
            return None
        twin = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        twin.encode_special_tokens = True
        stand_ins: dict[str, str] = {}
        numbers: dict[int | None, int] = {}
        for number, token in self._specials:
            like = self.tokenizer.added_tokens_decoder.get(number) or AddedToken(token)
            stand_in = f"{BEGIN}{number}{END}"
            options = {name: getattr(like, name) for name in ("single_word", "lstrip", "rstrip")}
            twin.add_tokens([AddedToken(stand_in, special=False, normalized=False, **options)])
            stand_ins[token], numbers[twin.token_to_id(stand_in)] = stand_in, number
        return twin, stand_ins, numbers


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
