"""From where an SAE lies to an SAE in memory."""

from __future__ import annotations

from .autoencoder import SparseAutoencoder
from .controls import RandomSae
from .locate import FORMATS, SaeLocation, config_of


def read_sae(location: SaeLocation | RandomSae, device: str = "cpu") -> SparseAutoencoder:
    """Load one SAE in float32, or draw it where it is a random one.

    Raises:
        InvalidSae: damaged files, missing keys, shapes that do not fit, NaN, or an architecture not supported.
    """
    if isinstance(location, RandomSae):
        return location.drawn(device)
    config = config_of(location.folder)
    return FORMATS[location.format].read(location.folder, config, device).check(str(location.folder))
