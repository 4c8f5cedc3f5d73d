"""The subject model with one latent changed: what it would write next, and what it writes.

Where keys and values hold all that a model needs to go on from a prompt, prompts are run once (`kept_prompts`). Where
they do not, as in models with recurrent layers, every step runs prompts whole (`whole_prompts`). Which of the two is
right is measured once for a model: both are asked for what comes behind two short prompts, changed by nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from resources.causal_lm import NO_MEMORY, forgetful, probe_ids
from resources.hookpoints import place_of
from resources.kept_prompts import run_and_keep
from resources.latent_changes import Added
from resources.model_structure import NoSuchHookpoint
from resources.subject_model import SubjectModel
from resources.whole_prompts import WholePrompts


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
) -> WholePrompts:
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
    places = (hookpoint, writes or hookpoint)
    if keeps_all_it_needs(subject):
        return run_and_keep(subject, *places, prompts, longest, new_tokens, batch_tokens)
    return WholePrompts(subject, *places, prompts, batch_tokens)


def keeps_all_it_needs(subject: SubjectModel) -> bool:
    """Whether a prompt can be gone on from by its keys and values; measured once."""
    if subject.keeps_prompts is None:
        subject.keeps_prompts = measured(subject)
    return subject.keeps_prompts


@torch.inference_mode()
def measured(subject: SubjectModel) -> bool:
    prompts = [probe_ids(subject.model.config, length, seed=length) for length in (9, 21)]
    place = f"{subject.structure.layers_path}.{len(subject.structure.layers) // 2}"
    none = Added(torch.zeros(2, device=subject.device), torch.zeros(2, subject.structure.width, device=subject.device))
    written = [torch.tensor([prompts[0][i], prompts[1][-i]], device=subject.device) for i in (1, 2)]
    whole = WholePrompts(subject, place, place, prompts)
    forgotten = WholePrompts(subject, place, place, [prompt[-1:] for prompt in prompts])
    try:
        kept = run_and_keep(subject, place, place, prompts, 24, len(written) + 1, 64)
        # The second ask of the first step lets the layers below stand as they are.
        pairs = [(kept._step(written[:n], none), whole._step(written[:n], none)) for n in (0, 0, 1, 2)]
    except NO_MEMORY:
        raise
    except Exception:
        return False
    log_probabilities = [[logits.log_softmax(-1) for logits in pair] for pair in pairs]
    forgetting = forgotten._step([], none).log_softmax(-1) - log_probabilities[0][1]
    return not any(forgetful(mine, plain, forgetting, subject.model.dtype) for mine, plain in log_probabilities)
