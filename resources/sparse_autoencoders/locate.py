"""Find SAEs on disk and recognise their format by content. Reads settings and headers only; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from resources.errors import UnusableInput
from resources.hookpoints import PATH, hookpoint_of

from . import dictionary_learning, gemma_scope, gemma_scope_2, llama_scope, llamascopium, saelens, sparsify
from .config import Config, Declared, Hooks, UnknownSae, config_in, read_config
from .headers import shapes_in

FORMATS: dict[str, ModuleType] = {
    "sparsify": sparsify,
    "saelens": saelens,
    "gemma_scope": gemma_scope,
    "gemma_scope_2": gemma_scope_2,
    "llama_scope": llama_scope,
    "llamascopium": llamascopium,
    "dictionary_learning": dictionary_learning,
}
"""A format is one module:

- `MAKER`; `CONFIG` and `WEIGHTS`, file names (no CONFIG where the weights stand alone); `ARCHITECTURES`, name -> what is
  computed; `FAMILY`, settings of the model by which its hooks' names are understood, where it serves one family alone;
- `BESIDE`, names of files that may stand beside these and are read too, where there are such;
- `recognises(config)`; `hooks(config, folder, name)`; `declared(config, folder)`: from settings and headers, without torch;
- `read(config, folder, device)`.
"""
BESIDE = {name: module.BESIDE for name, module in FORMATS.items() if hasattr(module, "BESIDE")}
CONFIGS = tuple(dict.fromkeys(module.CONFIG for module in FORMATS.values() if module.CONFIG))


def file_names(beside: bool = False) -> tuple[str, ...]:
    """What files of SAEs are called, in all formats; `beside`: those too that may stand beside them."""
    others = [name for names in BESIDE.values() for name in names] if beside else []
    return (*CONFIGS, *dict.fromkeys(module.WEIGHTS for module in FORMATS.values()), *others)


class SaeLocation(NamedTuple):
    """Where one SAE lies, and which hookpoints it reads and writes."""

    hookpoint: str | None
    "What it reads; None where the files do not say."
    folder: Path
    format: str
    writes: str | None = None
    "Of a transcoder: what it reconstructs."
    transcodes: bool = False

    def files(self) -> list[Path]:
        module = FORMATS[self.format]
        beside = [name for name in BESIDE.get(self.format, ()) if (self.folder / name).is_file()]
        return [self.folder / name for name in (module.CONFIG, module.WEIGHTS, *beside) if name]

    def config(self) -> Config:
        return config_of(self.folder, FORMATS[self.format])

    def declared(self) -> Declared:
        """
        Raises:
            UnknownSae: its settings lack a number, or hold none.
        """
        return FORMATS[self.format].declared(self.config(), self.folder)

    def published_l0(self) -> float | None:
        """The mean L0 that the settings promise: k for TopK, None where they promise nothing."""
        return self.declared().l0

    def declared_latents(self) -> int:
        """How many latents the settings promise."""
        return self.declared().n_latents

    def declared_inputs(self) -> int:
        """How many dimensions the settings promise to read."""
        return self.declared().d_in

    def at(self, hookpoint: str) -> SaeLocation:
        """The same SAE at a place that its files do not name; of a transcoder the module is named.

        Raises:
            UnknownSae: the place of a transcoder is no module.
        """
        module = hookpoint.removesuffix(":in")
        if not self.transcodes:
            return self._replace(hookpoint=hookpoint)
        if ":" in module:
            raise UnknownSae(
                f"{self.folder}: a transcoder is named by the module that it stands in for, as in layers.3.mlp; "
                f"{hookpoint} is none"
            )
        return self._replace(hookpoint=f"{module}:in", writes=self.writes or module)


def locate(
    root: Path,
    format: str = "auto",
    model: Mapping[str, Any] | None = None,
    problems: dict[Path, str] | None = None,
) -> list[SaeLocation]:
    """Every SAE in or below a folder, by hookpoint.

    Args:
        model: settings of the subject model, by which names of hooks are understood.
        problems: where given, takes up by folder what is wrong with an SAE, and the others are found all the same.

    Raises:
        UnknownSae: there is none, or one that no format recognises.
        UnknownHook: one names a hook that stands for no hookpoint.
    """
    folders = [root] if holds_sae(root) else [folder for folder in sorted(below(root)) if holds_sae(folder)]
    if not folders:
        raise UnknownSae(f"{root}: no SAE here or below; an SAE is {what_makes_one()}")
    found = []
    for folder in folders:
        try:
            found.append(recognise(folder, root, format, model))
        except UnusableInput as error:
            if problems is None:
                raise
            problems[folder] = str(error)
    return found


def what_makes_one() -> str:
    """The files of each format."""
    names = {name: [each for each in (module.CONFIG, module.WEIGHTS) if each] for name, module in FORMATS.items()}
    return ", ".join(f"{' + '.join(files)} ({name})" for name, files in names.items())


def below(root: Path) -> Iterator[Path]:
    return (folder for folder in root.rglob("*") if folder.is_dir() and not folder.name.startswith("."))


def holds_sae(folder: Path) -> bool:
    """Whether it is to be read as an SAE: has settings that only SAEs have, or weights under the name that a format uses.

    A `config.json` alone is not enough: models have one, and so has a folder of SAEs for its training.
    """
    if (folder / "cfg.json").is_file():
        return True
    if any((folder / module.WEIGHTS).is_file() for module in FORMATS.values()):
        return True
    others = (module for module in FORMATS.values() if module.CONFIG not in (None, "cfg.json"))
    return any((folder / module.CONFIG).is_file() and known(folder, module) for module in others)


def known(folder: Path, module: ModuleType) -> bool:
    try:
        return module.recognises(config_of(folder, module))
    except UnknownSae:
        return False


def recognise(folder: Path, root: Path, format: str, model: Mapping[str, Any] | None = None) -> SaeLocation:
    name = format if format != "auto" else format_of(folder)
    module = FORMATS[name]
    if module.CONFIG and not module.recognises(config_of(folder, module)):
        raise UnknownSae(
            f"{folder / module.CONFIG}: format {name} does not have these keys; supported: {', '.join(FORMATS)}"
        )
    if not (folder / module.WEIGHTS).is_file():
        said = f"{module.CONFIG} is of format {name}, but " if module.CONFIG else ""
        raise UnknownSae(f"{folder}: {said}{module.WEIGHTS} is missing")
    # A single SAE's folder has a name of its own, which is a module's only if it looks like one.
    own_name = None if folder == root and not looks_like_module(folder.name) else folder.name
    if own_name and not re.fullmatch(PATH, own_name):
        own_name = None
    found: Hooks = module.hooks(config_of(folder, module), folder, own_name)
    family = model if model is not None else getattr(module, "FAMILY", None)
    reads, writes = (hook and hookpoint_of(hook, family) for hook in (found.reads, found.writes))
    return SaeLocation(reads, folder, name, writes, found.transcodes)


def format_of(folder: Path) -> str:
    """By the keys of the settings; without settings, by the name of the weights."""
    there = [module.CONFIG for module in FORMATS.values() if module.CONFIG and (folder / module.CONFIG).is_file()]
    for name, module in FORMATS.items():
        if module.CONFIG in there and module.recognises(config_of(folder, module)):
            return name
        if module.CONFIG is None and (folder / module.WEIGHTS).is_file():
            return name
    if there:
        raise UnknownSae(f"{folder / there[0]}: no supported format has these keys; supported: {', '.join(FORMATS)}")
    weights = next(module for module in FORMATS.values() if (folder / module.WEIGHTS).is_file())
    raise UnknownSae(f"{folder}: {weights.CONFIG} is missing beside {weights.WEIGHTS}, the settings of {weights.MAKER}")


def looks_like_module(name: str) -> bool:
    """`layers.10` and `h.3.mlp` name modules; `my-sae` does not."""
    parts = name.split(".")
    return len(parts) > 1 and parts[1].isdigit()


def config_of(folder: Path, module: ModuleType) -> Config:
    """The settings of an SAE of a format; empty for one that has none."""
    if module.CONFIG is None:
        return config_in(folder / module.WEIGHTS, {})
    if not (folder / module.CONFIG).is_file():
        raise UnknownSae(f"{folder}: {module.CONFIG} is missing, the settings of {module.MAKER}")
    return read_config(folder / module.CONFIG)


def describe(location: SaeLocation) -> dict[str, Any]:
    """All that its settings and headers say, as plain values.

    Raises:
        UnusableInput: they do not say it, or are damaged.
    """
    declared = location.declared()
    weights = location.folder / FORMATS[location.format].WEIGHTS
    shapes = shapes_in(weights)
    return {
        "folder": str(location.folder),
        "format": location.format,
        **declared._asdict(),
        "reads": location.hookpoint,
        "writes": location.writes or location.hookpoint,
        "transcodes": location.transcodes,
        "tensors": {
            name: {"shape": list(header.shape), "dtype": header.dtype} for name, header in (shapes or {}).items()
        },
        "bytes": weights.stat().st_size,
    }
