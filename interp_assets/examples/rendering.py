"""Windows as text for prompts, embedders and people; the one place where token ids become words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from interp_assets.study import Study
from resources.subject_model import load_tokenizer

OPEN, CLOSE = "<<", ">>"


class Rendering:
    """Decodes windows of the subject model's tokens. A BOS token is part of the input, not of the text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, bos: bool = True) -> None:
        self.tokenizer = tokenizer
        self.hidden = {tokenizer.bos_token_id} if bos else set()

    @classmethod
    def of(cls, study: Study) -> Rendering:
        path = study.local_folder(study.subject_model.path) or study.subject_model.path
        return cls(load_tokenizer(path, study.subject_model.revision), study.corpus.bos)

    @cached_property
    def pieces(self) -> np.ndarray:
        """The text of every token by itself, object [vocabulary]."""
        # One list per token: a flat list would be decoded as one text.
        size = len(self.tokenizer)
        return np.array(self.tokenizer.batch_decode([[i] for i in range(size)]), dtype=object)

    def text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode([token for token in tokens if token not in self.hidden])

    def texts(self, windows: Sequence[Sequence[int]]) -> list[str]:
        return self.tokenizer.batch_decode([[t for t in window if t not in self.hidden] for window in windows])

    def word(self, token: int) -> str:
        return self.pieces[token]

    def with_marks(self, tokens: Sequence[int], marks: Sequence[bool]) -> str:
        """The text with marked tokens <<like this>>; neighbouring marked tokens share one pair of signs."""
        parts: list[str] = []
        run: list[int] = []
        state = False
        for token, mark in [*zip(tokens, marks, strict=True), (None, False)]:
            if token is None or mark != state:
                if run:
                    parts.append(self._run(run, state))
                run, state = [], bool(mark)
            if token is not None and token not in self.hidden:
                run.append(token)
        return "".join(parts)

    def _run(self, run: list[int], marked: bool) -> str:
        text = self.tokenizer.decode(run)
        if not marked:
            return text
        inner = text.lstrip(" ")
        return text[: len(text) - len(inner)] + OPEN + inner + CLOSE

    def marked(self, tokens: Sequence[int], activations: Sequence[float], threshold: float) -> str:
        return self.with_marks(tokens, marks_of(activations, threshold))


def marks_of(activations: Sequence[float], threshold: float) -> list[bool]:
    """Tokens above a share of the window's maximum."""
    limit = threshold * max(activations)
    return [value > 0 and value >= limit for value in activations]
