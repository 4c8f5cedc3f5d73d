"""Which latents of two layers stand for the same thing."""

from __future__ import annotations

from typing import Literal

from interp_assets.settings.base import Settings, identity, operational


class Alignment(Settings):
    """Which latents of two layers stand for the same thing."""

    pairs: tuple[tuple[str, str], ...] | None = operational(None, min_length=1)
    "Pairs of layer keys; every two adjacent layers when left out. Which pairs there are changes none of them."
    similarity: Literal["decoder", "encoder"] = identity("decoder")
    "Cosine of decoder or of encoder directions."
