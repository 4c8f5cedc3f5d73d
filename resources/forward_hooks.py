"""Hooks on the subject model: what stands at a place is seen or changed, and layers that have been run are passed over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from resources.subject_model import SubjectModel


def layers_below(subject: SubjectModel, hookpoint: str) -> list[torch.nn.Module]:
    """The decoder layers that have done their work when a hookpoint is reached; none where it is in no layer."""
    found = re.fullmatch(r"(.*?)\.(\d+)(\..+)?", hookpoint.removesuffix(":in"))
    layers = subject.modules.get(found[1]) if found else None
    if found is None or not isinstance(layers, torch.nn.ModuleList):
        return []
    whole = found[3] is None and not hookpoint.endswith(":in")
    return list(layers[: int(found[2]) + whole])


@contextmanager
def standing_in(layers: Sequence[torch.nn.Module], output: Any) -> Iterator[None]:
    """Inside, these layers compute nothing; the last of them puts out what it did before. Hooks on them still run."""
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


@contextmanager
def seeing(module: torch.nn.Module, see: Callable[[Any], None]) -> Iterator[None]:
    """Inside, `see` is told what a module puts out, before it is changed."""
    handle = module.register_forward_hook(lambda _m, _i, output: see(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def changed(subject: SubjectModel, reads: str, writes: str, addition: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, something is added to the last position of each forward pass.

    Args:
        reads: the hookpoint that decides what is added.
        writes: the hookpoint it is added to; both have been found to exist.
        addition: of what stands at `reads`, [rows, d_in], gives float32 [rows, d_out].
    """
    read: list[Tensor] = []

    def see(x: Tensor) -> None:
        read[:] = [x[:, -1]]

    def make(x: Tensor) -> Tensor:
        if reads == writes:
            see(x)
        x = x.clone()
        x[:, -1] = (x[:, -1].float() + addition(read[0])).to(x.dtype)
        return x

    handles = [] if reads == writes else [at(subject, reads, see)]
    handles.append(at(subject, writes, make))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def at(subject: SubjectModel, hookpoint: str, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call a function with what stands at a hookpoint, [rows, length, d]; what it returns stands there from then on."""
    module = subject.modules[hookpoint.removesuffix(":in")]

    def hook(*value: Any) -> Any:
        whole = value[-1]
        if not isinstance(whole, tuple):
            return function(whole)
        new = function(whole[0])
        return None if new is None else (new, *whole[1:])

    return module.register_forward_pre_hook(hook) if hookpoint.endswith(":in") else module.register_forward_hook(hook)
