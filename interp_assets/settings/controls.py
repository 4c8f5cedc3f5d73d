"""What SAEs are compared with: subjects that should score worse, carried through all stages like an SAE of their own."""

from __future__ import annotations

from typing import Any

from interp_assets.settings.base import Settings, identity, operational


def layers_of_control() -> Any:
    return operational(None, min_length=1)


def latents_interpreted() -> Any:
    """A field: at most so many latents of the control are interpreted; as many as of the real SAE when left out."""
    return identity(None, ge=1)


def latents_per_token() -> Any:
    return identity(None, ge=1)


class RandomControl(Settings):
    """A random TopK SAE in place of the real one: spherical encoder rows of unit norm, decoder = transpose, no biases.

    Becomes layers.10@random (after Paulo et al. 2024, arXiv 2410.13928).
    """

    layers: tuple[str, ...] | None = layers_of_control()
    "Keys of the layers that get one; all when left out. Which there are changes none of them."
    latents: int | None = latents_interpreted()
    k: int | None = latents_per_token()
    "Latents that fire on a token. When left out the real SAE's k, or its mean L0 in whole numbers if it is not TopK."
    seed: int = identity(0, ge=0)


class NeuronsControl(Settings):
    """The MLP neurons of the same decoder layer, taken as latents. Becomes layers.10@neurons.

    A neuron is one dimension of what goes into the MLP's down projection; its column there stands for a decoder row.
    """

    layers: tuple[str, ...] | None = layers_of_control()
    "Keys of the layers that get one; all that lie in a numbered decoder layer when left out."
    latents: int | None = latents_interpreted()
    top: int = identity(32, ge=1)
    "Only the largest so many of a token count as firing; the literature takes 32 or 256."


class UntrainedControl(Settings):
    """The subject model with weights as fresh from its initialisation, read by a random SAE. Becomes layers.10@untrained.

    Auto-interpretability scores alone do not tell trained from random transformers (Heap et al., ICLR 2026).
    """

    layers: tuple[str, ...] | None = layers_of_control()
    "Keys of the layers that get one; all when left out."
    latents: int | None = latents_interpreted()
    saes: str | None = operational(None)
    """SAEs trained on this untrained model, by hookpoint: a folder or a hub name. A random SAE of the real one's shape when
    left out."""
    k: int | None = latents_per_token()
    "As for `random`; needed where the real SAE is not TopK."
    seed: int = identity(0, ge=0)
    "Of the model's weights and of the random SAE."


class Controls(Settings):
    """What SAEs are compared with; one line each, `random: {}`."""

    random: RandomControl | None = identity(None)
    neurons: NeuronsControl | None = identity(None)
    untrained: UntrainedControl | None = identity(None)

    def chosen(self) -> dict[str, RandomControl | NeuronsControl | UntrainedControl]:
        return {name: control for name in type(self).model_fields if (control := getattr(self, name)) is not None}
