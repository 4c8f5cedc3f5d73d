"""The common form of every SAE: encode to the few latents that fire, decode from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from resources.errors import UnusableInput

LATENTS_PER_BLOCK = 16_384
ELEMENTS_PER_BLOCK = 2**23


class TopActivations(NamedTuple):
    """What fires on each token. A place whose activation is 0 is padding, whatever its index."""

    activations: Tensor
    "float32 [tokens, width], >= 0; width is k for TopK, else the largest number of latents active on one token"
    indices: Tensor
    "int64 [tokens, width], latent numbers"


class InvalidSae(UnusableInput):
    """Weights that cannot be used; the message names the file, the key and what is wrong."""


@dataclass(frozen=True)
class SparseAutoencoder:
    """One SAE. All tensors float32 on one device."""

    W_enc: Tensor
    "[d_in, n_latents]"
    b_enc: Tensor
    "[n_latents]"
    W_dec: Tensor
    "[n_latents, d_out]"
    b_dec: Tensor
    "[d_out]"
    activation: Literal["topk", "relu", "jumprelu"]
    k: int | None = None
    "TopK only."
    threshold: Tensor | None = None
    "JumpReLU only: [n_latents]; a latent fires strictly above it."
    subtract_b_dec: bool = True
    "Whether b_dec is subtracted from the input before encoding."
    decoder_norm: Tensor | None = None
    "TopK with rescaled activations only: [n_latents], multiplies the pre-activations and divides the decoder rows."

    @property
    def n_latents(self) -> int:
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    def check(self, where: str) -> SparseAutoencoder:
        """Shapes that fit each other and finite numbers.

        Raises:
            InvalidSae: naming the tensor.
        """
        n, d_in, d_out = self.n_latents, self.d_in, self.W_dec.shape[1]
        shapes = {"W_enc": (d_in, n), "b_enc": (n,), "b_dec": (d_out,), "threshold": (n,), "decoder_norm": (n,)}
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InvalidSae(
                    f"{where}: {name} has shape {tuple(tensor.shape)}, expected {shape} beside W_dec {(n, d_out)}"
                )
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
            tensor = getattr(self, name)
            if tensor is not None and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise InvalidSae(
                    f"{where}: {name} holds {bad:,} values that are NaN or infinite, of {tensor.numel():,}"
                )
        if self.k is not None and not 0 < self.k <= n:
            raise InvalidSae(f"{where}: k is {self.k}, allowed are 1 to the number of latents, {n}")
        return self

    def encode(self, x: Tensor) -> TopActivations:
        """The latents that fire on each row of x [tokens, d_in] (any float dtype; computed in float32).

        Blocked over tokens and latents: at most ELEMENTS_PER_BLOCK pre-activations exist at a time.
        """
        x = x.to(self.W_enc.dtype)
        if self.subtract_b_dec:
            x = x - self.b_dec
        rows = max(1, ELEMENTS_PER_BLOCK // min(self.n_latents, LATENTS_PER_BLOCK))
        encode_block = self._encode_topk if self.activation == "topk" else self._encode_threshold
        return join_rows([encode_block(part) for part in x.split(rows)])

    def decode(self, top: TopActivations) -> Tensor:
        """Reconstruction float32 [tokens, d_out]."""
        summed = torch.nn.functional.embedding_bag(
            top.indices, self.W_dec, per_sample_weights=top.activations, mode="sum"
        )
        return summed + self.b_dec

    def _pre_activations(self, x: Tensor, start: int) -> Tensor:
        block = slice(start, start + LATENTS_PER_BLOCK)
        pre = torch.addmm(self.b_enc[block], x, self.W_enc[:, block])
        return pre if self.decoder_norm is None else pre * self.decoder_norm[block]

    def _encode_topk(self, x: Tensor) -> TopActivations:
        assert self.k is not None
        best: TopActivations | None = None
        for start in range(0, self.n_latents, LATENTS_PER_BLOCK):
            pre = self._pre_activations(x, start)
            values, indices = pre.topk(min(self.k, pre.shape[1]), dim=1)
            indices = indices + start
            if best is not None:
                values, indices = torch.cat([best.activations, values], 1), torch.cat([best.indices, indices], 1)
                values, places = values.topk(min(self.k, values.shape[1]), dim=1)
                indices = indices.gather(1, places)
            best = TopActivations(values, indices)
        assert best is not None
        return TopActivations(best.activations.relu(), best.indices)

    def _encode_threshold(self, x: Tensor) -> TopActivations:
        tokens, latents, values = [], [], []
        for start in range(0, self.n_latents, LATENTS_PER_BLOCK):
            pre = self._pre_activations(x, start)
            limit = 0.0 if self.threshold is None else self.threshold[start : start + LATENTS_PER_BLOCK].clamp(min=0)
            token, latent = torch.nonzero(pre > limit, as_tuple=True)
            tokens.append(token)
            latents.append(latent + start)
            values.append(pre[token, latent])
        token, order = torch.cat(tokens).sort(stable=True)
        counts = torch.bincount(token, minlength=len(x))
        place = torch.arange(len(token), device=x.device) - (counts.cumsum(0) - counts)[token]
        width = max(1, int(counts.max()) if len(counts) else 1)
        activations = torch.zeros(len(x), width, device=x.device)
        indices = torch.zeros(len(x), width, dtype=torch.int64, device=x.device)
        activations[token, place] = torch.cat(values)[order]
        indices[token, place] = torch.cat(latents)[order]
        return TopActivations(activations, indices)


def join_rows(parts: list[TopActivations]) -> TopActivations:
    """Stack blocks of tokens, padded to the widest."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.activations.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return TopActivations(
        torch.cat([pad(part.activations, (0, width - part.activations.shape[1])) for part in parts]),
        torch.cat([pad(part.indices, (0, width - part.indices.shape[1])) for part in parts]),
    )
