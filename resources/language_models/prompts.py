"""From messages to token ids, and which requests share a beginning: the same for every engine that has the tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np

from resources.control_tokens import content_offsets
from resources.language_models.chat_tokens import ChatTokens
from resources.language_models.protocol import (
    PARAGRAPHS_END,
    ChooseRequest,
    LikelihoodRequest,
    Message,
    Request,
    paragraphs,
)
from resources.tokenizers import text_beginning, text_ids, token_ids

Ids = list[int]
Way = tuple[int, ...]
"The tokens of a choice before one of its tokens."
Kind = TypeVar("Kind", bound=Hashable)

PROBES = ("A", "1")
"Texts that share no token with each other."

SPELLINGS = ("{}", " {}")
"""A reply may begin with a space or not: behind `Answer:` a model writes ` Yes`, behind a line break `Yes`. Both are the
answer, as they are to whoever reads the tokens that a server lists."""


class Prompts:
    def __init__(self, tokenizer: Any, chat_template: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            chat_template: further arguments of the tokenizer's chat template.
        """
        self.tokenizer = tokenizer
        self._chat = None if tokenizer.chat_template is None else ChatTokens(tokenizer, chat_template or {})
        self._beginning = [tokenizer.bos_token_id] if text_beginning(tokenizer) else []
        self._known_spellings: dict[tuple[str, str], list[tuple[int, ...]]] = {}

    def ids(self, text: str) -> Ids:
        """Of text as content: special tokens spelt in it stay text."""
        return text_ids(self.tokenizer, [text])[0]

    def of_text(self, text: str) -> Ids:
        return self.with_bos(self.ids(text))

    def with_bos(self, ids: Ids) -> Ids:
        return [*self._beginning, *ids]

    def of_messages(self, messages: Sequence[Message]) -> Ids:
        """Token ids up to where the reply begins; a model without a chat format gets the contents as paragraphs."""
        return self.of_text(paragraphs(messages)) if self._chat is None else self._chat.ids(messages)

    def of_request(self, request: Request) -> Ids:
        """All that a model reads: the prompt, or the text and what is to continue it."""
        if isinstance(request, LikelihoodRequest):
            return self.of_likelihood(request)[0]
        return self.of_messages(request.messages)

    def of_likelihood(self, request: LikelihoodRequest) -> tuple[Ids, int]:
        """The text and its continuation, tokenised as one text, and how many of the tokens belong to the text alone.

        A token that reaches over the boundary belongs to the continuation, as it does where a server echoes them.
        """
        ids, own = self._one_text(request.text, request.continuation, content=True)
        before = self.with_bos([])
        return [*before, *ids], len(before) + own

    def _one_text(self, text: str, continuation: str, content: bool) -> tuple[Ids, int]:
        """The ids of both as one text, and how many of them end where the first does, or before.

        Args:
            content: whether special tokens spelt in the text stay text.
        """
        if not self.tokenizer.is_fast:
            first, whole = (
                self.ids(each) if content else token_ids(self.tokenizer, [each])[0]
                for each in (text, text + continuation)
            )
            return whole, common_prefix([first, whole])
        if content:
            ids, ends = content_offsets(self.tokenizer, text + continuation)
        else:
            encoded = self.tokenizer(text + continuation, add_special_tokens=False, return_offsets_mapping=True)
            ids, ends = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
        return ids, next((i for i, end in enumerate(ends) if end > len(text)), len(ids))

    def of_choices(self, request: ChooseRequest) -> list[list[Ids]]:
        """For each choice its spellings as what stands behind the prompt, tokenised as one text with its end."""
        end = PARAGRAPHS_END if self._chat is None else self._chat.end(request.messages)
        return [self._spellings(end, choice) for choice in request.choices]

    def _spellings(self, end: str, choice: str) -> list[Ids]:
        if (end, choice) not in self._known_spellings:
            plain, spaced = (self._continuation(end, spelling.format(choice)) for spelling in SPELLINGS)
            # In a chat a space that is a token of its own is no way to begin a reply, and would double the work. Where
            # both spellings melt with the prompt's last token, none goes on from it, and the choice by itself is nearest.
            if plain and spaced and self._chat is not None and len(spaced) > len(plain):
                spaced = None
            ways = dict.fromkeys(filter(None, (plain, spaced)))  # two spellings may be the same tokens
            self._known_spellings[end, choice] = [*ways] or [tuple(self.ids(choice))]
        return [[*ids] for ids in self._known_spellings[end, choice]]

    def _continuation(self, end: str, text: str) -> tuple[int, ...] | None:
        """What stands behind a prompt's end; None where it melts with the prompt's last token."""
        whole, own = self._one_text(end, text, content=False)
        alone, _ = self._one_text(end, "", content=False)
        return tuple(whole[own:]) if whole[:own] == alone else None

    def of_instructions(self, messages: Sequence[Message]) -> Ids:
        """The beginning that all prompts share that differ in their last message alone: instructions and worked examples."""
        *before, last = messages
        if not before:
            return []
        # This prompt itself is among those compared: a tokenizer may not tell the other two apart.
        probes = [self.of_messages((*before, Message(last.role, text))) for text in PROBES]
        return probes[0][: common_prefix([*probes, self.of_messages(messages)])]

    def shared_length(self, request: ChooseRequest | LikelihoodRequest, prompt: Ids) -> int:
        """With how many tokens this prompt and any other of its group begin, which this request alone tells.

        The prompt's last token is never among them: what follows it is asked for.
        """
        if isinstance(request, LikelihoodRequest):
            probes = [self.of_text(request.text[: request.shared] + text) for text in PROBES]
        elif request.shared:
            *others, last = request.messages
            start = last.content[: request.shared]
            probes = [self.of_messages([*others, Message(last.role, start + text)]) for text in PROBES]
        else:
            return min(len(self.of_instructions(request.messages)), len(prompt) - 1)
        return min(common_prefix([*probes, prompt]), len(prompt) - 1)


def seed_of(prompt: Ids, draw: int) -> int:
    """Of one sample: 56 bits that the prompt and the number of the draw decide."""
    return int.from_bytes(hashlib.sha256(repr((prompt, draw)).encode()).digest()[:7], "big")


def alike(places: Iterable[int], of: Callable[[int], Kind]) -> Iterable[tuple[Kind, list[int]]]:
    """Places that are of one kind, kinds in the order of their first."""
    kinds: dict[Kind, list[int]] = {}
    for place in places:
        kinds.setdefault(of(place), []).append(place)
    return kinds.items()


def grouped(requests: Sequence[ChooseRequest | LikelihoodRequest]) -> list[list[int]]:
    """Indices of the requests of each group, groups in the order of their first request; in a group only last messages differ."""

    def group(i: int) -> Hashable:
        request = requests[i]
        return request.group or i, request.messages[:-1] if isinstance(request, ChooseRequest) else None

    return [members for _, members in alike(range(len(requests)), group)]


def common_prefix(sequences: Sequence[Ids]) -> int:
    """How many tokens all sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*sequences)))  # noqa: B905


def ways_on(choices: Iterable[Ids]) -> dict[Way, list[int]]:
    """From each beginning of a choice, the tokens that go on with one; at the prompt's end itself always."""
    found: dict[Way, dict[int, None]] = {(): {}}
    for choice in choices:
        for length, token in enumerate(choice):
            found.setdefault(tuple(choice[:length]), {})[token] = None
    return {way: [*tokens] for way, tokens in found.items()}


def total(table: Mapping[Way, Mapping[int, float]], choice: Ids) -> float:
    return float(sum(table[tuple(choice[:length])][token] for length, token in enumerate(choice)))


def log_sum(log_probabilities: Iterable[float]) -> float:
    """Of outcomes of which one alone can happen, the log-probability that one of them does."""
    return float(np.logaddexp.reduce([*log_probabilities]))
