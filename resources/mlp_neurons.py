"""Where the neurons of an MLP stand in a decoder layer, told by the shapes of its maps and by nothing that they are called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

BOTTLENECK = 2
"A block so many times narrower than the residual stream is an adapter, not the MLP."


class LinearMap(NamedTuple):
    name: str
    "Its path in the layer."
    reads: int
    writes: int


def last_maps(layer: nn.Module, width: int, of_heads: Sequence[int]) -> list[LinearMap]:
    """The last maps of a layer's MLPs, the one with most neurons first.

    An MLP is a block of two or three linear maps: one from n neurons onto the residual stream, the others from the
    stream to n each, or to 2 n where gate and up are one matrix. What attention, state spaces and convolutions hold
    is of another form, or reads as many dimensions as the heads have.

    Args:
        width: of the residual stream.
        of_heads: how many dimensions the output projection of attention may read.
    """
    found = []
    for holder, maps in blocks(layer).items():
        # State spaces and recurrences have matrices of their own, or convolutions, beside the linear maps.
        block = layer.get_submodule(holder)
        if any(map(other_matrices, block.modules() if holder else [block])):
            continue
        for last in maps:
            n, others = last.reads, [each for each in maps if each is not last]
            sizes = [each.writes for each in others]
            onto_stream = last.writes == width and n not in (width, *of_heads) and n * BOTTLENECK > width
            if onto_stream and all(each.reads == width for each in others) and sizes in ([n], [2 * n], [n, n]):
                found.append(last)
    return sorted(found, key=lambda each: -each.reads)


def blocks(layer: nn.Module) -> dict[str, list[LinearMap]]:
    """The linear maps of a layer, each under the path of the smallest module around it that holds several."""
    maps = [LinearMap(name, *sizes) for name, module in layer.named_modules() if (sizes := widths(module)) is not None]
    found = defaultdict(list)
    for each in maps:
        holder = each.name
        while holder:
            holder = holder.rpartition(".")[0]
            inside = [other for other in maps if not holder or other.name.startswith(f"{holder}.")]
            if len(inside) > 1:
                break
        found[holder].append(each)
    return found


def other_matrices(module: nn.Module) -> bool:
    return widths(module) is None and any(each.ndim > 1 for each in module.parameters(recurse=False))


def experts_in(layer: nn.Module, width: int) -> int:
    """How many routed experts a layer holds, 0 where none: as a list of MLPs, or as stacked matrices [experts, out, in].

    Args:
        width: of the residual stream.
    """
    for module in layer.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and all(last_maps(each, width, ()) for each in module):
            return len(module)
    stacked = [
        tuple(parameter.shape)
        for module in layer.modules()
        if not isinstance(module, _ConvNd)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim == 3 and parameter.shape[0] not in (1, width)
    ]
    for (experts, *first), (as_many, *second) in permutations(stacked, 2):
        if experts == as_many and fit(first, second):
            return experts
    return 0


def fit(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether one matrix goes from some width to n or 2 n, and the other from n to that width, in whatever order of axes.

    Two squares are gates of heads.
    """
    if first[0] == first[1] and second[0] == second[1]:
        return False
    return any(
        width == again and m in (n, 2 * n) for width, m in (first, first[::-1]) for again, n in (second, second[::-1])
    )


def widths(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear map; None of anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return (module.nx, module.nf) if isinstance(module, Conv1D) else None
