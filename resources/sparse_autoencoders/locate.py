"""Find SAEs on disk, or in the listing of a repository. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resources.errors import UnusableInput
from resources.hookpoints import FAMILIES, hookpoint_of

from .config import Hooks, UnknownSae
from .formats import (
    FAMILY,
    FORMATS,
    config_of,
    format_of,
    holds_sae,
    is_weights,
    weights_in,
    what_makes_one,
)
from .location import SaeLocation


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
    if root.is_file():
        raise UnknownSae(f"{root}: a file; name the folder that it lies in")
    found, tried = [], 0
    for folder in [root] if readable(root) and holds_sae(root) else below(root):
        try:
            if not readable(folder):
                raise UnknownSae(f"{folder}: cannot be read (Permission denied)")
            if not holds_sae(folder):
                continue
            tried += 1
            found.extend(recognise(folder, root, format, model))
        except UnusableInput as error:
            if problems is None:
                raise
            problems[folder] = str(error)
    if not tried and not problems:
        raise UnknownSae(nothing_in(root))
    return found


def readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def nothing_in(root: Path) -> str:
    """What is missing where no SAE was found."""
    for folder in (root, *below(root)):
        for module in FORMATS.values():
            if there := weights_in(folder, module):
                return f"{folder}: {module.CONFIG} is missing beside {there[0].name}, the settings of {module.MAKER}"
    return f"{root}: no SAE here or below; an SAE is {what_makes_one()}"


def below(root: Path) -> Iterator[Path]:
    """The folders below one, in order, those behind links too, each once; hidden ones and what is in them are left out."""
    seen = {root.resolve()}
    for folder, names, _ in os.walk(root, followlinks=True):
        kept = sorted(name for name in names if not name.startswith(".") and Path(folder, name).resolve() not in seen)
        seen.update(Path(folder, name).resolve() for name in kept)
        names[:] = kept
        yield from (Path(folder, name) for name in kept)


def recognise(folder: Path, root: Path, format: str, model: Mapping[str, Any] | None = None) -> list[SaeLocation]:
    """The SAEs of a folder: one, or of a numbered format one for each layer."""
    name = format if format != "auto" else format_of(folder)
    module = FORMATS[name]
    if module.CONFIG and not module.recognises(config_of(folder, module)):
        raise UnknownSae(
            f"{folder / module.CONFIG}: format {name} does not have these keys; supported: {', '.join(FORMATS)}"
        )
    if there := weights_in(folder, module):
        return [understood(weights, name, root, model) for weights in there]
    # Another kind may keep its weights elsewhere; then that is what has to be said.
    module.hooks(config_of(folder, module), folder / module.WEIGHTS, None)
    said = f"{module.CONFIG} is of format {name}, but " if module.CONFIG else ""
    raise UnknownSae(f"{folder}: {said}{module.WEIGHTS} is missing")


def understood(weights: Path, name: str, root: Path, model: Mapping[str, Any] | None) -> SaeLocation:
    """One SAE of a format, with its places as hookpoints.

    Raises:
        UnknownSae: what its settings name is no hookpoint.
    """
    place, module = SaeLocation(None, weights, name), FORMATS[name]
    own_name = next((each.name for each in named_by(place.folder, root) if looks_like_module(each.name)), None)
    found: Hooks = module.hooks(place.config(), weights, own_name)
    family = model if model is not None else FAMILY.get(name)
    try:
        before = found.before_gain
        reads, writes = (hook and hookpoint_of(hook, family, before) for hook in (found.reads, found.writes))
        other = found.reads and hookpoint_of(found.reads, family, not before)
    except UnusableInput as error:
        raise UnknownSae(f"{weights}: {error}") from None
    return SaeLocation(reads, weights, name, writes, found.transcodes, other if other != reads else None)


def listed_saes(
    root: Path, files: Iterable[str], model: Mapping[str, Any] | None, problems: list[str]
) -> list[SaeLocation]:
    """The SAEs of a repository by the names of its files, of which only settings are here.

    Args:
        root: where the settings lie, and the weights are to lie.
        problems: takes up what is wrong with those that are left out.
    """
    found = []
    for file in files:
        for name, module in FORMATS.items():
            if not is_weights(file, module):
                continue
            weights = root / file
            folder = SaeLocation(None, weights, name).folder
            if module.CONFIG is not None and not (folder / module.CONFIG).is_file():
                continue
            try:
                if module.recognises(config_of(folder, module)) or module.CONFIG is None:
                    found.append(understood(weights, name, root, model))
            except UnusableInput as error:
                problems.append(str(error))
    return found


def named_by(folder: Path, root: Path) -> Iterator[Path]:
    """A folder and those above it, up to the one in which SAEs are looked for: `layers.8/k32` is one of `layers.8`."""
    for each in (folder, *folder.parents):
        yield each
        if each == root:
            return


def looks_like_module(name: str) -> bool:
    """`layers.10`, `h.3.mlp` and `embed_tokens` name modules; `my-sae` and `v1.5` do not."""
    if name.rpartition(".")[2] in {family.embedding for family in FAMILIES.values()}:
        return True
    return re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]\w*)*\.\d+(\.\w+)*", name) is not None
