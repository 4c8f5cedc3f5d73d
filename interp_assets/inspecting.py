"""`interp inspect`: what SAEs in a folder are, from their settings and headers alone. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp_assets.model_names import hub_name_of, model_type_of
from interp_assets.saes_from_hub import meant_by
from resources.errors import UnusableInput, one_line
from resources.hub import cached, how_to_fetch
from resources.sparse_autoencoders.config import UnknownSae, read_config
from resources.sparse_autoencoders.locate import locate, understood
from resources.sparse_autoencoders.location import SaeLocation, describe, in_order

IN_FULL = 3
"As many SAEs are shown line by line; of more each has one line."
WIDEST = 200
"Characters of a cell in the table of many."


def inspect(path: str, model: str | None, as_json: bool) -> int:
    """Print what a folder's SAEs are.

    Args:
        path: a folder, or the name of a hub repository that has been fetched.
        model: a folder with the subject model's settings, by which names of hooks are understood.

    Returns:
        0, or 2 where an SAE cannot be used.

    Raises:
        UnusableInput: there is no SAE, or the model has no settings.
    """
    root = folder_of(path)
    settings = None if model is None else read_config(Path(model).expanduser() / "config.json")
    problems: dict[Path, str] = {}
    places = locate(root, model=settings, problems=problems)
    if settings is None:
        places = [by_its_own_model(place, root) for place in places]
    found = []
    for location in sorted(places, key=in_order):
        try:
            found.append(describe(location))
        except UnusableInput as error:
            problems[location.path] = str(error)
    if as_json:
        print(json.dumps({"saes": found, "problems": {str(place): said for place, said in problems.items()}}, indent=1))
    else:
        shown = "\n\n".join(in_full(each) for each in found) if len(found) <= IN_FULL else as_table(found, root)
        print(shown, end="\n" if shown else "")
    for said in problems.values():
        print(f"problem: {said}", file=sys.stderr)
    return 2 if problems else 0


def by_its_own_model(place: SaeLocation, root: Path) -> SaeLocation:
    """With names of hooks understood by the model that its settings name, where that is a well-known one."""
    with suppress(UnusableInput):
        if (named := place.declared().model) and (hub := hub_name_of(named)) and (known := model_type_of(hub)):
            return understood(place.weights, place.format, root, {"model_type": known})
    return place


def folder_of(path: str) -> Path:
    folder = Path(path).expanduser()
    if not path:
        raise UnknownSae("no folder was named")
    if folder.exists():
        return folder.resolve()
    repository = meant_by(path, folder.resolve())
    here = cached(repository.name)
    if here is None or not (here.folder / repository.folder).is_dir():
        patterns = [f"{repository.folder}/*"] if repository.folder else []
        raise UnknownSae(
            f"{path}: no such folder, and nothing of a hub repository of that name is here; to fetch it: "
            f"{how_to_fetch(repository.name, None, patterns)}"
        )
    return here.folder / repository.folder


def in_full(sae: dict[str, Any]) -> str:
    unknown = "its files do not say; a study names it under hookpoints"
    l0, bos = sae["l0"], sae["bos"]
    shown = {
        "format": sae["format"],
        "architecture": sae["architecture"],
        "reads": sae["reads"] or unknown,
        "writes": sae["writes"] or unknown,
        "latents": f"{sae['n_latents']:,}",
        "dimensions": f"{sae['d_in']:,}" + (f" to {sae['d_out']:,}" if sae["d_out"] != sae["d_in"] else ""),
        "published L0": "none" if l0 is None else f"{l0:g}",
        "model": sae["model"] or "its files do not say",
        "BOS": "its files do not say"
        if bos is None
        else "contexts began with it"
        if bos
        else "contexts began without it",
        "weights": f"{sae['bytes']:,} bytes",
        **{
            f"  {one_line(name)}": f"{tuple(each['shape'])} {each['dtype']}"
            for name, each in sorted(sae["tensors"].items())
        },
    }
    return "\n".join([one_line(sae["path"]), *(f"  {name:<16} {one_line(value)}" for name, value in shown.items())])


def as_table(saes: Sequence[dict[str, Any]], root: Path) -> str:
    head = ["reads", "writes", "latents", "dimensions", "L0", "architecture", "format", "path"]
    rows = [head]
    for sae in saes:
        width = f"{sae['d_in']}" if sae["d_in"] == sae["d_out"] else f"{sae['d_in']} to {sae['d_out']}"
        l0 = "" if sae["l0"] is None else f"{sae['l0']:g}"
        place = str(Path(sae["path"]).relative_to(root))
        writes = sae["writes"] if sae["transcodes"] else ""
        row = [
            sae["reads"] or "?",
            writes or "",
            f"{sae['n_latents']:,}",
            width,
            l0,
            sae["architecture"],
            sae["format"],
            place,
        ]
        rows.append([one_line(cell, WIDEST) for cell in row])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
