"""Which characters of a text its tokens stand for, whatever the vocabulary: bytes, parts of words, words.

A token may be a part of a character: a vocabulary over bytes cuts an emoji into three. Decoded by itself such a token is
a replacement sign, and a text that ends or begins within a character may be decoded to nothing else. So the bytes of
such tokens are put together here, and everything else is decoded as the tokenizer does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACED = "\ufffd"
"What stands in a text for bytes that are no character."
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"How SentencePiece names the tokens of single bytes."


class Cell(NamedTuple):
    """The least text that tokens can be told to stand for: that of a token, or a character that several share."""

    text: str
    first: int
    last: int
    "Of its tokens, both included; a token over two characters is in two cells."
    run: int
    "Where its text is counted from: the first of the tokens, before which a character ends."
    offset: int
    "Characters from there."


class Characters:
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer
        self._words: dict[int, str] = {}
        self._parts: dict[int, bytes | None] = {}

    @cached_property
    def _anchor(self) -> tuple[list[int], str]:
        """A common token, as ids and as text."""
        ids = self.tokenizer("a", add_special_tokens=False)["input_ids"][-1:] or [0]
        return ids, self._decoded(ids)

    def word(self, token: int) -> str:
        """The text that a token adds behind other text. By itself it loses its leading space in some vocabularies."""
        if token not in self._words:
            ids, before = self._anchor
            self._words[token] = self._decoded([*ids, token]).removeprefix(before)
        return self._words[token]

    def part(self, token: int) -> bytes | None:
        """The bytes of a token that need not be whole characters; None of all others."""
        if token not in self._parts:
            spelt = self.tokenizer.convert_ids_to_tokens(token)
            data = bytes_of(spelt) if isinstance(spelt, str) else None
            # Only what is decoded so is spelt in bytes: other vocabularies have such letters too.
            in_bytes = data is not None and data.decode(errors="replace") == self.word(token)
            self._parts[token] = data if in_bytes else None
        return self._parts[token]

    def decode(self, ids: Sequence[int]) -> str:
        text = self._decoded(ids)
        return self.mended(ids, text) if REPLACED in text else text

    def decode_many(self, windows: Sequence[Sequence[int]]) -> list[str]:
        if not windows:
            return []
        texts = self.tokenizer.batch_decode(windows, clean_up_tokenization_spaces=False)
        for place, text in enumerate(texts):
            if REPLACED in text:
                texts[place] = self.mended(windows[place], text)
        return list(texts)

    def _decoded(self, ids: Sequence[int]) -> str:
        # What cleaning up takes away are spaces of the text.
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def mended(self, ids: Sequence[int], decoded: str) -> str:
        """Decoded text with all whole characters in it: beside a cut one, byte-fallback vocabularies lose the others."""
        text, behind = "", 0
        for first, last in self._runs(ids):
            before, run = self._decoded(ids[:first]), b"".join(self.part(token) or b"" for token in ids[first:last])
            text += before[behind:] + run.decode(errors="replace")
            behind = len(self._decoded(ids[:last]))
        return text + decoded[behind:]

    def _runs(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """First and behind the last of tokens of bytes that stand together."""
        first = None
        for place, token in enumerate(ids):
            if self.part(token) is None:
                if first is not None:
                    yield first, place
                first = None
            elif first is None:
                first = place
        if first is not None:
            yield first, len(ids)

    def cells(self, ids: Sequence[int]) -> list[Cell]:
        """What the tokens of a text stand for, in order."""
        found: list[Cell] = []
        behind = 0
        for first, last in [*self._runs(ids), (len(ids), len(ids))]:
            found += [Cell(self.word(ids[place]), place, place, place, 0) for place in range(behind, first)]
            found += shared([self.part(token) or b"" for token in ids[first:last]], first)
            behind = last
        return found

    def begins(self, ids: Sequence[int], text: str, cells: Sequence[Cell], which: Sequence[int]) -> list[int]:
        """Where in the decoded text of some ids certain cells of theirs begin, in characters, ascending."""
        joined = "".join(cell.text for cell in cells)
        stripped = len(joined) - len(text)
        if stripped in (0, 1) and joined.endswith(text):
            # A text may be decoded without the space at its beginning, and is else what its tokens add.
            ends = [*accumulate((len(cell.text) for cell in cells), initial=-stripped)]
            return [max(0, ends[place]) for place in which]
        found = [self._decoded_before(ids, text, cells[place]) for place in which]
        return [*accumulate(found, max)]

    def _decoded_before(self, ids: Sequence[int], text: str, cell: Cell) -> int:
        before = self.decode(ids[: cell.run])
        shared = len(before) if text.startswith(before) else len(commonprefix([before, text]))  # noqa: RUF071
        return min(shared + cell.offset, len(text))


def shared(parts: Sequence[bytes], first: int) -> list[Cell]:
    """A cell for each character of some tokens' bytes, the first of which has that number; one of each broken one.

    A space stands with what follows in the same token, as in other tokens.
    """
    token_at = [first + number for number, part in enumerate(parts) for _ in part]
    found, begin, spaces = [], 0, ""
    for offset, (sign, size) in enumerate(characters(b"".join(parts))):
        end = begin + size
        if sign == " " and token_at[begin : end + 1] == [token_at[begin]] * 2:
            spaces += sign
        else:
            found.append(Cell(spaces + sign, token_at[begin], token_at[end - 1], first, offset - len(spaces)))
            spaces = ""
        begin = end
    return found


def characters(data: bytes) -> Iterator[tuple[str, int]]:
    """The characters that bytes are, and of how many each is made; a replacement sign for those that are none."""
    while data:
        try:
            good, bad = data.decode(), 0
        except UnicodeDecodeError as error:
            good, bad = data[: error.start].decode(), error.end - error.start
        sizes = [len(sign.encode()) for sign in good]
        yield from zip(good, sizes, strict=True)
        if bad:
            yield REPLACED, bad
        data = data[sum(sizes) + bad :]


def bytes_of(spelt: str) -> bytes | None:
    """The bytes that a token's name in its vocabulary may spell, where these need not be whole characters."""
    if found := BYTE.fullmatch(spelt):
        return bytes.fromhex(found[1])
    if spelt.isascii() or not BYTE_OF_LETTER.keys() >= set(spelt):
        return None
    data = bytes(BYTE_OF_LETTER[letter] for letter in spelt)
    return data if REPLACED in data.decode(errors="replace") else None


def letters_of_bytes() -> dict[str, int]:
    """The letters in which GPT-2 and its heirs spell bytes: printing ones by themselves, the others from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF_LETTER = letters_of_bytes()
