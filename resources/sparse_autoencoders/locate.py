"""Find SAEs on disk and recognise their format by content. Reads settings only, no weights; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from resources.errors import UnusableInput

from . import saelens, sparsify

FORMATS: dict[str, ModuleType] = {"sparsify": sparsify, "saelens": saelens}
"A format is one module: `WEIGHTS` (file name), `recognises(config)`, `hookpoint(config, name)`, `read(folder, config)`."

CONFIG = "cfg.json"


def file_names() -> tuple[str, ...]:
    """What files of SAEs are called, in all formats."""
    names = [CONFIG, *(module.WEIGHTS for module in FORMATS.values())]
    return tuple(dict.fromkeys(names))


class UnknownSae(UnusableInput):
    """No SAE of a supported format lies where the study says; the message says what was found instead."""


class SaeLocation(NamedTuple):
    hookpoint: str | None
    "Module path under the base model; None where the files do not say."
    folder: Path
    format: str

    def files(self) -> list[Path]:
        return [self.folder / CONFIG, self.folder / FORMATS[self.format].WEIGHTS]

    def published_l0(self) -> float | None:
        """The mean L0 that the settings promise: k for TopK, None where they promise nothing."""
        try:
            return FORMATS[self.format].published_l0(config_of(self.folder))
        except (TypeError, ValueError) as error:
            raise UnknownSae(f"{self.folder / CONFIG}: k is not a number ({error})") from None

    def declared_latents(self) -> int:
        """How many latents the settings promise.

        Raises:
            UnknownSae: they promise no number.
        """
        try:
            return FORMATS[self.format].declared_latents(config_of(self.folder))
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownSae(f"{self.folder / CONFIG}: no number of latents ({error})") from None

    def declared_inputs(self) -> int:
        """How many dimensions the settings promise to read.

        Raises:
            UnknownSae: they promise no number.
        """
        try:
            return int(config_of(self.folder)["d_in"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownSae(f"{self.folder / CONFIG}: no number of dimensions, d_in ({error})") from None


def locate(root: Path, format: str = "auto", problems: dict[Path, str] | None = None) -> list[SaeLocation]:
    """Every SAE in or below a folder, by hookpoint.

    Args:
        problems: where given, takes up by folder what is wrong with an SAE, and the others are found all the same.

    Raises:
        UnknownSae: there is none, or one that no format recognises.
    """
    folders = [root] if (root / CONFIG).is_file() else sorted(file.parent for file in root.rglob(CONFIG))
    if not folders:
        raise UnknownSae(f"{root}: no SAE here: no {CONFIG} in it or below; supported formats: {', '.join(FORMATS)}")
    found = []
    for folder in folders:
        try:
            found.append(recognise(folder, root, format))
        except UnknownSae as error:
            if problems is None:
                raise
            problems[folder] = str(error)
    return found


def recognise(folder: Path, root: Path, format: str) -> SaeLocation:
    config = config_of(folder)
    names = [name for name in (FORMATS if format == "auto" else [format]) if FORMATS[name].recognises(config)]
    if not names:
        what = "no supported format has" if format == "auto" else f"format {format} does not have"
        raise UnknownSae(f"{folder / CONFIG}: {what} these keys; supported: {', '.join(FORMATS)}")
    if not (folder / FORMATS[names[0]].WEIGHTS).is_file():
        raise UnknownSae(f"{folder}: {CONFIG} is of format {names[0]}, but {FORMATS[names[0]].WEIGHTS} is missing")
    own_name = None if folder == root and not looks_like_module(folder.name) else folder.relative_to(root.parent).name
    return SaeLocation(FORMATS[names[0]].hookpoint(config, own_name), folder, names[0])


def looks_like_module(name: str) -> bool:
    """`layers.10` and `h.3.mlp` name modules; `my-sae` does not."""
    parts = name.split(".")
    return len(parts) > 1 and parts[1].isdigit()


def config_of(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnknownSae(f"{folder / CONFIG}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise UnknownSae(f"{folder / CONFIG}: not a JSON object")
    return config
