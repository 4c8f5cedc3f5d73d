"""A causal language model's own logits, and from what kind of cache it can be continued: measured when it is loaded.

What stands between hidden states and logits (scaling, soft-capping, a projection) is the model's business, so logits
come from its own `forward`. Which cache continues a text rightly differs from family to family, and one that forgets
says nothing, so a short text is run whole and in parts, and the logits are compared.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from resources.errors import UnusableInput
from resources.tokenizers import first_line

Continuation = Literal["pieces", "tokens", "none"]
"""How a cache can be continued: by pieces of several tokens, in several rows at once; by one token at a time, as in
some recurrent models; or not at all, so that every text is run whole."""

PROBE_TOKENS, PROBE_BEGINNING = 40, 23
"Of the text that is run whole and in parts; more than the convolutions of recurrent layers see, and no multiple of it."
PAD = 6
"Tokens on the right of one row, where padding is tried."
NO_MEMORY = (MemoryError, torch.OutOfMemoryError)
"Says nothing of what a model can do."
FORGETFUL = {torch.float32: 0.002, torch.float64: 0.002}
FORGETFUL_IN_HALF_PRECISION = 0.25
"""A cache is right if it moves log-probabilities by less than this share of what forgetting the beginning does. Half
precision rounds by up to a tenth of that in small models; a cache that forgets reaches the whole of it."""


class Abilities(NamedTuple):
    """What was measured of a model."""

    continuation: Continuation
    padding: bool
    "Whether rows of a batch may be padded on the right: it touches nothing before it."


class CausalLM:
    """A loaded model.

    Attributes:
        positions: how many tokens a text may have; None where nothing bounds it.
    """

    def __init__(self, model: Any, device: str | torch.device, name: str) -> None:
        self.model, self.device, self.name = model, device, name
        accepted = inspect.signature(model.forward).parameters
        self._keeps_some = "logits_to_keep" in accepted
        self._cache_argument = next((each for each in ("past_key_values", "cache_params") if each in accepted), None)
        self.positions = longest_text(model.config)

    @cached_property
    def abilities(self) -> Abilities:
        """
        Raises:
            UnusableInput: for text it has no distribution over the next token that only earlier tokens decide.
        """
        return self._measured()

    def empty_cache(self) -> DynamicCache:
        """A cache with the layers that this model needs."""
        return DynamicCache(config=self.model.config)

    def logits(self, ids: Sequence[Sequence[int]], start: int = 0, cache: DynamicCache | None = None) -> Tensor:
        """Of the token after each position from `start` on, float32 [rows, length - start, vocabulary].

        Args:
            ids: token ids [rows, length]; padded on the right only where `abilities.padding` allows it.
            start: a position in `ids`.
            cache: what stands before, one row for each; it grows by `ids`.
        """
        batch = torch.tensor(ids, device=self.device)
        settings: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            settings[str(self._cache_argument)] = cache
        if self._keeps_some:
            settings["logits_to_keep"] = batch.shape[1] - start
        logits = self.model(input_ids=batch, **settings).logits
        return logits[:, start - batch.shape[1] :].float()

    # --- what it can be continued from ---

    @torch.inference_mode()
    def _measured(self) -> Abilities:
        ids = probe_ids(self.model.config, min(PROBE_TOKENS, self.positions or PROBE_TOKENS))
        whole = self._log_probabilities_of(ids)
        beginning, rest = ids[:PROBE_BEGINNING], ids[PROBE_BEGINNING:]
        after = whole[len(beginning) :]
        forgetting = self.logits([rest])[0].log_softmax(-1) - after

        def right(seen: Tensor, expected: Tensor) -> bool:
            return not forgetful(seen.log_softmax(-1), expected, forgetting, self.model.dtype)

        cut = len(ids) - PAD
        if not right(self.logits([ids[:cut]])[0], whole[:cut]):
            raise UnusableInput(
                f"{self.name}: {type(self.model).__name__} predicts a token from those behind it too; "
                "name a decoder-only language model"
            )
        padding = right(self.logits([ids, ids[:cut] + [0] * PAD])[1, :cut], whole[:cut])

        def in_pieces() -> bool:
            cache = self.empty_cache()
            self.logits([beginning[:7]], 6, cache)
            self.logits([beginning[7:]], len(beginning) - 8, cache)
            other = rest[: len(rest) - PAD] + [0] * PAD if padding else rest[::-1]
            rows = self.logits([rest, other], 0, repeated(cache, 2))
            again = self.logits([rest], 0, repeated(cache, 1))  # the first continuation has left the cache as it was
            same = len(rest) - PAD if padding else 0
            return all((right(rows[0], after), right(again[0], after), right(rows[1, :same], after[:same])))

        def by_tokens() -> bool:
            cache = self.empty_cache()
            self.logits([beginning], len(beginning) - 1, cache)
            return right(torch.cat([self.logits([[token]], 0, cache)[0] for token in rest]), after)

        ways: tuple[tuple[Continuation, Any], ...] = (("pieces", in_pieces), ("tokens", by_tokens))
        for continuation, goes_on_rightly in ways if self._cache_argument and len(rest) > PAD else ():
            try:
                if goes_on_rightly():
                    return Abilities(continuation, padding)
            except NO_MEMORY:
                raise
            except Exception:  # noqa: S112 - families fail in ways of their own where a cache is not theirs
                continue
        return Abilities("none", padding)

    def _log_probabilities_of(self, ids: list[int]) -> Tensor:
        """Float32 [length, vocabulary], of a text that is run whole."""
        kind = type(self.model).__name__
        try:
            whole = self.logits([ids])[0].log_softmax(-1)
        except NO_MEMORY:
            raise
        except Exception as error:
            raise UnusableInput(
                f"{self.name}: {kind} does not run on text alone ({first_line(error)}); "
                "name a decoder-only language model"
            ) from None
        if whole.ndim != 2 or len(whole) != len(ids):
            raise UnusableInput(
                f"{self.name}: {kind} gives logits of shape {tuple(whole.shape)} for {len(ids)} tokens, "
                "not one distribution for each; name a decoder-only language model"
            )
        return whole


def probe_ids(config: Any, length: int, seed: int = 0) -> list[int]:
    """Token ids of a text to try a model on, no two alike in a row; none that its settings give a meaning of its own."""
    text = config.get_text_config()
    special = {getattr(text, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    order = torch.randperm(text.vocab_size, generator=torch.Generator().manual_seed(seed)).tolist()
    ids = [number for number in order if number not in special]
    return (ids * (length // len(ids) + 1))[:length]


def forgetful(seen: Tensor, right: Tensor, forgetting: Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities differ from the right ones by more than rounding.

    Args:
        seen, right: float32 [..., vocabulary].
        forgetting: by what they would differ if the beginning were forgotten.
        dtype: what the model computes in.
    """
    share = FORGETFUL.get(dtype, FORGETFUL_IN_HALF_PRECISION)
    if not seen.numel():
        return False
    return float((seen - right).abs().mean(-1).amax()) > share * float(forgetting.abs().mean())


def repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """A copy of a cache of one row, for so many rows that go on differently.

    `batch_repeat_interleave` is missing in the layers of linear attention (transformers 5.19).
    """
    copied = copy.deepcopy(cache)
    for layer in copied.layers:
        for name, value in vars(layer).items():
            setattr(layer, name, repeated_rows(value, rows))
    return copied


def repeated_rows(value: Any, rows: int) -> Any:
    if isinstance(value, Tensor) and value.ndim > 1:
        return value.repeat_interleave(rows, dim=0)
    if isinstance(value, list):
        return [repeated_rows(each, rows) for each in value]
    return {key: repeated_rows(each, rows) for key, each in value.items()} if isinstance(value, dict) else value


def longest_text(config: Any) -> int | None:
    """How many tokens a model's positions allow, by its settings; None where they name no bound."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len", "max_target_positions"):
        number = getattr(text, name, None)
        if isinstance(number, int) and number > 0:
            return number
    return None
