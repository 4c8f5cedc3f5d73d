"""What latents do on texts that are not of the corpus: the subject model and the SAE read them as they read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from interp_assets.activations.proof_of_load import out_of_range
from resources.errors import UnusableInput
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.controls import Neurons
from resources.subject_model import SubjectModel
from resources.tokenizers import text_ids

Ids = list[int]


def strongest_on(
    texts: Mapping[str, Sequence[int]],
    tokenizer: Any,
    head: Ids,
    skip: int,
    longest: int,
    subject: SubjectModel,
    sae: SparseAutoencoder | Neurons,
    hookpoint: str,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> dict[tuple[str, int], float]:
    """The strongest activation on each text of each latent that is looked at there; 0 where it does not fire.

    Args:
        texts: with the latents that are looked at on each.
        head: what each text begins with: BOS, or nothing.
        skip: positions at the beginning, those of `head` among them, whose activations do not count.
        longest: tokens of a text; what comes after them is not read.
        batch_tokens: read at once.
        advance: told how many texts were read.

    Raises:
        UnusableInput: the model leaves the range of its numbers, where it would seem that nothing fires.
    """
    found_ids = zip(texts, text_ids(tokenizer, list(texts)), strict=True)
    ids = {text: head + found[: longest - len(head)] for text, found in found_ids}
    found = {(text, latent): 0.0 for text, latents in texts.items() for latent in latents}
    for part in batches(ids, skip, batch_tokens):
        width = len(ids[part[-1]])
        # Padding stands on the right, where causal attention keeps it from touching what comes before.
        rows = torch.tensor([ids[text] + [0] * (width - len(ids[text])) for text in part])
        x = subject.activations(rows, [hookpoint])[hookpoint]
        for text, row in zip(part, x, strict=True):
            if not torch.isfinite(row[: len(ids[text])]).all():
                raise UnusableInput(
                    f"{hookpoint} holds values that are NaN or infinite on a text that was written{out_of_range(row)}"
                )
            top = sae.encode(row[skip : len(ids[text])])
            for latent in texts[text]:
                own = torch.where(top.indices == latent, top.activations, 0.0)
                found[text, latent] = float(own.max())
        advance(len(part))
    return found


def batches(ids: Mapping[str, Ids], skip: int, batch_tokens: int) -> Iterator[list[str]]:
    """Texts of about one length together, the shortest first; those without a token of their own are left out."""
    part: list[str] = []
    for text in sorted((text for text in ids if len(ids[text]) > skip), key=lambda text: (len(ids[text]), text)):
        if part and (len(part) + 1) * len(ids[text]) > batch_tokens:
            yield part
            part = []
        part.append(text)
    if part:
        yield part
