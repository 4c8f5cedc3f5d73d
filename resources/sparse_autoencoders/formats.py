"""The formats of SAEs, and which of them a folder's files are of. Reads settings only; needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from . import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    llamascopium,
    qwen_scope,
    saelens,
    sparsify,
)
from .config import Config, Declared, Hooks, UnknownSae, config_in, number_in_name, read_config

if TYPE_CHECKING:
    from .autoencoder import SparseAutoencoder


class Format(Protocol):
    """A format is one module, and a line in FORMATS. `weights` is the file, `name` its folder's where it may be a module's."""

    @property
    def MAKER(self) -> str: ...

    @property
    def CONFIG(self) -> str | None:
        """The settings' file; None where the weights stand alone."""

    @property
    def WEIGHTS(self) -> str:
        """The weights' file; a `*` in it is the number of a layer, each with an SAE of its own in the same folder."""

    @property
    def ARCHITECTURES(self) -> dict[str, str]:
        """By name, what a latent's activation is."""

    def recognises(self, config: Config) -> bool: ...

    def hooks(self, config: Config, weights: Path, name: str | None) -> Hooks: ...

    def declared(self, config: Config, weights: Path) -> Declared:
        """From settings and headers, without torch."""

    def read(self, config: Config, weights: Path, device: str) -> SparseAutoencoder: ...


FORMATS: dict[str, Format] = {
    "sparsify": sparsify,
    "saelens": saelens,
    "gemma_scope": gemma_scope,
    "gemma_scope_2": gemma_scope_2,
    "llama_scope": llama_scope,
    "llamascopium": llamascopium,
    "dictionary_learning": dictionary_learning,
    "qwen_scope": qwen_scope,
    "circuit_tracer": circuit_tracer,
}
BESIDE: dict[str, tuple[str, ...]] = {"saelens": saelens.BESIDE}
"Names of files that may stand beside the weights of a format and are read too."
FAMILY = {"gemma_scope": gemma_scope.FAMILY, "gemma_scope_2": gemma_scope_2.FAMILY}
"Settings of the model by which hooks are understood, of formats that serve one family of models alone."
CONFIGS = tuple(dict.fromkeys(module.CONFIG for module in FORMATS.values() if module.CONFIG))


def file_names(others: bool = False) -> tuple[str, ...]:
    """What files of SAEs are called, in all formats, as patterns; `others`: those too that may stand beside them."""
    more = [name for names in BESIDE.values() for name in names] if others else []
    return (*CONFIGS, *dict.fromkeys(module.WEIGHTS for module in FORMATS.values()), *more)


def beside(name: str) -> tuple[str, ...]:
    """The files that are read beside the weights of a format: its settings, and what may be there."""
    settings = FORMATS[name].CONFIG
    return (*([settings] if settings else []), *BESIDE.get(name, ()))


def numbered(module: Format) -> bool:
    """Whether a folder holds an SAE for each of several layers."""
    return "*" in module.WEIGHTS


def is_weights(file: str, module: Format) -> bool:
    """Whether a path ends in what a format calls its weights."""
    return re.search(rf"(?:^|/){re.escape(module.WEIGHTS)}$".replace(r"\*", r"\d+"), file) is not None


def weights_in(folder: Path, module: Format) -> list[Path]:
    """The weights of a format that lie in a folder, by layer where they are numbered."""
    if not numbered(module):
        return [folder / module.WEIGHTS] if (folder / module.WEIGHTS).is_file() else []
    found = [file for file in folder.glob(module.WEIGHTS) if is_weights(file.name, module)]
    return sorted(found, key=lambda file: number_in_name(file, module.WEIGHTS))


def what_makes_one() -> str:
    """The files of each format."""
    names = {name: [each for each in (module.CONFIG, module.WEIGHTS) if each] for name, module in FORMATS.items()}
    return ", ".join(f"{' + '.join(files)} ({name})" for name, files in names.items())


def holds_sae(folder: Path) -> bool:
    """Whether it is to be read as an SAE: has settings that only SAEs have, or weights under a name that a format alone uses.

    A `config.json` alone is not enough: models have one, and so has a folder of SAEs for its training. Neither are
    numbered files, which hold parts of models elsewhere.
    """
    if (folder / "cfg.json").is_file():
        return True
    if any(weights_in(folder, module) for module in FORMATS.values() if not numbered(module)):
        return True
    return any((folder / (module.CONFIG or "")).is_file() and known(folder, module) for module in FORMATS.values())


def known(folder: Path, module: Format) -> bool:
    """Whether settings are of a format; so are settings that cannot be read, where weights of that format lie beside them."""
    try:
        return module.recognises(config_of(folder, module))
    except UnknownSae:
        return bool(weights_in(folder, module))


def format_of(folder: Path) -> str:
    """By the keys of the settings; without settings, by the name of the weights.

    Raises:
        UnknownSae: no format has these, or the settings are missing.
    """
    there = [module.CONFIG for module in FORMATS.values() if module.CONFIG and (folder / module.CONFIG).is_file()]
    for name, module in FORMATS.items():
        if module.CONFIG in there and module.recognises(config_of(folder, module)):
            return name
        if module.CONFIG is None and weights_in(folder, module):
            return name
    if there:
        raise UnknownSae(f"{folder / there[0]}: no supported format has these keys; supported: {', '.join(FORMATS)}")
    weights = next(module for module in FORMATS.values() if weights_in(folder, module))
    raise UnknownSae(f"{folder}: {weights.CONFIG} is missing beside {weights.WEIGHTS}, the settings of {weights.MAKER}")


def config_of(folder: Path, module: Format) -> Config:
    """The settings of an SAE of a format; empty for one that has none."""
    if module.CONFIG is None:
        return config_in(folder / module.WEIGHTS, {})
    if not (folder / module.CONFIG).is_file():
        raise UnknownSae(f"{folder}: {module.CONFIG} is missing, the settings of {module.MAKER}")
    return read_config(folder / module.CONFIG)
