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
from typing import Any, Literal

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
NO_MEMORY = (MemoryError, torch.OutOfMemoryError)
"Says nothing of what a model can do."
FORGETFUL = {torch.float32: 0.01, torch.float64: 0.01}
FORGETFUL_IN_HALF_PRECISION = 0.25
"""A cache is right if it moves log-probabilities by less than this share of what forgetting the beginning does. Half
precision rounds by up to a tenth of that in small models; a cache that forgets reaches the whole of it."""


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
    def continuation(self) -> Continuation:
        """How its cache can be continued.

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
            ids: token ids [rows, length]; rows that are padded on the right are not touched by it.
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
    def _measured(self) -> Continuation:
        vocabulary = self.model.config.get_text_config().vocab_size
        length = min(PROBE_TOKENS, self.positions or PROBE_TOKENS)
        draw = torch.Generator().manual_seed(0)
        ids: list[int] = torch.randint(vocabulary, (length,), generator=draw).tolist()
        beginning, rest = ids[:PROBE_BEGINNING], ids[PROBE_BEGINNING:]
        other_end = [*ids[:-1], (ids[-1] + 1) % vocabulary]
        try:
            whole, changed = self.logits([ids, other_end]).log_softmax(-1)
        except NO_MEMORY:
            raise
        except Exception as error:
            raise UnusableInput(
                f"{self.name}: {type(self.model).__name__} does not run on text alone ({first_line(error)}); "
                "name a decoder-only language model"
            ) from None
        if whole.ndim != 2 or len(whole) != length:
            raise UnusableInput(
                f"{self.name}: {type(self.model).__name__} gives logits of shape {tuple(whole.shape)} for {length} tokens, "
                "not one distribution for each; name a decoder-only language model"
            )
        after = whole[len(beginning) :]
        forgetting = self.logits([rest])[0].log_softmax(-1) - after
        if forgetful(changed[:-1], whole[:-1], forgetting, self.model.dtype):
            raise UnusableInput(
                f"{self.name}: {type(self.model).__name__} predicts a token from those behind it too; "
                "name a decoder-only language model"
            )

        def in_pieces() -> Tensor:
            cache = self.empty_cache()
            self.logits([beginning[:7]], 6, cache)
            self.logits([beginning[7:]], len(beginning) - 8, cache)
            both = self.logits([rest, rest[::-1]], 0, repeated(cache, 2))
            again = self.logits([rest], 0, repeated(cache, 1))  # the first continuation has left the cache as it was
            return torch.cat([both[:1], again])

        def by_tokens() -> Tensor:
            cache = self.empty_cache()
            self.logits([beginning], len(beginning) - 1, cache)
            return torch.cat([self.logits([[token]], 0, cache) for token in rest], dim=1)

        ways: tuple[tuple[Continuation, Any], ...] = (("pieces", in_pieces), ("tokens", by_tokens))
        for continuation, way in ways if self._cache_argument and rest else ():
            try:
                seen = way().log_softmax(-1)
            except NO_MEMORY:
                raise
            except Exception:  # noqa: S112 - families fail in ways of their own where a cache is not theirs
                continue
            if not forgetful(seen, after, forgetting, self.model.dtype):
                return continuation
        return "none"


def forgetful(seen: Tensor, right: Tensor, forgetting: Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities differ from the right ones by more than rounding.

    Args:
        seen, right: float32 [..., vocabulary].
        forgetting: by what they would differ if the beginning were forgotten.
        dtype: what the model computes in.
    """
    share = FORGETFUL.get(dtype, FORGETFUL_IN_HALF_PRECISION)
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
