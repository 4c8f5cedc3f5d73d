"""The common form of every SAE: encode to the few latents that fire, decode from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from resources.sparse_autoencoders.headers import InvalidSae
from resources.sparse_autoencoders.input_norm import InputNorm, scaled

LATENTS_PER_BLOCK = 32_768
ELEMENTS_PER_BLOCK = 2**24


class TopActivations(NamedTuple):
    """What fires on each token. A place whose activation is 0 is padding, whatever its index."""

    activations: Tensor
    "float32 [tokens, width], >= 0; width is k for TopK, else the largest number of latents active on one token"
    indices: Tensor
    "int64 [tokens, width], latent numbers"


@dataclass(frozen=True)
class SparseAutoencoder:
    """One SAE or transcoder. All tensors float32 on one device."""

    W_enc: Tensor
    "[d_in, n_latents]"
    b_enc: Tensor
    "[n_latents]"
    W_dec: Tensor
    "[n_latents, d_out]"
    b_dec: Tensor
    "[d_out]"
    activation: Literal["topk", "groupmax", "relu", "jumprelu"]
    "groupmax: of k groups of neighbouring latents, the largest of each."
    k: int | None = None
    "TopK and groupmax only."
    threshold: Tensor | None = None
    "JumpReLU only: [n_latents]; a latent fires strictly above it."
    subtract_b_dec: bool = True
    "Whether b_dec is subtracted from the input before encoding."
    decoder_norm: Tensor | None = None
    "Rescaled activations only: [n_latents], multiplies the pre-activations; the decoder rows have been divided by it."
    W_skip: Tensor | None = None
    "[d_out, d_in]: what goes from input to output beside the latents."
    input_norm: InputNorm = "none"
    undo_norm: bool = True
    "Whether the input's norm is undone at the output; not where the output is another tensor than the input."

    @property
    def n_latents(self) -> int:
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    def check(self, where: str) -> SparseAutoencoder:
        """Shapes that fit each other and finite numbers.

        Raises:
            InvalidSae: naming the tensor.
        """
        n, d_in, d_out = self.n_latents, self.d_in, self.d_out
        shapes = {
            "W_enc": (d_in, n),
            "b_enc": (n,),
            "b_dec": (d_out,),
            "threshold": (n,),
            "decoder_norm": (n,),
            "W_skip": (d_out, d_in),
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InvalidSae(
                    f"{where}: {name} has shape {tuple(tensor.shape)}, expected {shape} beside W_dec {(n, d_out)}"
                )
        if self.subtract_b_dec and d_in != d_out:
            raise InvalidSae(f"{where}: b_dec [{d_out}] cannot be subtracted from an input of {d_in} dimensions")
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "decoder_norm", "W_skip"):
            tensor = getattr(self, name)
            if tensor is not None and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise InvalidSae(
                    f"{where}: {name} holds {bad:,} values that are NaN or infinite, of {tensor.numel():,}"
                )
        if self.k is not None and not 0 < self.k <= n:
            raise InvalidSae(f"{where}: k is {self.k}, allowed are 1 to the number of latents, {n}")
        if self.activation == "groupmax" and n % (self.k or 1):
            raise InvalidSae(f"{where}: {n} latents cannot be split into k = {self.k} groups of equal size")
        return self

    def encode(self, x: Tensor) -> TopActivations:
        """The latents that fire on each row of x [tokens, d_in] (any float dtype; computed in float32).

        Blocked over tokens and latents: at most ELEMENTS_PER_BLOCK pre-activations exist at a time.
        """
        x = scaled(x.to(self.W_enc.dtype), self.input_norm).rows
        if self.subtract_b_dec:
            x = x - self.b_dec
        rows = max(1, ELEMENTS_PER_BLOCK // min(self.n_latents, LATENTS_PER_BLOCK))
        encode_block = {"topk": self._encode_topk, "groupmax": self._encode_groupmax}.get(
            self.activation, self._encode_threshold
        )
        return join_rows([encode_block(part) for part in x.split(rows)])

    def decode(self, top: TopActivations) -> Tensor:
        """What latents and b_dec add up to, float32 [tokens, d_out]; without a skip connection and in the norm's scale."""
        summed = torch.nn.functional.embedding_bag(
            top.indices, self.W_dec, per_sample_weights=top.activations, mode="sum"
        )
        return summed + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        """What it puts in place of its input x [tokens, d_in], or of a transcoder's target: float32 [tokens, d_out]."""
        x = x.to(self.W_enc.dtype)
        found = self.decode(self.encode(x))
        if self.undo_norm and self.input_norm != "none":
            _, factor, shift = scaled(x, self.input_norm)
            found = found * factor + shift
        return found if self.W_skip is None else found + x @ self.W_skip.T

    def output_scale(self, x: Tensor) -> Tensor:
        """By how much a latent's activation times its decoder row is multiplied at the output: float32 [tokens, 1]."""
        return scaled(x.to(self.W_enc.dtype), self.input_norm if self.undo_norm else "none").factor

    def _pre_activations(self, x: Tensor, start: int, end: int | None = None) -> Tensor:
        """Of latents from `start` on, at most LATENTS_PER_BLOCK: float32 [tokens, latents]."""
        block = slice(start, min(start + LATENTS_PER_BLOCK, end or self.n_latents))
        pre = torch.addmm(self.b_enc[block], x, self.W_enc[:, block])
        return pre if self.decoder_norm is None else pre.mul_(self.decoder_norm[block])

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

    def _encode_groupmax(self, x: Tensor) -> TopActivations:
        assert self.k is not None
        group = self.n_latents // self.k
        found: list[TopActivations] = []
        if group <= LATENTS_PER_BLOCK:
            step = LATENTS_PER_BLOCK // group * group
            for start in range(0, self.n_latents, step):
                pre = self._pre_activations(x, start, start + step).unflatten(1, (-1, group))
                values, places = pre.max(2)
                offsets = torch.arange(start, start + pre.shape[1] * group, group, device=x.device)
                found.append(TopActivations(values, places + offsets))
        else:
            for first in range(0, self.n_latents, group):
                parts = range(first, first + group, LATENTS_PER_BLOCK)
                maxima = [self._pre_activations(x, start, first + group).max(1) for start in parts]
                values, part = torch.stack([each.values for each in maxima], 1).max(1, keepdim=True)
                places = torch.stack([each.indices + start for start, each in zip(parts, maxima, strict=True)], 1)
                found.append(TopActivations(values, places.gather(1, part)))
        values, indices = (torch.cat(each, 1) for each in zip(*found, strict=True))
        return TopActivations(values.relu(), indices)

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
