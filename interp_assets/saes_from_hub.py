"""SAEs that a study names on the Hugging Face hub: what of them is here, and fetching what it reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_assets.hub_listing import get_settings, listed_places, sae_files, wanted_files
from interp_assets.setting_errors import listed
from resources.errors import NotNow, UnusableInput
from resources.hub import (
    Repository,
    cached,
    fetch,
    files_of,
    how_to_fetch,
    known_files,
    remember,
    repository_of,
    room_left,
)
from resources.sparse_autoencoders.config import UnknownSae
from resources.sparse_autoencoders.formats import CONFIGS, FORMATS, file_names, is_weights

if TYPE_CHECKING:
    from interp_assets.study import Study

LARGE_BYTES = 5e9
"Of a hub repository: more than this is fetched only where a folder in it is named."


def sae_folder(
    study: Study,
    path: str,
    revision: str | None = None,
    hookpoints: tuple[str, ...] = (),
    get: bool = False,
    model: Mapping[str, Any] | None = None,
) -> Path:
    """Where SAEs lie: the folder that the study names, or what this machine has of a hub repository.

    Args:
        hookpoints: the SAEs of these alone are fetched; all where there are none.
        get: fetch from the hub what is not here.
        model: settings of the subject model, by which names of hooks are understood.

    Raises:
        UnknownSae: there is no such folder, and nothing of that name here; or the repository has none of the hookpoints,
            or several SAEs of one.
        NotNow: it cannot be fetched.
    """
    folder = study.path(path)
    if folder.exists():
        return folder
    repository = meant_by(path, folder)
    there = part_here(repository, revision)
    if get:
        try:
            return get_saes(repository, revision, hookpoints, model)
        except NotNow:
            if there is None:
                raise
    if there is not None:
        return there  # what is missing of it is said layer by layer
    patterns = [f"{repository.folder}/*"] if repository.folder else []
    raise UnknownSae(
        f"{path}: no such folder ({folder}), and nothing of it was fetched from the hub; "
        f"interp run fetches it, or: {how_to_fetch(repository.name, revision, patterns)}"
    )


def meant_by(path: str, folder: Path) -> Repository:
    """The repository that a path means which is no folder.

    Args:
        folder: the folder that it would be.

    Raises:
        UnknownSae: it is no hub name, or can be none because it begins with a folder that is here.
    """
    repository = None if path.startswith(("/", ".", "~")) else repository_of(path)
    if repository is None or folder.exists():
        hint = "; of an address on the hub, what follows huggingface.co/" if "://" in path else ""
        raise UnknownSae(f"{path}: no such folder ({folder}), and not a hub name like owner/name{hint}")
    if repository.folder and (above := folder.parents[len(Path(repository.folder).parts) - 1]).is_dir():
        there = sorted(each.name for each in above.iterdir() if each.is_dir())
        raise UnknownSae(f"{path}: no such folder; in {above} {listed(there)}")
    return repository


def part_here(repository: Repository, revision: str | None = None) -> Path | None:
    """The folder that holds what was fetched of a repository's SAEs, all or some; None where that is nothing."""
    here = cached(repository.name, revision)
    folder = here and here.folder / repository.folder
    return folder if folder and any(True for name in file_names() for _ in folder.rglob(name)) else None


def get_saes(
    repository: Repository,
    revision: str | None,
    hookpoints: tuple[str, ...] = (),
    model: Mapping[str, Any] | None = None,
    one_each: bool = True,
) -> Path:
    """Fetch the SAEs of a repository's folder, or those of some hookpoints, but for what is here.

    What is here of it was fetched at a commit; the rest is of the same. Which files there are is kept first: an
    interrupted fetch is noticed by it.

    Args:
        one_each: refuse several SAEs of one hookpoint.

    Raises:
        UnknownSae: it has none of the hookpoints, or several SAEs of one.
        NotNow: they are not to be had, or there is no room for them.
    """
    here = cached(repository.name, revision)
    listing = here and known_files(repository.name, here.commit)
    if listing is None:
        listing = files_of(repository.name, here.commit if here else revision)
        remember(repository.name, listing)
    files = sae_files(listing.files, repository.folder)
    if not files:
        raise NotNow(f"{repository.name}: no files of SAEs {f'in {repository.folder}' if repository.folder else ''}")
    get_settings(repository, listing)
    wanted, left_out = wanted_files(repository, listing, hookpoints, model, one_each)
    missing = [file for file in wanted if here is None or not (here.folder / file).exists()]
    if missing:
        if (needed := sum(files[file] for file in missing)) > room_left():
            raise NotNow(f"{repository.name}: {needed / 1e9:,.1f} GB, more than there is room for; name a folder in it")
        print(f"fetch    {'/'.join(filter(None, repository))}: {needed / 1e9:,.2f} GB", file=sys.stderr)
        for problem in [] if hookpoints else left_out:
            print(f"left out {problem}", file=sys.stderr)
        here = fetch(repository.name, listing.commit if here else revision, missing)
    assert here is not None, "whatever is not here is missing"
    return here.folder / repository.folder


def not_fetched(study: Study, path: str, revision: str | None, model: Mapping[str, Any] | None) -> dict[str, str]:
    """Of a repository the hookpoints whose SAEs are not here, as far as that was kept, with a sentence for each."""
    try:
        repository = meant_by(path, study.path(path))
    except UnknownSae:
        return {}
    here = cached(repository.name, revision)
    listing = here and known_files(repository.name, here.commit)
    if here is None or listing is None:
        return {}
    places, _ = listed_places(repository, listing, model)
    return {
        each.hookpoint: f"{path}: the SAE of {each.hookpoint} was not fetched yet; interp run fetches it"
        for file, each in places.items()
        if each.hookpoint is not None and not (here.folder / file).exists()
    }


def fetched_if_small(path: str) -> Path:
    """The SAEs of a hub repository, on this machine; fetched where they are not too large for that.

    Raises:
        UnusableInput: it is no hub name, or holds more than is fetched unasked.
        NotNow: the hub is not reached, and nothing of it is here.
    """
    repository = meant_by(path, Path(path).resolve())
    here = cached(repository.name)
    there = part_here(repository)
    try:
        listing = (here and known_files(repository.name, here.commit)) or files_of(
            repository.name, here.commit if here else None
        )
        files = sae_files(listing.files, repository.folder)
        lacking = sum(size for file, size in files.items() if here is None or not (here.folder / file).exists())
        if lacking <= LARGE_BYTES:
            return get_saes(repository, None, one_each=False)
    except NotNow:
        if there is None:
            raise
    if there is not None:
        return there
    inside = f"{repository.folder}/" if repository.folder else ""
    weights = [file for file in files if any(is_weights(file, module) for module in FORMATS.values())]
    folders = dict.fromkeys(
        file.removeprefix(inside).split("/")[0] for file in weights if "/" in file.removeprefix(inside)
    )
    large = f"{path}: {sum(files.values()) / 1e9:,.0f} GB, more than is fetched unasked"
    if folders:
        first = f"{repository.name}/{inside}{next(iter(folders))}"
        raise UnusableInput(f"{large}; name a folder in it, as in {first}; {listed(folders)}")
    wanted = [*(file for file in files if Path(file).name in CONFIGS), weights[0]]
    raise UnusableInput(
        f"{large}; fetch the layers that you want, and ask again: {how_to_fetch(repository.name, None, wanted)}; {listed(weights)}"
    )
