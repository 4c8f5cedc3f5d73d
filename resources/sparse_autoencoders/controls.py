"""Subjects without weights of their own: a random SAE, the neurons of an MLP. Where they "lie" needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import UnknownSae
from .location import SaeLocation

if TYPE_CHECKING:
    from torch import Tensor

    from .autoencoder import SparseAutoencoder, TopActivations


@dataclass(frozen=True)
class RandomSae:
    """A random TopK SAE in place of a real one: of its shape and k, never of its weights."""

    n_latents: int
    d_in: int
    k: int | None
    "None: the mean L0 of `real`, which is measured."
    seed: int
    place: str
    "The hookpoint: each has a draw of its own."
    real: SaeLocation
    format = "random"

    def files(self) -> list[Path]:
        return self.real.files() if self.k is None else []

    def published_l0(self) -> float | None:
        return None if self.k is None else float(self.k)

    def declared_latents(self) -> int:
        return self.n_latents

    def described(self) -> dict[str, Any]:
        """What decides it, as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "real"}

    def drawn(self, device: str) -> SparseAutoencoder:
        """Encoder rows uniform on the unit sphere, decoder = transpose, no biases.

        Rows are drawn one after the other by a counter-based generator: more latents leave the first ones as they are.
        """
        import torch

        from .autoencoder import SparseAutoencoder

        key = hashlib.sha256(f"{self.seed} {self.place}".encode()).digest()[:16]
        draw = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))
        rows = draw.standard_normal((self.n_latents, self.d_in), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        W_dec = torch.from_numpy(rows).to(device)
        zeros = torch.zeros(self.n_latents + self.d_in, device=device)
        return SparseAutoencoder(
            W_enc=W_dec.T,
            b_enc=zeros[: self.n_latents],
            W_dec=W_dec,
            b_dec=zeros[self.n_latents :],
            activation="topk",
            k=self.k,
        )


@dataclass(frozen=True)
class NeuronsOf:
    """The neurons of the MLP in the decoder layer of a hookpoint; how many there are only the model knows."""

    top: int
    format = "neurons"

    def files(self) -> list[Path]:
        return []

    def published_l0(self) -> None:
        return None

    def declared_latents(self) -> int:
        raise UnknownSae("how many neurons there are, only the subject model knows")

    def described(self) -> dict[str, Any]:
        """What decides it; `of` names what is taken for the MLP, so that what was taken for it before is made anew."""
        return asdict(self) | {"of": "the dense MLP"}


@dataclass(frozen=True)
class Neurons:
    """MLP neurons in the form of an SAE: of what goes into the down projection, all but the largest `k` are zeroed."""

    W_dec: Tensor
    "float32 [n_neurons, d_model], the columns of the down projection"
    k: int

    @property
    def n_latents(self) -> int:
        return self.W_dec.shape[0]

    d_in = d_out = n_latents

    @property
    def W_enc(self) -> Tensor:
        """float32 [d_model, n_neurons]. Neurons share no input direction: for want of one, what they write stands here."""
        return self.W_dec.T

    def encode(self, x: Tensor) -> TopActivations:
        """The k largest of each row of x [tokens, n_neurons]; negative ones do not fire."""
        from .autoencoder import TopActivations

        values, indices = x.float().topk(min(self.k, self.n_latents), dim=1)
        return TopActivations(values.relu(), indices)

    def decode(self, top: TopActivations) -> Tensor:
        """What is left of the input, float32 [tokens, n_neurons]."""
        empty = top.activations.new_zeros(len(top.activations), self.n_latents)
        return empty.scatter_(1, top.indices, top.activations)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The same, of an input [tokens, n_neurons]."""
        return self.decode(self.encode(x))
