"""Layers of a study: an SAE at a hookpoint, or a control subject beside one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from interp_assets.setting_errors import StudyError, first_twice, listed
from interp_assets.settings import (
    Controls,
    NeuronsControl,
    RandomControl,
    Settings,
    UntrainedControl,
    identity,
    operational,
)
from resources.errors import UnusableInput
from resources.sparse_autoencoders.config import UnknownSae
from resources.sparse_autoencoders.controls import NeuronsOf, RandomSae
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.location import SaeLocation

CONTROLS = tuple(Controls.model_fields)
"What stands behind the @ of a control's key; no SAE may be labelled so."


@dataclass(frozen=True)
class MissingSae:
    """Stands where the study names an SAE and none is: the layer is there, and cannot be made."""

    problem: str
    format = "missing"

    def files(self) -> list[Path]:
        return []

    def published_l0(self) -> float | None:
        raise UnknownSae(self.problem)

    def declared_latents(self) -> int:
        raise UnknownSae(self.problem)

    def described(self) -> dict[str, Any]:
        return {}


class Layer(Settings):
    """One subject of the study: its partition key, where it reads in the subject model, and where its weights lie."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    key: str = operational()
    hookpoint: str = identity()
    writes: str | None = identity(None)
    "Of a transcoder: the hookpoint that it reconstructs, and to which its latents are added."
    location: SaeLocation | RandomSae | NeuronsOf | MissingSae = operational()
    control: str | None = identity(None)
    "Which control it is; None for an SAE of the study."
    latents: int | None = identity(None)
    "Of a control: at most so many are interpreted."
    untrained: int | None = identity(None)
    "Seed of the subject model's weights where they are not the trained ones."

    def read(self) -> dict[str, Any]:
        """What decides it beside its SAE's files, as plain values."""
        return {"hookpoint": self.hookpoint} | ({"writes": self.writes} if self.writes else {})

    def control_read(self) -> dict[str, Any]:
        """What decides a control beside files, as plain values; nothing for an SAE of the study."""
        if self.control is None:
            return {}
        described = {} if isinstance(self.location, SaeLocation) else self.location.described()
        return {"control": {"kind": self.control, "untrained": self.untrained} | described}


def control_layers(
    controls: Controls, layers: Sequence[Layer], folder: Path | None, model: Mapping[str, Any] | None = None
) -> list[Layer]:
    """The layers that the controls of a study add to those of its SAEs.

    Args:
        folder: of SAEs trained on the untrained model, where the study names one.
        model: settings of the subject model, by which names of hooks are understood.

    Raises:
        StudyError: a control is wanted where there can be none.
    """
    found: list[Layer] = []
    for name, control in controls.chosen().items():
        for layer in wanted_layers(name, control, layers):
            # A labelled SAE has controls of its own shape; what is in the model is there once.
            label = layer.key.removeprefix(layer.hookpoint).removeprefix("@")
            if isinstance(control, NeuronsControl):
                place = str(decoder_layer(layer.hookpoint))
                made = Layer(
                    key=f"{place}@{name}",
                    hookpoint=place,
                    location=NeuronsOf(control.top),
                    control=name,
                    latents=control.latents,
                )
                if made in found:
                    continue
            else:
                key = f"{layer.hookpoint}@{label}.{name}" if label else f"{layer.hookpoint}@{name}"
                untrained = control.seed if isinstance(control, UntrainedControl) else None
                location = sae_of_control(name, control, layer, folder, model)
                made = Layer(
                    key=key,
                    hookpoint=layer.hookpoint,
                    writes=layer.writes,
                    location=location,
                    control=name,
                    latents=control.latents,
                    untrained=untrained,
                )
            found.append(made)
    return found


def names_control(label: str) -> bool:
    """Whether the keys of layers with a label could not be told from those of a control: `random`, `wide.random`."""
    return label.rpartition(".")[2] in CONTROLS


def control_in(key: str) -> str | None:
    """Which control a layer key stands for: `layers.10@random`, `layers.10@wide.random`; None for an SAE of the study."""
    name = key.partition("@")[2].rpartition(".")[2]
    return name if name in CONTROLS else None


def stands_beside(control: str, key: str) -> bool:
    """Whether a control, by its layer key, is what the SAE of another layer key is compared with."""
    name = control_in(control)
    if name is None or control_in(key) is not None:
        return False
    if name == "neurons":
        return decoder_layer(key.partition("@")[0]) == control.partition("@")[0]
    return control == (f"{key}.{name}" if "@" in key else f"{key}@{name}")


def wanted_layers(
    name: str, control: RandomControl | NeuronsControl | UntrainedControl, layers: Sequence[Layer]
) -> list[Layer]:
    by_key = {layer.key: layer for layer in layers}
    for key in control.layers or ():
        if key not in by_key:
            raise StudyError(f"controls.{name}.layers: no layer {key!r}; {listed(by_key)}")
    if (key := first_twice(control.layers or ())) is not None:
        raise StudyError(f"controls.{name}.layers: {key!r} stands there twice; leave one out")
    chosen = [by_key[key] for key in control.layers or by_key]
    if not isinstance(control, NeuronsControl):
        return chosen
    numbered = [layer for layer in chosen if decoder_layer(layer.hookpoint)]
    if control.layers and len(numbered) < len(chosen):
        wrong = next(layer.key for layer in chosen if layer not in numbered)
        raise StudyError(
            f"controls.neurons.layers: {wrong} lies in no numbered decoder layer, so it has no MLP neurons"
        )
    return numbered


def decoder_layer(hookpoint: str) -> str | None:
    """`layers.10` of `layers.10.self_attn.o_proj:in`; None where a path has no number."""
    found = re.match(r"[^:]*?\.\d+(?=[.:]|$)", hookpoint)
    return found[0] if found else None


def sae_of_control(
    name: str,
    control: RandomControl | UntrainedControl,
    layer: Layer,
    folder: Path | None,
    model: Mapping[str, Any] | None,
) -> SaeLocation | RandomSae | MissingSae:
    real = layer.location
    assert isinstance(real, SaeLocation | MissingSae)
    try:
        if isinstance(control, UntrainedControl) and folder is not None:
            found = locate(folder, model=model)
            there = {place.hookpoint: place for place in found}
            if sum(place.hookpoint == layer.hookpoint for place in found) > 1:
                raise StudyError(
                    f"controls.untrained.saes: several SAEs read {layer.hookpoint} in {folder}; name one's folder"
                )
            if layer.hookpoint not in there:
                places = listed(place for place in there if place)
                raise StudyError(f"controls.untrained.saes: no SAE for {layer.hookpoint!r} in {folder}; {places}")
            return there[layer.hookpoint]
        if isinstance(real, MissingSae):
            return real
        declared = real.declared()
        if declared.d_in != declared.d_out:
            raise StudyError(
                f"controls.{name}: {layer.key} reads {declared.d_in} dimensions and writes {declared.d_out}: no random SAE stands "
                f"beside it; leave it out of controls.{name}.layers"
            )
        published = declared.l0
        k = control.k or (round(published) if published else None)
        drawn = RandomSae(declared.n_latents, declared.d_in, k, control.seed, layer.hookpoint, real)
    except UnusableInput as error:
        # What is wrong with the real one's files stops its own layers only.
        return MissingSae(f"controls.{name}: {error}")
    if k is None and isinstance(control, UntrainedControl):
        raise StudyError(
            f"controls.{name}.k: missing; the SAE of {layer.key} is not TopK, so say how many latents fire on a token"
        )
    if k is not None and not 1 <= k <= drawn.n_latents:
        raise StudyError(f"controls.{name}.k: {k} is not within 1 and {drawn.n_latents}, the latents of {layer.key}")
    return drawn
