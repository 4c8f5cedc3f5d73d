"""From where an SAE lies to an SAE in memory."""

from __future__ import annotations

from .autoencoder import SparseAutoencoder
from .controls import RandomSae
from .formats import FORMATS
from .location import SaeLocation


def read_sae(location: SaeLocation | RandomSae, device: str = "cpu") -> SparseAutoencoder:
    """Load one SAE in float32, or draw it where it is a random one.

    Raises:
        InvalidSae: damaged files, missing keys, shapes that do not fit, NaN.
        UnknownSae: an architecture or a setting that is not supported.
    """
    if isinstance(location, RandomSae):
        return location.drawn(device)
    return FORMATS[location.format].read(location.config(), location.weights, device).check(str(location.path))
