"""Which tokens may come next where a reply must have a form. The grammar is llguidance's, which vLLM can use too."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from resources.language_models.protocol import Constraint


class TokenForms:
    """Makes matchers for one tokenizer."""

    def __init__(self, tokenizer: Any, stop: list[int]) -> None:
        self._tokenizer, self._stop = tokenizer, stop

    @cached_property
    def _vocabulary(self) -> Any:
        return from_tokenizer(self._tokenizer, eos_token=self._stop)

    def matcher(self, constraint: Constraint) -> Matcher:
        """
        Raises:
            ValueError: the form cannot be held to, with the reason.
        """
        found = LLMatcher(self._vocabulary, grammar(constraint))
        if found.is_error():
            raise ValueError(found.get_error())
        return Matcher(found, self._vocabulary.vocab_size)


class Matcher:
    """Follows one reply token by token."""

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self._matcher, self._size = matcher, size
        self._bits = allocate_token_bitmask(1, size)

    def allowed(self) -> np.ndarray:
        """bool[vocabulary]: which tokens may come next; stop tokens where the reply may end."""
        fill_next_token_bitmask(self._matcher, self._bits, 0)
        return np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little")[: self._size].astype(bool)

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


def grammar(constraint: Constraint) -> str:
    if constraint.form == "json_schema":
        # Without white space between tokens: a small model could go on with nothing else.
        return LLMatcher.grammar_from_json_schema(str(constraint.content), {"whitespace_flexible": False})
    if constraint.form == "choice":
        return LLMatcher.grammar_from_regex("|".join(re.escape(choice) for choice in constraint.content))
    return LLMatcher.grammar_from_regex(str(constraint.content))
