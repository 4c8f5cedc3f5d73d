"""How much of a run of prompts an engine's prefix cache can serve: the tokens with which an earlier prompt began too.

An engine with such a cache (vLLM, or a server that runs it) keeps what it computed of a prompt in whole blocks of 16
tokens, and computes at least the last token of every prompt. What is counted here is what a cache can serve that
forgets nothing; one that is too small for the requests of a few latents serves less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

BLOCK = 16
"Tokens in a block, vLLM's default."


class PrefixShare(NamedTuple):
    prompts: int
    tokens: int
    "Of all prompts together."
    repeated: int
    "Tokens of the longest beginning that an earlier prompt had too."
    cacheable: int
    "The same, counted in whole blocks."

    @property
    def cacheable_share(self) -> float:
        return self.cacheable / self.tokens if self.tokens else 0.0

    @property
    def repeated_share(self) -> float:
        return self.repeated / self.tokens if self.tokens else 0.0


def prefix_share(prompts: Iterable[Sequence[int]], block: int = BLOCK) -> PrefixShare:
    """
    Args:
        prompts: token ids of each, in the order in which they are asked.
    """
    count = tokens = repeated = cacheable = 0
    seen: set[int] = set()
    for prompt in prompts:
        beginnings = hashes_of_beginnings(prompt)
        # A beginning that was not seen has no longer one that was.
        known = next((i for i, beginning in enumerate(beginnings) if beginning not in seen), len(prompt))
        seen.update(beginnings[known:])
        known = min(known, len(prompt) - 1)
        count, tokens = count + 1, tokens + len(prompt)
        repeated, cacheable = repeated + known, cacheable + known // block * block
    return PrefixShare(count, tokens, repeated, cacheable)


def hashes_of_beginnings(prompt: Sequence[int]) -> list[int]:
    """A hash of the first token, of the first two, and so on."""
    found, beginning = [], 0
    for token in prompt:
        beginning = hash((beginning, token))
        found.append(beginning)
    return found
