"""How much of what stands at a hookpoint an SAE explains, as a fraction of variance unexplained (FVU).

A few tokens, or a few dimensions, can hold nearly all variance of a layer (Sun et al. 2024, "Massive Activations in Large
Language Models"), and would pass any SAE that reproduces them and nothing else. So tokens with massive activations are
left out, and beside the plain FVU stands one in which dimensions count alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

MASSIVE = 10.0
"Tokens whose norm is this many times the median are left out of what is judged."
FLOOR = 0.1
"Dimensions with less than this share of the upper quartile of all variances count for less, in proportion to theirs."
CONSTANT = 1e-12
"A dimension with less than this share of the largest variance does not vary: what is seen is rounding."


def typical(x: Tensor) -> Tensor:
    """Which rows of x [tokens, d] are without massive activations, bool [tokens]."""
    norms = x.float().norm(dim=1)
    return norms <= MASSIVE * norms.median()


def standardised(x: Tensor) -> Tensor:
    """x [tokens, d] with mean 0 and variance 1 in each dimension, float32; 0 where a dimension does not vary.

    Massive tokens stand out in it also where one dimension, massive on all tokens, makes their norms alike.
    """
    centred = x.float() - x.float().mean(0)
    variance = centred.square().mean(0)
    varies = variance > CONSTANT * variance.max()
    return torch.where(varies, centred / variance.sqrt(), 0.0)


def fraction(reconstruction: Tensor, target: Tensor) -> float:
    """FVU = sum ||y - y'||^2 / sum ||y - mean(y)||^2 of targets y and reconstructions y', both [tokens, d]."""
    return float((target - reconstruction).square().sum() / (target - target.mean(0)).square().sum())


def dimension_fraction(reconstruction: Tensor, target: Tensor) -> float:
    """The mean over dimensions of each one's FVU, of targets and reconstructions [tokens, d].

    Dimensions weigh min(1, variance / floor), the floor being FLOOR times the upper quartile of their variances: what hardly
    varies may not decide. That quartile is typical where a few are massive, and where up to three quarters hardly vary.
    """
    left, variance = (target - reconstruction).square().sum(0), (target - target.mean(0)).square().sum(0)
    varying = variance[variance > CONSTANT * variance.max()]
    if not len(varying):
        return fraction(reconstruction, target)
    at_least_floor = variance.clamp(min=FLOOR * float(varying.quantile(0.75)))
    return float((left / at_least_floor).sum() / (variance / at_least_floor).sum())


class Typical(NamedTuple):
    """Tokens without massive activations in what an SAE reads and in what it is to reconstruct."""

    as_is: Tensor
    "bool [tokens]"
    alike: Tensor
    "bool [tokens]: of these, those without them also where dimensions count alike"


def typical_tokens(x: Tensor, target: Tensor) -> Typical:
    as_is = typical(x) & typical(target)
    alike = as_is.clone()
    alike[as_is] = typical(standardised(x[as_is])) & typical(standardised(target[as_is]))
    return Typical(as_is, alike)


def measured(reconstruction: Tensor, target: Tensor, tokens: Typical) -> dict[str, float]:
    """`fvu` and `dimension_fvu` of reconstructions and targets, both [tokens, d_out], on typical tokens."""
    return {
        "fvu": round(fraction(reconstruction[tokens.as_is], target[tokens.as_is]), 6),
        "dimension_fvu": round(dimension_fraction(reconstruction[tokens.alike], target[tokens.alike]), 6),
    }


def largest_dimension(x: Tensor) -> dict[str, Any]:
    """The dimension of x [tokens, d] with the largest variance, and its share of the variance of all."""
    x = x.float()
    variance = (x - x.mean(0)).square().sum(0)
    return {"dimension": int(variance.argmax()), "share": round(float(variance.max() / variance.sum()), 4)}
