"""Which files of a hub repository are of which SAEs: told by settings and names, before any weights are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from interp_assets.setting_errors import listed
from resources.hub import Listing, Repository, fetch, home_of
from resources.sparse_autoencoders.config import UnknownSae
from resources.sparse_autoencoders.formats import CONFIGS, FORMATS, beside, file_names
from resources.sparse_autoencoders.locate import listed_saes
from resources.sparse_autoencoders.location import SaeLocation, in_order


def settings_folder(repository: Repository, listing: Listing) -> Path:
    """Where the settings of all of a repository's SAEs are kept, apart from those that were fetched whole."""
    return home_of(repository.name) / "settings" / listing.commit


def get_settings(repository: Repository, listing: Listing) -> None:
    """Settings say which SAE is which; those of a folder are fetched once."""
    folder = settings_folder(repository, listing)
    settings = [file for file in sae_files(listing.files, repository.folder) if Path(file).name in CONFIGS]
    if missing := [file for file in settings if not (folder / file).exists()]:
        fetch(repository.name, listing.commit, missing, folder)


def listed_places(
    repository: Repository, listing: Listing, model: Mapping[str, Any] | None
) -> tuple[dict[str, SaeLocation], list[str]]:
    """The SAEs of a repository's folder by the paths of their weights in the repository; and what is wrong with others."""
    whole = settings_folder(repository, listing)
    root = whole / repository.folder
    inside = [
        str(PurePath(file).relative_to(repository.folder)) for file in sae_files(listing.files, repository.folder)
    ]
    problems: list[str] = []
    places = listed_saes(root, inside, model, problems)
    return {str(place.weights.relative_to(whole)): place for place in places}, problems


def wanted_files(
    repository: Repository,
    listing: Listing,
    hookpoints: tuple[str, ...],
    model: Mapping[str, Any] | None,
    one_each: bool,
) -> tuple[list[str], list[str]]:
    """Of the files of SAEs those of some hookpoints, all where the files do not say what they read; and what is wrong
    with SAEs that are not among them.

    Raises:
        UnknownSae: there is no SAE of any of them, none that can be read, or several of one.
    """
    places, problems = listed_places(repository, listing, model)
    if not places and problems:
        raise UnknownSae(problems[0])
    wanted = {
        file: each
        for file, each in places.items()
        if not hookpoints or not {each.hookpoint, each.writes, each.or_reads}.isdisjoint(hookpoints)
    }
    if not places:
        return list(sae_files(listing.files, repository.folder)), problems
    if not wanted and any(each.hookpoint is None for each in places.values()):
        wanted = places
    if not wanted:
        there = listed(dict.fromkeys(each.hookpoint for each in sorted(places.values(), key=in_order)))
        raise UnknownSae(f"{repository.name}: no SAE for {', '.join(hookpoints)}; {there}")
    for hookpoint in dict.fromkeys(each.hookpoint for each in wanted.values() if each.hookpoint is not None):
        of_it = [str(PurePath(file).parent) for file, each in wanted.items() if each.hookpoint == hookpoint]
        if one_each and len(of_it) > 1:
            raise UnknownSae(
                f"{repository.name}: {len(of_it)} SAEs read {hookpoint}: {', '.join(of_it)}; point saes.path at one of them, "
                f"as in {repository.name}/{of_it[0]}"
            )
    kept = {*wanted, *(beside_it for file, each in wanted.items() for beside_it in files_beside(file, each))}
    # Settings of the training may lie above them all.
    kept |= {str(PurePath(repository.folder) / name) for name in CONFIGS}
    return [file for file in sae_files(listing.files, repository.folder) if file in kept], problems


def files_beside(weights: str, place: SaeLocation) -> list[str]:
    """The files that are read beside an SAE's weights, by their paths in the repository."""
    folder = PurePath(weights).parents[len(PurePath(FORMATS[place.format].WEIGHTS).parts) - 1]
    return [str(folder / name) for name in beside(place.format)]


def sae_files(files: dict[str, int], folder: str) -> dict[str, int]:
    """Of the files of a repository those of SAEs, in or below a folder of it."""
    inside = f"{folder}/" if folder else ""
    names = file_names(others=True)
    return {
        file: size
        for file, size in files.items()
        if file.startswith(inside) and any(PurePath(file).match(name) for name in names)
    }
