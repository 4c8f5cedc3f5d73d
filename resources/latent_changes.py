"""What can be done to a latent while the subject model runs, as what is added to the place that its SAE writes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from resources.sparse_autoencoders.autoencoder import SparseAutoencoder


class Change(Protocol):
    """What is done to some rows, at every position from the last of the prompt on."""

    def of(self, x: Tensor) -> Tensor:
        """What is added to what the SAE writes to, float32 [rows, d_out].

        The SAE's reconstruction is never put in place of anything: what it fails to reconstruct stays as it is.

        Args:
            x: what the SAE reads, [rows, d_in].
        """

    def rows(self, which: Tensor) -> Change: ...


@dataclass(frozen=True)
class Added:
    """A constant is added to the activation of one latent of each row."""

    strengths: Tensor
    "float32 [rows]"
    directions: Tensor
    "float32 [rows, d_out], decoder rows of the latents"

    def of(self, x: Tensor) -> Tensor:
        return self.strengths[:, None] * self.directions

    def rows(self, which: Tensor) -> Added:
        return Added(self.strengths[which], self.directions[which])


@dataclass(frozen=True)
class TakenAway:
    """The activation of one latent of each row is set to zero."""

    sae: SparseAutoencoder
    latents: Tensor
    "int64 [rows]"

    def of(self, x: Tensor) -> Tensor:
        top = self.sae.encode(x)
        activation = torch.where(top.indices == self.latents[:, None], top.activations, 0).sum(1)
        return -activation[:, None] * self.sae.output_scale(x) * self.sae.W_dec[self.latents]

    def rows(self, which: Tensor) -> TakenAway:
        return TakenAway(self.sae, self.latents[which])
