"""What some SAEs do to their input first, row by row, and undo at their output."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

InputNorm = Literal["none", "constant_norm", "layer_norm", "centred"]
"""`constant_norm`: x sqrt(d_in) / ||x||. `layer_norm`: less its mean, over its standard deviation (unbiased) + 1e-5.
`centred`: less its mean, as where the weights that write to the residual stream were centred."""
EPSILON = 1e-5


class Scaled(NamedTuple):
    """Rows as the encoder wants them, and how to get back."""

    rows: Tensor
    "float32 [tokens, d_in]"
    factor: Tensor
    "float32 [tokens, 1]: outputs are multiplied by it, then"
    shift: Tensor
    "float32 [tokens, 1] is added."


def scaled(x: Tensor, norm: InputNorm) -> Scaled:
    """
    Args:
        x: float32 [tokens, d_in].
    """
    ones, zeros = x.new_ones(len(x), 1), x.new_zeros(len(x), 1)
    if norm == "none":
        return Scaled(x, ones, zeros)
    if norm == "constant_norm":
        # A row of zeros stays one.
        factor = (x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5).clamp(min=torch.finfo(x.dtype).tiny)
        return Scaled(x / factor, factor, zeros)
    mean = x.mean(1, keepdim=True)
    if norm == "centred":
        return Scaled(x - mean, ones, mean)
    deviation = x.std(1, keepdim=True)
    return Scaled((x - mean) / (deviation + EPSILON), deviation, mean)
