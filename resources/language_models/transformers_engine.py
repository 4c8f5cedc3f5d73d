"""A language model in this process, run by transformers, that computes shared beginnings of prompts once.

Two beginnings are kept as key-value caches: the instructions (the system message), computed once, and what the
requests of one group share beyond them, computed once a group. Only the rest of each prompt is computed per request.

A reply depends on its request alone, not on what is asked beside it: where the beginning ends and to what length the
rest is padded follow from the request. On a CPU replies are the same to the last bit, whoever is asked together. On a
GPU the size of a batch may choose another kernel, and adding up in another order moves a log-probability by some 1e-5
in float32, and by up to 0.3 nats in bfloat16 (seen with a small model).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from resources.language_models.constrained import TokenForms
from resources.language_models.prompts import Ids, Prompts, alike, grouped, seed_of
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

CODE_VERSION = "2"
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
            UnusableInput: no causal language model lies there.
        """
        self.name = Path(path).name
        self.identity = identity
        self.batch_size = batch_size
        self.device = pick_device(device)
        self.tokenizer: Any = load_tokenizer(path, revision)
        self.prompts = Prompts(self.tokenizer, chat_template)
        self.model: Any = load_language_model(path, revision, dtype, device)
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
        for members in grouped(requests):
            head = self.prompts.of_instructions(requests[members[0]].messages)
            choices = {i: [self.prompts.ids(choice) for choice in requests[i].choices] for i in members}
            tables: dict[int, dict[tuple[int, ...], Tensor]] = {i: {} for i in members}
            asked = []
            for i in members:
                prompt = self.prompts.of_messages(requests[i].messages)
                shared = self.prompts.shared_length(requests[i], prompt)
                # A choice of one token is read off the prompt's last position; longer ones are appended and summed.
                asked += [(i, way, Row([*prompt, *way], len(prompt), shared)) for way in ways_in(choices[i])]
            cached = len(head)
            for place, table in self._log_probabilities(head, [row for _, _, row in asked]):
                i, way, row = asked[place]
                tables[i][way] = table
                if len(tables[i]) == len(ways_in(choices[i])):
                    log_probabilities = tuple(total(tables[i][tuple(choice[:-1])], choice) for choice in choices[i])
                    replies[i] = Chosen(log_probabilities, Usage(row.prompt, min(cached, row.shared), 0))
                    cached = row.prompt
                    arrived(i, replies[i])
        return [replies[i] for i in range(len(requests))]

    @torch.inference_mode()
    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        replies: dict[int, Likelihood] = {}
        for members in grouped(requests):
            continuations = [self.prompts.ids(requests[i].continuation) for i in members]
            rows = []
            for i, continuation in zip(members, continuations, strict=True):
                text = self.prompts.of_text(requests[i].text)
                rows.append(Row([*text, *continuation[:-1]], len(text), self.prompts.shared_length(requests[i], text)))
            cached = 0
            for place, table in self._log_probabilities([], rows):
                i, row, continuation = members[place], rows[place], continuations[place]
                usage = Usage(row.prompt, min(cached, row.shared), 0)
                replies[i] = Likelihood(total(table, continuation), len(continuation), usage)
                cached = row.prompt
                arrived(i, replies[i])
        return [replies[i] for i in range(len(requests))]

    # --- forward passes ---

    def _extend(self, cache: DynamicCache, ids: Sequence[Ids]) -> Tensor:
        """Run tokens [rows, length] behind a cache, which grows; the last hidden states [rows, length, d]."""
        batch = torch.tensor(ids, device=self.device)
        return self.model.base_model(input_ids=batch, past_key_values=cache, use_cache=True).last_hidden_state

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden).float()
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _after_instructions(self, head: Ids) -> DynamicCache:
        """A cache that holds the instructions, to be extended by the caller."""
        if not head:
            return DynamicCache()
        if self._instructions is None or self._instructions[0] != head:
            cache = DynamicCache()
            self._extend(cache, [head])
            self._instructions = (head, cache)
        return copy.deepcopy(self._instructions[1])

    def _log_probabilities(self, head: Ids, rows: Sequence[Row]) -> Iterator[tuple[int, Tensor]]:
        """For each row, log-probabilities of the token after each position from the prompt's last on.

        Yields:
            place of the row and float32 tensor [len(ids) - prompt + 1, vocabulary], batch after batch.
        """
        for beginning, sharing in alike(range(len(rows)), lambda place: tuple(rows[place].ids[: rows[place].shared])):
            known = head[: len(beginning)]
            cache = self._after_instructions(known)
            if len(beginning) > len(known):
                self._extend(cache, [list(beginning[len(known) :])])
            done = len(beginning)
            for width, equal in alike(sharing, lambda place: padded_length(len(rows[place].ids) - done)):  # noqa: B023
                for start in range(0, len(equal), self.batch_size):
                    part = [rows[place] for place in equal[start : start + self.batch_size]]
                    copies = copy.deepcopy(cache)
                    copies.batch_repeat_interleave(len(part))
                    # Padding stands on the right, where causal attention keeps it from touching what comes before.
                    rests = [row.ids[done:] for row in part]
                    hidden = self._extend(copies, [rest + [0] * (width - len(rest)) for rest in rests])
                    for i, (row, rest) in enumerate(zip(part, rests, strict=True)):
                        asked = hidden[i, row.prompt - done - 1 : len(rest)]
                        yield equal[start + i], self._logits(asked).log_softmax(-1).cpu()

    def _generate_one(self, request: GenerateRequest) -> Generated:
        prompt = self.prompts.of_messages(request.messages)
        head = self.prompts.of_instructions(request.messages)[: len(prompt) - 1]
        cache = self._after_instructions(head)
        hidden = self._extend(cache, [prompt[len(head) :]])
        generator = torch.Generator(device=self.device).manual_seed(seed_of(prompt, request.draw))
        try:
            form = None if request.constraint is None else self._token_forms.matcher(request.constraint)
        except ValueError as error:
            return Generated("", True, Usage(0, 0, 0), f"replies cannot be held to this form: {error}")
        reply: Ids = []
        finished = False
        while len(reply) < request.max_tokens:
            logits = self._logits(hidden[0, -1])
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
            hidden = self._extend(cache, [[token]])
        text = self.tokenizer.decode(reply, skip_special_tokens=True)
        return Generated(text, finished, Usage(len(prompt), len(head), len(reply)))


def total(table: Tensor, continuation: Ids) -> float:
    return float(sum(table[step, token] for step, token in enumerate(continuation)))


def padded_length(length: int) -> int:
    return -(-length // PADDED_TO) * PADDED_TO


def ways_in(choices: list[Ids]) -> list[tuple[int, ...]]:
    """The distinct beginnings up to a choice's last token: all single-token choices share the empty one."""
    return list(dict.fromkeys(tuple(choice[:-1]) for choice in choices))


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return [token for token in [*listed, tokenizer.eos_token_id] if token is not None]
