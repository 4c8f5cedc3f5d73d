"""The subject model with one latent changed: what it would write next, and what it writes.

A prompt is run once, up to its last token, and its keys and values are kept. From there on each change costs one token
a step; and as long as the prompt's last token alone is looked at, layers below the change are not run again.

What a row gets does not depend on the rows beside it, as long as there are any: it is padded to a length that only its
own length decides, and always by one place at least, for without any the attention takes another way. (On a CPU in
bfloat16 it is the same to the last bit; in float32, and on a GPU, rounding differs.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from resources.errors import UnusableInput
from resources.forward_hooks import changed, layers_below, seeing, standing_in
from resources.hookpoints import place_of
from resources.latent_changes import Change
from resources.model_structure import NoSuchHookpoint
from resources.subject_model import SubjectModel

PADDED_TO = 8
"Tokens."


class Slots(DynamicLayer):
    """Keys and values of one layer, with room for what comes; stepping back is free, as nothing is appended."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.prompt = self.filled = keys.shape[2]
        pad = (0, 0, 0, room)
        self.all_keys, self.all_values = (torch.nn.functional.pad(each, pad) for each in (keys, values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.filled + key_states.shape[2]
        self.all_keys[:, :, self.filled : end] = key_states
        self.all_values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.all_keys[:, :, :end], self.all_values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.filled

    def rows(self, which: Tensor) -> Slots:
        which = which.to(self.all_keys.device)
        keys, values = self.all_keys[which, :, : self.prompt], self.all_values[which, :, : self.prompt]
        return Slots(keys, values, self.all_keys.shape[2] - self.prompt)


class KeysValues(NamedTuple):
    """Of one layer, each [rows, heads, length, d_head]."""

    keys: Tensor
    values: Tensor


@dataclass
class Prompts:
    """Prompts that have been run, ready to be continued under any change."""

    subject: SubjectModel
    reads: str
    "The hookpoint that the SAE reads."
    writes: str
    "The hookpoint that it writes to: the same one, for a transcoder the output of its module."
    last: Tensor
    "int64 [rows], the last token of each prompt"
    lengths: Tensor
    "int64 [rows], of the prompts without their last token"
    slots: list[Slots]
    below: Any = None
    "What the layers below the change make of the last token: it is the same for every change."

    def __len__(self) -> int:
        return len(self.last)

    def rows(self, which: Tensor) -> Prompts:
        """Some of the prompts; they are copied."""
        slots = [each.rows(which) for each in self.slots]
        return Prompts(self.subject, self.reads, self.writes, self.last[which], self.lengths[which], slots)

    @torch.inference_mode()
    def next_token(self, change: Change) -> Tensor:
        """Logits of the token after each prompt under a change, float32 [rows, vocabulary]."""
        return self._step(self.last, 0, change)

    @torch.inference_mode()
    def write(self, change: Change, seeds: Sequence[int], count: int) -> Tensor:
        """What follows each prompt under a change, int64 [rows, count], drawn at temperature 1.

        The token drawn is the one with the largest log-probability + Gumbel noise. The noise is the row's own, so under
        two changes that hardly differ a prompt goes on with the same tokens nearly always (common random numbers).

        Args:
            seeds: of each row's noise.
        """
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        token, written = self.last, []
        for step in range(count):
            logits = self._step(token, step, change)
            drawn = torch.empty(logits.shape)
            for row, generator in zip(drawn, noise, strict=True):
                row.exponential_(generator=generator)
            token = (logits.log_softmax(-1) - drawn.to(logits.device).log()).argmax(-1)
            written.append(token)
        return torch.stack(written, dim=1)

    def _step(self, token: Tensor, step: int, change: Change) -> Tensor:
        """Run one token of each row behind what has been run; logits float32 [rows, vocabulary]."""
        layers = layers_below(self.subject, self.reads) if step == 0 else []
        for each in self.slots:
            # Also where a layer is not run again: what it made of the prompt's last token stands there from before.
            each.filled = each.prompt + step
        cache = DynamicCache()
        cache.layers = list(self.slots)
        filled = self.slots[0].prompt + step
        places = torch.arange(filled + 1, device=token.device)
        mask = (places >= self.slots[0].prompt - self.lengths[:, None]).long()
        with ExitStack() as hooks:
            if layers and self.below is not None:
                hooks.enter_context(standing_in(layers, self.below))
            elif layers:
                hooks.enter_context(seeing(layers[-1], lambda output: setattr(self, "below", output)))
            hooks.enter_context(changed(self.subject, self.reads, self.writes, change.of))
            output = self.subject.model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=(self.lengths + step)[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1].float().to(self.subject.device)


@torch.inference_mode()
def run_prompts(
    subject: SubjectModel,
    hookpoint: str,
    prompts: Sequence[Sequence[int]],
    *,
    longest: int,
    new_tokens: int,
    batch_tokens: int,
    writes: str | None = None,
) -> Prompts:
    """Run prompts up to their last token.

    Args:
        hookpoint: what the SAE reads.
        prompts: token ids, one or more of each.
        longest: no prompt is longer, here or in any other call whose rows are to come out alike.
        new_tokens: how many are to be written behind each.
        batch_tokens: in one forward pass, at most.
        writes: the hookpoint that the latent is written to, where it is another one: a transcoder's.

    Raises:
        NoSuchHookpoint: the model has no such module, or nothing can be changed there.
    """
    for each in (hookpoint, writes or hookpoint):
        subject.check_hookpoint(each)
    if place_of(writes or hookpoint).side == "normed":
        raise NoSuchHookpoint(f"{writes or hookpoint}: no module holds it, so that nothing can be changed there")
    width = padded(longest - 1)
    by_width: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_width.setdefault(padded(len(prompt) - 1), []).append(row)
    order: list[int] = []
    parts: list[list[KeysValues]] = []
    for own_width, rows in sorted(by_width.items()):
        step = max(1, batch_tokens // own_width)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            order += part
            kept = keys_and_values(subject, [prompts[row][:-1] for row in part], own_width)
            pad = (0, 0, width - own_width, 0)
            parts.append([KeysValues(*(torch.nn.functional.pad(each, pad) for each in layer)) for layer in kept])
    # Indices on the CPU: the layers of a large model may stand on several devices.
    back = torch.tensor(order).argsort()
    slots = [
        Slots(
            torch.cat([part.keys for part in layer])[back], torch.cat([part.values for part in layer])[back], new_tokens
        )
        for layer in zip(*parts, strict=True)
    ]
    last = torch.tensor([prompt[-1] for prompt in prompts], device=subject.device)
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=subject.device)
    return Prompts(subject, hookpoint, writes or hookpoint, last, lengths, slots)


def padded(length: int) -> int:
    """The next multiple of PADDED_TO above a length."""
    return (length // PADDED_TO + 1) * PADDED_TO


def keys_and_values(subject: SubjectModel, prompts: Sequence[Sequence[int]], width: int) -> list[KeysValues]:
    """Of each layer, with length `width`, after running prompts that are padded on the left."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=subject.device)[:, None]
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    places = torch.arange(width, device=subject.device) - width + lengths
    cache = DynamicCache()
    subject.model.base_model(
        input_ids=torch.tensor(ids, device=subject.device),
        attention_mask=(places >= 0).long(),
        position_ids=places.clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    kept = [KeysValues(keys, values) for keys, values, *_ in cache if keys is not None]
    if len(kept) != len(subject.structure.layers):
        raise UnusableInput(
            f"{type(subject.model).__name__}: {len(kept)} of its {len(subject.structure.layers)} layers keep keys and values of an "
            "attention; an intervention goes on from those of a prompt, and needs them in all"
        )
    return kept
