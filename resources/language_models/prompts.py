"""From messages to token ids, and which requests share a beginning: the same for every engine that has the tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from resources.language_models.protocol import ChooseRequest, LikelihoodRequest, Message, Request
from resources.tokenizers import prompt_texts

Ids = list[int]
Way = tuple[int, ...]
"The tokens of a choice before one of its tokens."
Kind = TypeVar("Kind", bound=Hashable)

PROBES = ("A", "1")
"Texts that share no token with each other."


class Prompts:
    def __init__(self, tokenizer: Any, chat_template: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            chat_template: further arguments of the tokenizer's chat template.
        """
        self.tokenizer = tokenizer
        self.chat_template = chat_template

    def ids(self, text: str) -> Ids:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def of_text(self, text: str) -> Ids:
        return self.with_bos(self.ids(text))

    def with_bos(self, ids: Ids) -> Ids:
        return ids if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id, *ids]

    def of_messages(self, messages: Sequence[Message]) -> Ids:
        """Token ids up to where the reply begins; a model without a chat format gets the contents as paragraphs."""
        if self.tokenizer.chat_template is None:
            return self.with_bos(self.ids("\n\n".join(m.content for m in messages) + "\n\nAnswer: "))
        (text,) = prompt_texts(self.tokenizer, [messages], self.chat_template)
        return self.ids(text)

    def of_request(self, request: Request) -> Ids:
        """All that a model reads: the prompt, or the text and what is to continue it."""
        if isinstance(request, LikelihoodRequest):
            return self.of_text(request.text) + self.ids(request.continuation)
        return self.of_messages(request.messages)

    def of_instructions(self, messages: Sequence[Message]) -> Ids:
        """The beginning that all prompts with the same system message share, whatever follows it."""
        if messages[0].role != "system" or len(messages) < 2:
            return []
        # This prompt itself is among those compared: a tokenizer may not tell the other two apart.
        probes = [self.of_messages((messages[0], Message("user", text))) for text in PROBES]
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
    """Indices of the requests of each group, groups in the order of their first request; one group, one instruction."""

    def group(i: int) -> Hashable:
        request = requests[i]
        return request.group or i, request.messages[0] if isinstance(request, ChooseRequest) else None

    return [members for _, members in alike(range(len(requests)), group)]


def common_prefix(sequences: Sequence[Ids]) -> int:
    """How many tokens all sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*sequences)))  # noqa: B905


def ways_on(choices: Sequence[Ids]) -> dict[Way, list[int]]:
    """From each beginning of a choice, the tokens that go on with one; at the prompt's end itself always."""
    found: dict[Way, dict[int, None]] = {(): {}}
    for choice in choices:
        for length, token in enumerate(choice):
            found.setdefault(tuple(choice[:length]), {})[token] = None
    return {way: [*tokens] for way, tokens in found.items()}


def total(table: Mapping[Way, Mapping[int, float]], choice: Ids) -> float:
    return float(sum(table[tuple(choice[:length])][token] for length, token in enumerate(choice)))
