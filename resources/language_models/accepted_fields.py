"""Which fields of a request a server takes, learnt from its refusals: a field is left out, renamed or changed and asked again.

A change counts once a request with it has been answered. What a refusal is about is read from the field that it names in
`param`, else from its words; what server or model it is does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from resources.language_models.server_errors import NOT_FOR_US, Refused

TOPS = (20, 8, 5, 1)
"How many of the likeliest tokens are asked for: 20 is the most at OpenAI and vLLM; others stop at 8, 5 or 1."
CAN_DO_WITHOUT = ("seed", "top_p", "temperature")
LEAST_ASKED = 16
"Tokens that are asked for where a server wants more and does not say how many."
LARGEST_LEAST = 64
"A larger number in a refusal is no server's minimum: it may be the length of its context."
OUTPUT_LIMIT = re.compile(r"output limit was reached")
"Said by servers that refuse a reply which thinking has used up, where others cut it off."
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass(frozen=True)
class Accepted:
    system_role: bool = True
    limit: str = "max_tokens"
    "The name of the field, in chats."
    least_tokens: int = 1
    top: int = TOPS[0]
    left_out: frozenset[str] = frozenset()

    def with_also(self, other: Accepted) -> Accepted:
        """What two requests have learnt side by side."""
        return Accepted(
            self.system_role and other.system_role,
            other.limit if self.limit == "max_tokens" else self.limit,
            max(self.least_tokens, other.least_tokens),
            min(self.top, other.top),
            self.left_out | other.left_out,
        )

    def after(self, refused: Refused, content: Mapping[str, Any]) -> Accepted | None:
        """What to try next; None where the refusal names nothing that can be done without.

        Args:
            content: the request that was refused.
        """
        if refused.status < 400 or refused.status in NOT_FOR_US:
            return None
        if "max_tokens" in content and "messages" in content and names(refused, "max_completion_tokens"):
            return replace(self, limit="max_completion_tokens")
        if content.get("logprobs") and not content.get("echo") and names(refused, "top_logprobs", "logprobs"):
            top = self.fewer(refused)
            return None if top is None else replace(self, top=top)
        for field in CAN_DO_WITHOUT:
            if field in content and names(refused, field):
                return replace(self, left_out=self.left_out | {field})
        limit = next((content[field] for field in LIMITS if field in content), None)
        if limit is not None and names(refused, *LIMITS):
            least = more_than(limit, refused)
            return None if least is None else replace(self, least_tokens=least)
        return None

    def fewer(self, refused: Refused) -> int | None:
        """Of the likeliest tokens."""
        named = {int(number) for number in re.findall(r"\d+", words(refused))}
        smaller = [number for number in named if 0 < number < self.top]
        if not smaller and self.top not in named and re.search(r"not|unsupported|unknown|extra", words(refused)):
            return None  # none at all, however few
        return max(smaller, default=next((top for top in TOPS if top < self.top), None))


def more_than(limit: int, refused: Refused) -> int | None:
    """The least number of tokens that a refusal allows; None where it is about something else."""
    if not re.search(r"minimum|at least|at minimum|>=|greater|higher|too (small|low|few)", words(refused)):
        return None
    named = [int(number) for number in re.findall(r"\d+", words(refused)) if limit < int(number) <= LARGEST_LEAST]
    return min(named, default=LEAST_ASKED if limit < LEAST_ASKED else None)


def names(refused: Refused, *fields: str) -> bool:
    return any(refused.param == field or re.search(rf"(?<!\w){field}(?!\w)", refused.reason) for field in fields)


def words(refused: Refused) -> str:
    """Without the status, which is a number too."""
    return refused.reason.partition(": ")[2]
