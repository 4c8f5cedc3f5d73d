"""Windows as text for prompts, embedders and people; the one place where token ids become words."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from interp_assets.examples.characters import REPLACED, Cell, Characters
from interp_assets.study import Study
from resources.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<<", ">>"
HIDDEN = -1
"Stands among a window's tokens for one that is no part of its text."
SELECTORS = {chr(code) for code in range(0xFE00, 0xFE10)}
"Say how the character before is drawn, and print as nothing."
NAMES = {"\n": "line break", "\r": "carriage return", "\t": "tab", " ": "space"}


class Named(NamedTuple):
    """A stretch of a window's text, with the name under which it can be spoken of."""

    text: str
    name: str
    """The text without white space around it, quoted where a line ends in it; of what cannot be seen, and of bytes that
    are no character, what they are."""
    first: int
    last: int
    "Of its tokens, both included."


class Rendering:
    """Decodes windows of the subject model's tokens.

    The BOS that `corpus.bos` puts in front of a context is part of the input, not of the text. What else stands in a
    context is text, separators too, though their token be the same.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, bos: bool = True) -> None:
        self.tokenizer, self.bos = tokenizer, bos
        self._characters = Characters(tokenizer)

    @classmethod
    def of(cls, study: Study) -> Rendering:
        tokenizer = load_tokenizer(*study.model_at(study.subject_model.path, study.subject_model.revision))
        return cls(tokenizer, bool(study.corpus.bos))

    def text(self, tokens: Sequence[int]) -> str:
        return self._characters.decode(shown(tokens))

    def texts(self, windows: Sequence[Sequence[int]]) -> list[str]:
        return self._characters.decode_many([shown(window) for window in windows])

    def word(self, token: int) -> str:
        """The text that a token adds behind other text; a replacement sign where it is a part of a character."""
        # Many models have more rows of embeddings than their tokenizer has tokens.
        return self._characters.word(token) if token < self._size else f"<token {token}>"

    @cached_property
    def _size(self) -> int:
        return len(self.tokenizer)  # which takes milliseconds in vocabularies with many added tokens

    def output_name(self, token: int) -> str:
        """What a token would add to any text; the bytes that it would where they are no whole character."""
        word = self.word(token)
        part = self._characters.part(token) if REPLACED in word else None
        return word if part is None else f"<{hexadecimal(part)}>"

    def named(self, tokens: Sequence[int]) -> list[Named]:
        """What the tokens of a window stand for, in order; one that is not shown stands for nothing."""
        places = [place for place, token in enumerate(tokens) if token >= 0]
        ids = [tokens[place] for place in places]
        return [
            Named(cell.text, self._name(cell, ids), places[cell.first], places[cell.last])
            for cell in self._characters.cells(ids)
        ]

    def _name(self, cell: Cell, ids: Sequence[int]) -> str:
        text = cell.text.strip()
        if text == REPLACED:
            parts = [self._characters.part(token) for token in ids[cell.first : cell.last + 1]]
            return hexadecimal(b"".join(part for part in parts if part)) if all(parts) else text
        if is_blank(cell.text):
            return name_of_blank(cell.text)
        return json.dumps(cell.text.strip(" "), ensure_ascii=False) if SIGNS.search(cell.text) else text

    def token_names(self, tokens: Sequence[int]) -> list[str]:
        """A name for each token of a window: of a part of a character, which character; none for one that is not shown."""
        found = [""] * len(tokens)
        for each in self.named(tokens):
            name = each.name
            if each.first != each.last and REPLACED not in each.text:
                name = f"part of {json.dumps(each.name, ensure_ascii=False)}"
            for place in range(each.first, each.last + 1):
                found[place] = found[place] or name
        return found

    def with_marks(self, tokens: Sequence[int], marks: Sequence[bool]) -> str:
        """The text with marked tokens <<like this>>; neighbouring marked tokens share one pair of signs.

        Without the signs it is the text. Of a character that several tokens are, all of it is marked.
        """
        return with_signs(*self._cut(tokens, marks))

    def marked_characters(self, tokens: Sequence[int], marks: Sequence[bool]) -> list[tuple[int, int]]:
        """Where in the text what is marked begins, and behind which character it ends; in order."""
        outside, inside = self._cut(tokens, marks)
        found, end = list[tuple[int, int]](), 0
        for before, text in zip(outside, inside, strict=False):
            begin = end + len(before)
            end = begin + len(text)
            found.append((begin, end))
        return found

    def line(self, tokens: Sequence[int], marks: Sequence[bool] | None = None, blanks: bool = False) -> str:
        """The same on one line, for prompts. White space is one space, but line breaks and tabs that are marked are written
        as \\n and \\t, and where nothing else is marked, all of it stands there.

        Args:
            blanks: white space that is not marked is written out too.
        """
        outside, inside = self._cut(tokens, marks or [False] * len(tokens))
        outside = [SIGNS.sub(in_json, text) if blanks else re.sub(r"\s+", " ", text) for text in outside]
        return with_signs(outside, [escaped(text) for text in inside]).strip()

    def marked_stretches(self, tokens: Sequence[int], marks: Sequence[bool]) -> list[str]:
        """What stands between the signs of `line`."""
        return [escaped(text) for text in self._cut(tokens, marks)[1]]

    def _cut(self, tokens: Sequence[int], marks: Sequence[bool]) -> tuple[list[str], list[str]]:
        """The text, cut where marks begin and end: what stands before, between and behind them, and what is marked.

        Spaces at the beginning of a mark stand before it.
        """
        pairs = [(token, bool(mark)) for token, mark in zip(tokens, marks, strict=True) if token >= 0]
        ids, on = [token for token, _ in pairs], [mark for _, mark in pairs]
        text = self._characters.decode(ids)
        outside, inside = [""], list[str]()
        if not any(on):
            return [text], inside
        cells = self._characters.cells(ids)
        flags = [any(on[cell.first : cell.last + 1]) for cell in cells]
        firsts = [place for place, flag in enumerate(flags) if place == 0 or flag != flags[place - 1]]
        begins = self._characters.begins(ids, text, cells, firsts)
        for place, begin, end in zip(firsts, [0, *begins[1:]], [*begins[1:], len(text)], strict=True):
            run = text[begin:end]
            inner = run.lstrip(" ") or run
            outside[-1] += run[: len(run) - len(inner)] if flags[place] else run
            if flags[place]:
                inside.append(inner)
                outside.append("")
        return outside, inside

    def marked(self, tokens: Sequence[int], activations: Sequence[float], threshold: float) -> str:
        return self.line(tokens, marks_of(activations, threshold))

    def window(self, tokens: Sequence[int], start: int) -> list[int]:
        """A window's tokens as they are shown.

        Args:
            start: where in its context it begins.
        """
        return as_shown(tokens, start, self.bos)


def with_signs(outside: Sequence[str], inside: Sequence[str]) -> str:
    return "".join(f"{before}{OPEN}{text}{CLOSE}" for before, text in zip(outside, inside, strict=False)) + outside[-1]


def as_shown(tokens: Sequence[int], start: int, bos: bool) -> list[int]:
    """A window's tokens, HIDDEN in place of the BOS where its context begins with one."""
    return [HIDDEN, *tokens[1:]] if bos and start == 0 else [*tokens]


def shown(tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if token >= 0]


def marks_of(activations: Sequence[float], threshold: float) -> list[bool]:
    """Tokens above a share of the window's maximum."""
    limit = threshold * max(activations)
    return [value > 0 and value >= limit for value in activations]


def hexadecimal(data: bytes) -> str:
    return f"bytes {data.hex(' ').upper()}"


def is_blank(text: str) -> bool:
    """Whether nothing of it can be seen."""
    return all(sign.isspace() or not sign.isprintable() or sign in SELECTORS for sign in text)


def name_of_blank(text: str) -> str:
    """What cannot be seen, quoted and named: `"\\n\\n" (2 line breaks)`."""
    counted = []
    for sign, group in groupby(text):
        name = NAMES.get(sign) or unicodedata.name(sign, f"U+{ord(sign):04X}").lower()
        count = len([*group])
        counted.append(name if count == 1 else f"{count} {name}s")
    return f"{json.dumps(text)} ({' and '.join(counted)})" if text else ""


def escaped(text: str) -> str:
    """Marked text on one line, line breaks and tabs as in JSON; other white space is one space, or all there is."""
    if is_blank(text):
        return json.dumps(text)[1:-1]
    return SIGNS.sub(in_json, re.sub(r"[^\S\n\r\t]+", " ", text))


SIGNS = re.compile(r"[\n\r\t]")


def in_json(sign: re.Match[str]) -> str:
    return json.dumps(sign[0])[1:-1]
