"""Prompts that are run once, up to their last token, and continued from the keys and values that are kept.

Each change then costs one token a step; and as long as the prompt's last token alone is looked at, layers below the
change are not run again. Not every family keeps all it needs in keys and values: `interventions` measures it.

What a row gets does not depend on the rows beside it, as long as there are any: it is padded to a length that only its
own length decides, and always by one place at least, for without any the attention takes another way. (On a CPU in
bfloat16 it is the same to the last bit; in float32, and on a GPU, rounding differs.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from resources.errors import UnusableInput
from resources.forward_hooks import changed, layers_below, seeing, standing_in
from resources.latent_changes import Change
from resources.subject_model import SubjectModel
from resources.whole_prompts import WholePrompts

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


class KeptPrompts(WholePrompts):
    def __init__(
        self, subject: SubjectModel, reads: str, writes: str, prompts: Sequence[Sequence[int]], slots: list[Slots]
    ) -> None:
        """
        Args:
            slots: of each layer, filled up to the last token of each prompt.
        """
        super().__init__(subject, reads, writes, prompts)
        self.slots = slots
        self.last = torch.tensor([prompt[-1] for prompt in prompts], device=subject.device)
        self.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=subject.device)
        self.below: Any = None
        "What the layers below the change make of the last token: it is the same for every change."

    def rows(self, which: Tensor) -> KeptPrompts:
        prompts = [self.prompts[row] for row in which.tolist()]
        return KeptPrompts(self.subject, self.reads, self.writes, prompts, [each.rows(which) for each in self.slots])

    def _step(self, written: Sequence[Tensor], change: Change) -> Tensor:
        token, step = written[-1] if written else self.last, len(written)
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
def run_and_keep(
    subject: SubjectModel,
    reads: str,
    writes: str,
    prompts: Sequence[Sequence[int]],
    longest: int,
    new_tokens: int,
    batch_tokens: int,
) -> KeptPrompts:
    """Run prompts up to their last token; arguments as those of `interventions.run_prompts`."""
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
    return KeptPrompts(subject, reads, writes, prompts, slots)


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
