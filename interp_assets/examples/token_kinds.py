"""What a token looks like, whatever it says: the kinds by which marks give themselves away to a reader who knows no latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from interp_assets.examples.characters import REPLACED
from interp_assets.examples.rendering import HIDDEN

LINE_BREAK, BLANK, DIGITS, CAPITAL, LETTERS, PUNCTUATION, PART = CLASSES = range(7)
NOT_SHOWN = -1


class Kind(NamedTuple):
    leading_space: bool
    characters: int
    "Of CLASSES, by the first that is not a space; letters without a leading space are mostly pieces of words."

    @classmethod
    def of(cls, text: str) -> Kind:
        """Of the text that a token adds behind other text."""
        seen = text.strip(" ")
        return cls(text.startswith(" "), characters_of(seen))


def characters_of(text: str) -> int:
    if "\n" in text or "\r" in text:
        return LINE_BREAK
    if not text or text.isspace():
        return BLANK
    if REPLACED in text:
        return PART
    if text[0].isdigit():
        return DIGITS
    if text[0].isalpha():
        return CAPITAL if text[0].isupper() else LETTERS
    return PUNCTUATION


class TokenKinds:
    """Kinds of token ids, each looked up once."""

    def __init__(self, word: Callable[[int], str]) -> None:
        """
        Args:
            word: the text that a token adds behind other text, as `Rendering.word`.
        """
        self._word = word
        self._known: dict[int, int] = {HIDDEN: NOT_SHOWN}

    def of(self, tokens: np.ndarray) -> np.ndarray:
        """A number for the kind of each token, int64 of the same shape; NOT_SHOWN where it is HIDDEN."""
        distinct, place = np.unique(tokens, return_inverse=True)
        return np.array([self._number(token) for token in distinct.tolist()], dtype=np.int64)[place].reshape(
            tokens.shape
        )

    def _number(self, token: int) -> int:
        if token not in self._known:
            kind = Kind.of(self._word(token))
            self._known[token] = kind.leading_space * len(CLASSES) + kind.characters
        return self._known[token]


KINDS = 2 * len(CLASSES)
"Numbers of `TokenKinds` are below this."


def log_rank(tokens: np.ndarray) -> np.ndarray:
    """log2 of ids, float64: vocabularies are made by how often what they hold occurs, so that ids are ranks of frequency."""
    return np.asarray(np.log2(np.maximum(tokens, 0) + 1.0))
