"""Windows as text for prompts, embedders and people; the one place where token ids become words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_assets.study import Study
from resources.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<<", ">>"


class Rendering:
    """Decodes windows of the subject model's tokens. A BOS token is part of the input, not of the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, bos: bool = True) -> None:
        self.tokenizer: Any = tokenizer
        self.hidden = {tokenizer.bos_token_id} if bos else set()

    @classmethod
    def of(cls, study: Study) -> Rendering:
        tokenizer = load_tokenizer(*study.model_at(study.subject_model.path, study.subject_model.revision))
        return cls(tokenizer, study.corpus.bos)

    @cached_property
    def pieces(self) -> np.ndarray:
        """The text that each token adds behind another one, object [vocabulary].

        Decoded by itself a token loses its leading space in some tokenizers, so each stands behind a common one.
        """
        anchor = self.tokenizer("a", add_special_tokens=False)["input_ids"][-1]
        before = self.tokenizer.decode([anchor])
        # One list per token: a flat list would be decoded as one text.
        pairs = self.tokenizer.batch_decode([[anchor, token] for token in range(len(self.tokenizer))])
        return np.array([pair.removeprefix(before) for pair in pairs], dtype=object)

    def text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode([token for token in tokens if token not in self.hidden])

    def texts(self, windows: Sequence[Sequence[int]]) -> list[str]:
        return self.tokenizer.batch_decode([[t for t in window if t not in self.hidden] for window in windows])

    def word(self, token: int) -> str:
        # Many models have more rows of embeddings than their tokenizer has tokens.
        return self.pieces[token] if token < len(self.pieces) else f"<token {token}>"

    def with_marks(self, tokens: Sequence[int], marks: Sequence[bool]) -> str:
        """The text with marked tokens <<like this>>; neighbouring marked tokens share one pair of signs."""
        shown = [(token, bool(mark)) for token, mark in zip(tokens, marks, strict=True) if token not in self.hidden]
        ids = [token for token, _ in shown]
        changes = [i for i in range(1, len(shown)) if shown[i][1] != shown[i - 1][1]]
        parts, before = [], ""
        for first, last in pairwise([0, *changes, len(shown)]):
            # What the run adds to the text so far: decoded alone it might lose its space or half a character.
            text = self.tokenizer.decode(ids[:last])
            text = text if last == len(ids) else text.rstrip("\ufffd")
            same = len(commonprefix([before, text]))  # noqa: RUF071 - by character is what is wanted
            run, before = text[same:], text
            inner = run.lstrip(" ")
            spaces = run[: len(run) - len(inner)]
            parts.append(f"{spaces}{OPEN}{inner}{CLOSE}" if shown and shown[first][1] else run)
        return "".join(parts)

    def marked(self, tokens: Sequence[int], activations: Sequence[float], threshold: float) -> str:
        return self.with_marks(tokens, marks_of(activations, threshold))


def marks_of(activations: Sequence[float], threshold: float) -> list[bool]:
    """Tokens above a share of the window's maximum."""
    limit = threshold * max(activations)
    return [value > 0 and value >= limit for value in activations]
