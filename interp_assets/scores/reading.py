"""What latents do on texts that are not of the corpus: the subject model and the SAE read them as they read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.controls import Neurons
from resources.subject_model import SubjectModel

Ids = list[int]


def strongest_on(
    texts: Mapping[str, Sequence[int]],
    tokenizer: Any,
    bos: bool,
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
        bos: whether texts begin with BOS, whose activations do not count.
        longest: tokens of a text; what comes after them is not read.
        batch_tokens: read at once.
        advance: told how many texts were read.
    """
    skip = 1 if bos else 0
    head = [tokenizer.bos_token_id] if bos else []
    ids = {text: head + tokenizer(text, add_special_tokens=False)["input_ids"][: longest - skip] for text in texts}
    found = {(text, latent): 0.0 for text, latents in texts.items() for latent in latents}
    for part in batches(ids, skip, batch_tokens):
        width = len(ids[part[-1]])
        # Padding stands on the right, where causal attention keeps it from touching what comes before.
        rows = torch.tensor([ids[text] + [0] * (width - len(ids[text])) for text in part])
        x = subject.activations(rows, [hookpoint])[hookpoint]
        for text, row in zip(part, x, strict=True):
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
