"""Where one SAE lies, and what its settings and headers say of it. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from .config import Config, Declared, UnknownSae
from .formats import BESIDE, FORMATS, config_of, numbered
from .headers import InvalidSae, shapes_in


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
    or_reads: str | None = None
    "What else its maker's name of the place it reads may mean; None where it means one."

    @property
    def folder(self) -> Path:
        """Where its settings lie."""
        return self.weights.parents[len(Path(FORMATS[self.format].WEIGHTS).parts) - 1]

    @property
    def path(self) -> Path:
        """What tells it from others: its folder, or the file where a folder holds several."""
        return self.weights if numbered(FORMATS[self.format]) else self.folder

    def files(self) -> list[Path]:
        settings, others = FORMATS[self.format].CONFIG, BESIDE.get(self.format, ())
        there = [self.folder / name for name in others if (self.folder / name).is_file()]
        return [*([self.folder / settings] if settings else []), self.weights, *there]

    def config(self) -> Config:
        return config_of(self.folder, FORMATS[self.format])

    def declared(self) -> Declared:
        """
        Raises:
            UnknownSae: its settings lack a number, hold none, or are not supported.
        """
        facts: Declared = FORMATS[self.format].declared(self.config(), self.weights)
        for name, size in (("latents", facts.n_latents), ("dimensions", facts.d_in), ("dimensions", facts.d_out)):
            if size < 1:
                raise UnknownSae(f"{self.path}: its settings say {size} {name}")
        if facts.l0 is not None and not 0 < facts.l0 <= facts.n_latents:
            raise UnknownSae(
                f"{self.path}: k is {facts.l0:g} (or the published L0), allowed are 1 to the number of latents, {facts.n_latents}"
            )
        return facts

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
                f"{self.path}: a transcoder is named by the module that it stands in for, as in layers.3.mlp; "
                f"{hookpoint} is none"
            )
        return self._replace(hookpoint=f"{module}:in", writes=self.writes or module)


def in_order(location: SaeLocation) -> list[int]:
    """By the numbers in what it reads, as numbers: layers.8 stands before layers.10."""
    return [int(part) if part.isdigit() else -1 for part in re.split(r"[.:]", location.hookpoint or "")]


def describe(location: SaeLocation) -> dict[str, Any]:
    """All that its settings and headers say, as plain values.

    Raises:
        UnusableInput: they do not say it, or are damaged.
    """
    declared = location.declared()
    shapes = shapes_in(location.weights)
    sizes = {declared.n_latents, declared.d_in}
    if shapes is not None and not any(len(each.shape) == 2 and set(each.shape) == sizes for each in shapes.values()):
        raise InvalidSae(
            f"{location.weights}: the settings say {declared.n_latents:,} latents of {declared.d_in:,} dimensions, but no tensor "
            f"has that shape; there are: {', '.join(f'{name} {list(each.shape)}' for name, each in shapes.items())}"
        )
    return {
        "path": str(location.path),
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
