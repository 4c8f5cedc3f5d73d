"""What a model does to the unembedding of its last states before it calls the result logits: measured on a short text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from resources.model_structure import weight_of

if TYPE_CHECKING:
    from resources.subject_model import SubjectModel

LENGTH = 16
UNEXPLAINED = 0.1
"Largest part of the logits that may be left over; half precision leaves a few hundredths."
EQUAL = 0.03
"So near the measured scale a setting of the model is what it is meant to be; nearer than half precision measures."


@torch.inference_mode()
def measured_logit_scale(subject: SubjectModel) -> float | None:
    """The factor between logits and the unembedding of the normed residual stream, as the model's settings name it.

    Returns:
        None where logits are not a multiple of that: the model puts something else between.
    """
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(subject.structure.config.vocab_size, (1, LENGTH), generator=draw)
    last = f"{subject.structure.layers_path}.{len(subject.structure.layers) - 1}"
    stream = subject.activations(ids, [last]).get(last)
    unembedding = weight_of(subject.model.get_output_embeddings()).to(subject.device)
    if stream is None or stream.shape != (1, LENGTH, unembedding.shape[1]):
        return None
    norm = subject.structure.final_norm()
    states = stream[0].float() if norm is None else norm.over_scale(stream[0]) * norm.gain.to(stream.device)
    logits = uncapped(subject.causal_lm.logits(ids.tolist())[0], subject.structure.config).to(subject.device)
    expected, seen = states.diff(dim=0) @ unembedding.T, logits.diff(dim=0)
    scale = float((expected * seen).sum() / expected.square().sum())
    if not float((seen - scale * expected).norm()) < UNEXPLAINED * float(seen.norm()):
        return None
    return as_set(scale, subject.structure.config)


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
