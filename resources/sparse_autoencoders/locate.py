"""Find SAEs on disk, and say what their settings and headers say. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resources.errors import UnusableInput
from resources.hookpoints import PATH, hookpoint_of

from .config import Config, Declared, Hooks, UnknownSae
from .formats import BESIDE, FORMATS, config_of, format_of, holds_sae, numbered, weights_in, what_makes_one
from .headers import shapes_in


class SaeLocation(NamedTuple):
    """Where one SAE lies, and which hookpoints it reads and writes."""

    hookpoint: str | None
    "What it reads; None where the files do not say."
    weights: Path
    "The file."
    format: str
    writes: str | None = None
    "Of a transcoder: what it reconstructs."
    transcodes: bool = False

    @property
    def folder(self) -> Path:
        """Where its settings lie."""
        return self.weights.parents[len(Path(FORMATS[self.format].WEIGHTS).parts) - 1]

    @property
    def place(self) -> Path:
        """What tells it from others: its folder, or the file where a folder holds several."""
        return self.weights if numbered(FORMATS[self.format]) else self.folder

    def files(self) -> list[Path]:
        module = FORMATS[self.format]
        beside = [name for name in BESIDE.get(self.format, ()) if (self.folder / name).is_file()]
        settings = [module.CONFIG] if module.CONFIG else []
        return [*(self.folder / name for name in settings), self.weights, *(self.folder / name for name in beside)]

    def config(self) -> Config:
        return config_of(self.folder, FORMATS[self.format])

    def declared(self) -> Declared:
        """
        Raises:
            UnknownSae: its settings lack a number, or hold none.
        """
        return FORMATS[self.format].declared(self.config(), self.weights)

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
                f"{self.place}: a transcoder is named by the module that it stands in for, as in layers.3.mlp; "
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
            found.extend(recognise(folder, root, format, model))
        except UnusableInput as error:
            if problems is None:
                raise
            problems[folder] = str(error)
    return found


def below(root: Path) -> Iterator[Path]:
    return (folder for folder in root.rglob("*") if folder.is_dir() and not folder.name.startswith("."))


def recognise(folder: Path, root: Path, format: str, model: Mapping[str, Any] | None = None) -> list[SaeLocation]:
    """The SAEs of a folder: one, or of a numbered format one for each layer."""
    name = format if format != "auto" else format_of(folder)
    module = FORMATS[name]
    if module.CONFIG and not module.recognises(config_of(folder, module)):
        raise UnknownSae(
            f"{folder / module.CONFIG}: format {name} does not have these keys; supported: {', '.join(FORMATS)}"
        )
    config = config_of(folder, module)
    there = weights_in(folder, module)
    if not there:
        # Another kind may keep its weights elsewhere; then that is what has to be said.
        module.hooks(config, folder / module.WEIGHTS, None)
        said = f"{module.CONFIG} is of format {name}, but " if module.CONFIG else ""
        raise UnknownSae(f"{folder}: {said}{module.WEIGHTS} is missing")
    # A single SAE's folder has a name of its own, which is a module's only if it looks like one.
    own_name = None if folder == root and not looks_like_module(folder.name) else folder.name
    if own_name and not re.fullmatch(PATH, own_name):
        own_name = None
    family = model if model is not None else getattr(module, "FAMILY", None)
    found = []
    for weights in there:
        said_by: Hooks = module.hooks(config, weights, own_name)
        reads, writes = (hook and hookpoint_of(hook, family) for hook in (said_by.reads, said_by.writes))
        found.append(SaeLocation(reads, weights, name, writes, said_by.transcodes))
    return found


def looks_like_module(name: str) -> bool:
    """`layers.10` and `h.3.mlp` name modules; `my-sae` does not."""
    parts = name.split(".")
    return len(parts) > 1 and parts[1].isdigit()


def describe(location: SaeLocation) -> dict[str, Any]:
    """All that its settings and headers say, as plain values.

    Raises:
        UnusableInput: they do not say it, or are damaged.
    """
    declared = location.declared()
    shapes = shapes_in(location.weights)
    return {
        "place": str(location.place),
        "format": location.format,
        **declared._asdict(),
        "reads": location.hookpoint,
        "writes": location.writes or location.hookpoint,
        "transcodes": location.transcodes,
        "tensors": {
            name: {"shape": list(header.shape), "dtype": header.dtype} for name, header in (shapes or {}).items()
        },
        "bytes": location.weights.stat().st_size,
    }
