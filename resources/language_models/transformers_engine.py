"""A language model in this process, run by transformers, that computes shared beginnings of prompts once.

Two beginnings are kept as key-value caches: the instructions (the system message), computed once, and what the
requests of one group share beyond them, computed once a group. Only the rest of each prompt is computed per request.
What a group is answered depends on that group alone: not on the order of groups, nor on how many are asked at once.
Which members of a group are asked together decides where the shared beginning ends, so the same numbers are added up
in another order: a log-probability moves by less than 1e-5 in float32, by some 1e-2 in bfloat16.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from resources.language_models.protocol import (
    Capability,
    ChooseRequest,
    Chosen,
    Generated,
    GenerateRequest,
    Likelihood,
    LikelihoodRequest,
    Message,
    Usage,
    silent,
)
from resources.subject_model import load_language_model, pick_device
from resources.tokenizers import load_tokenizer

Ids = list[int]


class TransformersEngine:
    capabilities: frozenset[Capability] = frozenset({"generate", "choose", "log_likelihood"})

    def __init__(
        self,
        path: str | Path,
        revision: str | None = None,
        dtype: str = "bfloat16",
        device: str = "auto",
        batch_size: int = 16,
        identity: Any = None,
    ) -> None:
        """
        Args:
            identity: what decides the replies, as plain JSON values; only the caller can tell.

        Raises:
            UnusableInput: no causal language model lies there.
        """
        self.name = Path(path).name
        self.identity = identity
        self.batch_size = batch_size
        self.device = pick_device(device)
        self.tokenizer: Any = load_tokenizer(path, revision)
        self.model: Any = load_language_model(path, revision, dtype, device)
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
            prompts = [self._prompt(requests[i].messages) for i in members]
            choices = [[self._ids(choice) for choice in requests[i].choices] for i in members]
            head = self._instruction_ids(requests[members[0]].messages)
            # A choice of one token is read off the prompt's last position; longer ones are appended and summed.
            asked = [(prompt, way) for prompt, each in zip(prompts, choices, strict=True) for way in ways_in(each)]
            lengths = [len(prompt) for prompt, _ in asked]
            scored = self._log_probabilities(head, [[*prompt, *way] for prompt, way in asked], lengths)
            shared = common_prefix(prompts)
            for place, (i, prompt, each) in enumerate(zip(members, prompts, choices, strict=True)):
                tables = {way: next(scored) for way in ways_in(each)}
                totals = []
                for choice in each:
                    table = tables[tuple(choice[:-1])]
                    totals.append(float(sum(table[step, token] for step, token in enumerate(choice))))
                usage = Usage(len(prompt), shared if place else min(len(head), shared), 0)
                replies[i] = Chosen(tuple(totals), usage)
                arrived(i, replies[i])
        return [replies[i] for i in range(len(requests))]

    @torch.inference_mode()
    def log_likelihood(
        self, requests: Sequence[LikelihoodRequest], arrived: Callable[[int, Likelihood], None] = silent
    ) -> list[Likelihood]:
        replies: dict[int, Likelihood] = {}
        for members in grouped(requests):
            texts = [self._with_bos(self._ids(requests[i].text)) for i in members]
            continuations = [self._ids(requests[i].continuation) for i in members]
            sequences = [text + continuation[:-1] for text, continuation in zip(texts, continuations, strict=True)]
            tables = self._log_probabilities([], sequences, [len(text) for text in texts])
            shared = common_prefix(texts)
            for place, (i, text, continuation, table) in enumerate(
                zip(members, texts, continuations, tables, strict=True)
            ):
                total = float(sum(table[step, token] for step, token in enumerate(continuation)))
                replies[i] = Likelihood(total, len(continuation), Usage(len(text), shared if place else 0, 0))
                arrived(i, replies[i])
        return [replies[i] for i in range(len(requests))]

    # --- prompts ---

    def _ids(self, text: str) -> Ids:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _with_bos(self, ids: Ids) -> Ids:
        return ids if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id, *ids]

    def _prompt(self, messages: Sequence[Message]) -> Ids:
        """Token ids up to where the reply begins; a model without a chat format gets the contents as paragraphs."""
        if self.tokenizer.chat_template is None:
            return self._with_bos(self._ids("\n\n".join(m.content for m in messages) + "\n\nAnswer: "))
        chat = [{"role": m.role, "content": m.content} for m in messages]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return self._ids(text)

    def _instruction_ids(self, messages: Sequence[Message]) -> Ids:
        """The beginning that all prompts with the same system message share, whatever follows it."""
        if messages[0].role != "system" or len(messages) < 2:
            return []
        # This prompt itself is among those compared: a tokenizer may not tell the other two apart.
        probes = [self._prompt((messages[0], Message("user", text))) for text in ("A", "1")]
        return probes[0][: common_prefix([*probes, self._prompt(messages)])]

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

    def _log_probabilities(self, head: Ids, sequences: list[Ids], prompt_lengths: list[int]) -> Iterator[Tensor]:
        """For each sequence, log-probabilities of the token after each position from the prompt's last on.

        Yields:
            one float32 tensor [len(sequence) - prompt_length + 1, vocabulary] for each sequence, batch after batch.
        """
        # What is shared must leave each sequence its prompt's last position, whose prediction is asked for.
        shared = min(common_prefix(sequences), min(prompt_lengths) - 1)
        head = head[: min(len(head), shared)]
        cache = self._after_instructions(head)
        if shared > len(head):
            self._extend(cache, [sequences[0][len(head) : shared]])
        longest = max(map(len, sequences)) - shared
        for start in range(0, len(sequences), self.batch_size):
            part = sequences[start : start + self.batch_size]
            rows = copy.deepcopy(cache)
            rows.batch_repeat_interleave(len(part))
            # Padding stands on the right, where causal attention keeps it from touching what comes before.
            padded = [ids[shared:] + [0] * (longest - len(ids) + shared) for ids in part]
            hidden = self._extend(rows, padded)
            for row, ids in enumerate(part):
                first = prompt_lengths[start + row] - shared - 1
                yield self._logits(hidden[row, first : len(ids) - shared]).log_softmax(-1).cpu()

    def _generate_one(self, request: GenerateRequest) -> Generated:
        prompt = self._prompt(request.messages)
        head = self._instruction_ids(request.messages)[: len(prompt) - 1]
        cache = self._after_instructions(head)
        hidden = self._extend(cache, [prompt[len(head) :]])
        seed = hashlib.sha256(repr((prompt, request.draw)).encode()).digest()[:7]
        generator = torch.Generator(device=self.device).manual_seed(int.from_bytes(seed, "big"))
        stop = set(stop_tokens(self.model, self.tokenizer))
        reply: Ids = []
        finished = False
        while len(reply) < request.max_tokens:
            logits = self._logits(hidden[0, -1])
            if request.temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial((logits / request.temperature).softmax(-1), 1, generator=generator))
            if token in stop:
                finished = True
                break
            reply.append(token)
            hidden = self._extend(cache, [[token]])
        text = self.tokenizer.decode(reply, skip_special_tokens=True)
        return Generated(text, finished, Usage(len(prompt), len(head), len(reply)))


def grouped(requests: Sequence[ChooseRequest | LikelihoodRequest]) -> list[list[int]]:
    """Indices of the requests of each group, groups in the order of their first request."""
    groups: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.group or f"\0{i}", []).append(i)
    return list(groups.values())


def ways_in(choices: list[Ids]) -> list[tuple[int, ...]]:
    """The distinct beginnings up to a choice's last token: all single-token choices share the empty one."""
    return list(dict.fromkeys(tuple(choice[:-1]) for choice in choices))


def common_prefix(sequences: Sequence[Ids]) -> int:
    """How many tokens all sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*sequences)))  # noqa: B905


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return [token for token in [*listed, tokenizer.eos_token_id] if token is not None]
