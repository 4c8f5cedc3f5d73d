"""How a model makes logits of its residual stream: by which norm, and by which factor. Measured on a short text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from resources.causal_lm import probe_ids
from resources.model_structure import Norm, weight_of

if TYPE_CHECKING:
    from resources.subject_model import SubjectModel

LENGTH = 16
UNEXPLAINED = 0.1
"""Largest part of the logits that may be left over; half precision leaves a few hundredths. Of several norms the one is
taken that leaves least: a model may have one above its embeddings too."""
EQUAL = 0.03
"So near the measured scale a setting of the model is what it is meant to be; nearer than half precision measures."


class Readout(NamedTuple):
    """How logits follow from the residual stream: logits = scale * unembedding of norm(stream) + a bias."""

    norm: Norm | None
    scale: float


@torch.inference_mode()
def measured_readout(subject: SubjectModel) -> Readout | None:
    """The norm and the factor between the residual stream and logits.

    Seen on a short text, as differences between positions, in which a bias of the head falls out.

    Returns:
        None where logits are no multiple of an unembedded norm of what the last layer puts out.
    """
    ids = torch.tensor([probe_ids(subject.model.config, LENGTH)])
    last = f"{subject.structure.layers_path}.{len(subject.structure.layers) - 1}"
    stream = subject.activations(ids, [last]).get(last)
    unembedding = weight_of(subject.model.get_output_embeddings()).to(subject.device)
    if stream is None or stream.shape != (1, LENGTH, unembedding.shape[1]):
        return None
    logits = uncapped(subject.causal_lm.logits(ids.tolist())[0], subject.structure.config).to(subject.device)
    seen = logits.diff(dim=0)
    best, left_over = None, UNEXPLAINED * float(seen.norm())
    for norm in (*subject.structure.final_norms(), None):
        states = stream[0].float()
        states = states if norm is None else norm.over_scale(states) * norm.gain.to(stream.device)
        expected = states.diff(dim=0) @ unembedding.T
        scale = float((expected * seen).sum() / expected.square().sum())
        if (rest := float((seen - scale * expected).norm())) < left_over:
            best, left_over = Readout(norm, as_set(scale, subject.structure.config)), rest
    return best


def uncapped(logits: Tensor, config: Any) -> Tensor:
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if not cap else torch.atanh((logits / cap).clamp(-1 + 1e-6, 1 - 1e-6)) * cap


def as_set(scale: float, config: Any) -> float:
    """The number that the settings name for it, by which a model multiplies or divides; the scale itself where none is near.

    Measured numbers depend on the machine in their last digits, settings do not.
    """
    numbers = [value for value in vars(config).values() if isinstance(value, int | float) and abs(value) > 1e-9]
    candidates = [1.0, *map(float, numbers), *(1 / value for value in numbers)]
    nearest = min(candidates, key=lambda value: abs(value - scale))
    return nearest if abs(nearest - scale) < EQUAL * abs(scale) else float(f"{scale:.3g}")
