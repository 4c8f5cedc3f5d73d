"""Hooks on the subject model: what stands at a place is seen or changed, and layers that have been run are passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from resources.hookpoints import place_of

if TYPE_CHECKING:
    from resources.subject_model import SubjectModel


def layers_below(subject: SubjectModel, hookpoint: str) -> list[torch.nn.Module]:
    """The decoder layers that have done their work when a hookpoint is reached; none where it is in no layer."""
    path, side = place_of(hookpoint)
    found = subject.structure.layer_of(path)
    if found is None:
        return []
    number, rest = found
    return list(subject.structure.layers[: number + (side == "out" and not rest)])


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
def changed(
    subject: SubjectModel, reads: str, writes: str, addition: Callable[[Tensor], Tensor], last: int = 1
) -> Iterator[None]:
    """Inside, something is added to the last positions of each forward pass.

    Args:
        reads: the hookpoint that decides what is added.
        writes: the hookpoint it is added to; both have been found to exist.
        addition: of what stands at `reads`, [rows, d_in], gives float32 [rows, d_out].
        last: to how many positions.
    """
    read: list[Tensor] = []

    def see(x: Tensor) -> None:
        read[:] = [x[:, -last:].to(subject.device)]

    def make(x: Tensor) -> Tensor:
        if reads == writes:
            see(x)
        x = x.clone()
        for place in range(-last, 0):
            x[:, place] = (x[:, place].float() + addition(read[0][:, place]).to(x.device)).to(x.dtype)
        return x

    handles = [] if reads == writes else [at(subject, reads, see)]
    handles.append(at(subject, writes, make))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def at(subject: SubjectModel, hookpoint: str, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call a function with what stands at a hookpoint, [rows, length, d]; what it returns stands there from then on.

    What goes into a norm over its scale can only be looked at: nothing in the model holds it.
    """
    path, side = place_of(hookpoint)
    module = subject.modules[path]
    if side == "out":
        return module.register_forward_hook(lambda _m, _i, output: put_out(output, function))
    if side == "in":
        return module.register_forward_pre_hook(partial(put_in, function), with_kwargs=True)
    norm = subject.norm(path)

    def look(x: Tensor) -> None:
        assert function(norm.over_scale(x)) is None, "a norm's input over its scale cannot be changed"

    return module.register_forward_pre_hook(partial(put_in, look), with_kwargs=True)


def put_out(output: Any, function: Callable[[Tensor], Tensor | None]) -> Any:
    """What a module puts out after a function saw it: a tensor, or the first of several things; no other is shown."""
    if isinstance(output, Tensor):
        return function(output)
    if not isinstance(output, tuple | list) or not output or not isinstance(output[0], Tensor):
        return None
    new = function(output[0])
    if new is None:
        return None
    rest: Any = output
    fields = getattr(rest, "_fields", None)  # of a named tuple, whose names the model goes on with
    return rest._replace(**{fields[0]: new}) if fields else (new, *rest[1:])


def put_in(function: Callable[[Tensor], Tensor | None], _module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What goes into a module after a function saw it. Layers hand it to their parts by position or by name."""
    if args:
        new = function(args[0]) if isinstance(args[0], Tensor) else None
        return None if new is None else ((new, *args[1:]), kwargs)
    name = next((name for name, value in kwargs.items() if isinstance(value, Tensor)), None)
    if name is None:
        return None
    new = function(kwargs[name])
    return None if new is None else (args, kwargs | {name: new})
