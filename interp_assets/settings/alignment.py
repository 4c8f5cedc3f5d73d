"""Which latents of two layers stand for the same thing."""

from __future__ import annotations

from typing import Literal

from interp_assets.settings.base import Settings, device, identity, operational


class Alignment(Settings):
    """Which latents of two layers stand for the same thing."""

    pairs: tuple[tuple[str, str], ...] | None = operational(None, min_length=1)
    "Pairs of layer keys; every two adjacent layers when left out. Which pairs there are changes none of them."
    similarity: Literal["decoder", "encoder", "both", "folded", "activations"] = identity("decoder")
    """Cosine of decoder directions, of encoder directions, or the mean of both. folded: nearness of decoder directions
    times JumpReLU thresholds. activations: correlation of what both do on the study's text."""
    dead: Literal["left_out", "matched"] = identity("left_out")
    "Latents that never fire on the study's text."
    device: str = device()
