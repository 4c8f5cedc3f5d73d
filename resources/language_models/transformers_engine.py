"""A language model in this process, run by transformers, that computes shared beginnings of prompts once.

Two beginnings are kept as key-value caches: the instructions (the system message and worked examples), computed once, and
what the requests of one group share beyond them, computed once a group. Only the rest of each prompt is computed per
request.

A reply depends on its request alone, not on what is asked beside it: where the beginning ends and to what length the
rest is padded follow from the request. On a CPU replies are the same to the last bit, whoever is asked together. On a
GPU the size of a batch may choose another kernel, and adding up in another order moves a log-probability by some 1e-5
in float32, and by up to 0.3 nats in bfloat16 (seen with a small model).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from resources.causal_lm import CausalLM, repeated
from resources.language_models.constrained import TokenForms
from resources.language_models.prompts import Ids, Prompts, alike, grouped, log_sum, seed_of
from resources.language_models.protocol import (
    FORMS,
    Capability,
    ChooseRequest,
    Chosen,
    Form,
    Generated,
    GenerateRequest,
    Likelihood,
    LikelihoodRequest,
    Usage,
    silent,
)
from resources.model_loading import load_language_model, pick_device
from resources.tokenizers import load_tokenizer

CODE_VERSION = "3"
"Raise it, here and in `protocol.CODE_VERSIONS`, when the same request gets another reply."

PADDED_TO = 8
"""What is not shared is padded to a multiple of so many tokens, and computed together with what has the same length. On
judges' prompts 8 is a sixth faster than 16, which pads more, and than 1, which computes fewer prompts at once."""


class Row(NamedTuple):
    """One sequence of tokens to be run through the model."""

    ids: Ids
    prompt: int
    "How many of them belong to the prompt."
    shared: int
    "How many are shared with others of the group."


class TransformersEngine:
    capabilities: frozenset[Capability] = frozenset({"generate", "choose", "log_likelihood"})
    forms: frozenset[Form] = FORMS
    retries = 0

    def __init__(
        self,
        path: str | Path,
        revision: str | None = None,
        dtype: str = "bfloat16",
        device: str = "auto",
        batch_size: int = 16,
        identity: Any = None,
        chat_template: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            chat_template: further arguments of the tokenizer's chat template.
            identity: what decides the replies, as plain JSON values; only the caller can tell.

        Raises:
            UnusableInput: no causal language model lies there, or none that predicts text from left to right.
        """
        self.name = Path(path).name
        self.identity = identity
        self.batch_size = batch_size
        self.device = pick_device(device)
        self.tokenizer: Any = load_tokenizer(path, revision)
        self.prompts = Prompts(self.tokenizer, chat_template)
        self.model: Any = load_language_model(path, revision, dtype, device)
        self.forward = CausalLM(self.model, self.device, self.name)
        self.shares_beginnings = self.forward.abilities.continuation == "pieces"
        "Whether the beginning that several prompts share is computed once: a matter of what the model's cache can do."
        self._padded_to = PADDED_TO if self.forward.abilities.padding else 1
        self._stop = stop_tokens(self.model, self.tokenizer)
        self._token_forms = TokenForms(self.tokenizer, self._stop)
        self._instructions: tuple[Ids, DynamicCache] | None = None

    def close(self) -> None:
        self.model = None
        self._instructions = None

    # --- the three verbs ---

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]:
        replies = []
        for i, request in enumerate(requests):
            replies.append(self._generate_one(request))
            arrived(i, replies[i])
        return replies

    @torch.inference_mode()
    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        replies: dict[int, Chosen] = {}

        def reply(i: int, answer: Chosen) -> None:
            replies[i] = answer
            arrived(i, answer)

        for members in grouped(requests):
            head = self.prompts.of_instructions(requests[members[0]].messages) if self.shares_beginnings else []
            choices = {i: self.prompts.of_choices(requests[i]) for i in members}
            tables: dict[int, dict[tuple[int, ...], Tensor]] = {i: {} for i in members}
            asked = []
            for i in members:
                prompt = self.prompts.of_messages(requests[i].messages)
                shared = self.prompts.shared_length(requests[i], prompt) if self.shares_beginnings else 0
                # A choice of one token is read off the prompt's last position; longer ones are appended and summed.
                rows = [Row([*prompt, *way], len(prompt), shared) for way in ways_in(choices[i])]
                if (reason := self._too_long(max(len(row.ids) for row in rows))) is not None:
                    reply(i, Chosen((-math.inf,) * len(choices[i]), Usage(0, 0, 0), reason))
                    continue
                asked += [(i, tuple(row.ids[len(prompt) :]), row) for row in rows]
            cached = len(head)
            for place, table in self._log_probabilities(head, [row for _, _, row in asked]):
                i, way, row = asked[place]
                tables[i][way] = table
                if len(tables[i]) == len(ways_in(choices[i])):
                    log_probabilities = tuple(
                        log_sum(total(tables[i][tuple(ids[:-1])], ids) for ids in spellings) for spellings in choices[i]
                    )
                    usage = Usage(row.prompt, min(cached, row.shared), 0)
                    cached = row.prompt
                    reply(i, Chosen(log_probabilities, usage))
        return [replies[i] for i in range(len(requests))]

    @torch.inference_mode()
    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        replies: dict[int, Likelihood] = {}

        def reply(i: int, answer: Likelihood) -> None:
            replies[i] = answer
            arrived(i, answer)

        for members in grouped(requests):
            asked: list[tuple[int, Row, Ids]] = []
            for i in members:
                ids, own = self.prompts.of_likelihood(requests[i])
                shared = self.prompts.shared_length(requests[i], ids[:own]) if self.shares_beginnings else 0
                reason = self._too_long(len(ids) - 1) if own else "no token stands before the continuation"
                if reason is None:
                    asked.append((i, Row(ids[:-1], own, shared), ids[own:]))
                else:
                    reply(i, Likelihood(-math.inf, 0, Usage(0, 0, 0), reason))
            cached = 0
            for place, table in self._log_probabilities([], [row for _, row, _ in asked]):
                i, row, continuation = asked[place]
                usage = Usage(row.prompt, min(cached, row.shared), 0)
                cached = row.prompt
                reply(i, Likelihood(total(table, continuation), len(continuation), usage))
        return [replies[i] for i in range(len(requests))]

    # --- forward passes ---

    def _too_long(self, tokens: int) -> str | None:
        """Why a text of so many tokens cannot be run, where it cannot."""
        positions = self.forward.positions
        if positions is None or tokens <= positions:
            return None
        return f"the prompt takes {tokens:,} tokens; {self.name} has positions for {positions:,}"

    def _extend(self, cache: DynamicCache | None, ids: Sequence[Ids], start: int) -> Tensor:
        """Logits of what follows each position of tokens [rows, length] from `start` on; a cache grows by the tokens."""
        return self.forward.logits(ids, start, cache)

    def _after_instructions(self, head: Ids) -> DynamicCache:
        """A cache that holds the instructions, to be extended by the caller."""
        if not head:
            return self.forward.empty_cache()
        if self._instructions is None or self._instructions[0] != head:
            cache = self.forward.empty_cache()
            self._extend(cache, [head], len(head) - 1)
            self._instructions = (head, cache)
        return repeated(self._instructions[1], 1)

    def _log_probabilities(self, head: Ids, rows: Sequence[Row]) -> Iterator[tuple[int, Tensor]]:
        """For each row, log-probabilities of the token after each position from the prompt's last on.

        Yields:
            place of the row and float32 tensor [len(ids) - prompt + 1, vocabulary], batch after batch.
        """
        for beginning, sharing in alike(range(len(rows)), lambda place: tuple(rows[place].ids[: rows[place].shared])):
            done, cache = len(beginning), None
            if beginning:
                known = head[: len(beginning)]
                cache = self._after_instructions(known)
                if len(beginning) > len(known):
                    self._extend(cache, [list(beginning[len(known) :])], len(beginning) - len(known) - 1)

            def form(place: int, done: int = done) -> tuple[int, int]:
                """To what length a row is padded, and from where on logits are asked: by the row alone."""
                row = rows[place]
                length = len(row.ids) - done
                width = min(
                    -(-length // self._padded_to) * self._padded_to, (self.forward.positions or math.inf) - done
                )
                return int(width), (row.prompt - done - 1) // PADDED_TO * PADDED_TO

            for (width, start), equal in alike(sharing, form):
                for first in range(0, len(equal), self.batch_size):
                    part = [rows[place] for place in equal[first : first + self.batch_size]]
                    # Padding stands on the right, where causal attention keeps it from touching what comes before.
                    rests = [row.ids[done:] + [0] * (width - len(row.ids) + done) for row in part]
                    logits = self._extend(None if cache is None else repeated(cache, len(part)), rests, start)
                    for i, row in enumerate(part):
                        asked = logits[i, row.prompt - done - 1 - start : len(row.ids) - done - start]
                        yield equal[first + i], asked.log_softmax(-1).cpu()

    def _generate_one(self, request: GenerateRequest) -> Generated:
        prompt = self.prompts.of_messages(request.messages)
        if (reason := self._too_long(len(prompt) + 1)) is not None:
            return Generated("", False, Usage(0, 0, 0), reason)
        generator = torch.Generator(device=self.device).manual_seed(seed_of(prompt, request.draw))
        try:
            form = None if request.constraint is None else self._token_forms.matcher(request.constraint)
        except ValueError as error:
            return Generated("", True, Usage(0, 0, 0), f"replies cannot be held to this form: {error}")
        following = self._following(request, prompt)
        logits, cached = next(following)
        reply: Ids = []
        finished = False
        while len(reply) < min(request.max_tokens, (self.forward.positions or math.inf) - len(prompt)):
            if form is not None:
                allowed = torch.zeros_like(logits, dtype=torch.bool)
                told = torch.from_numpy(form.allowed())[: len(logits)]
                allowed[: len(told)] = told.to(self.device)  # a model's output may be wider than its vocabulary
                logits = logits.masked_fill(~allowed, -torch.inf)
            if request.temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial((logits / request.temperature).softmax(-1), 1, generator=generator))
            if token in self._stop:
                finished = True
                break
            reply.append(token)
            if form is not None:
                form.take(token)
            logits, _ = following.send(token)
        text = self.tokenizer.decode(reply, skip_special_tokens=True)
        return Generated(text, finished, Usage(len(prompt), cached, len(reply)))

    def _following(self, request: GenerateRequest, prompt: Ids) -> Generator[tuple[Tensor, int], int, None]:
        """Logits of the next token, [vocabulary], and how many tokens were computed before; is sent each token taken."""
        if self.forward.abilities.continuation == "none":
            ids = [*prompt]
            while True:
                ids.append((yield self._extend(None, [ids], len(ids) - 1)[0, -1], 0))
        instructions: Ids = []
        if self.shares_beginnings:
            instructions = self.prompts.of_instructions(request.messages)[: len(prompt) - 1]
        cache, new = self._after_instructions(instructions), prompt[len(instructions) :]
        while True:
            new = [(yield self._extend(cache, [new], len(new) - 1)[0, -1], len(instructions))]


def total(table: Tensor, continuation: Ids) -> float:
    return float(sum(table[step, token] for step, token in enumerate(continuation)))


def ways_in(choices: Sequence[Sequence[Ids]]) -> list[tuple[int, ...]]:
    """The distinct beginnings up to a spelling's last token: all single-token choices share the empty one."""
    return list(dict.fromkeys(tuple(ids[:-1]) for spellings in choices for ids in spellings))


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return [token for token in [*listed, tokenizer.eos_token_id] if token is not None]
