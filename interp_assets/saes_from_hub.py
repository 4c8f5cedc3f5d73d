"""SAEs that a study names on the Hugging Face hub: what of them is here, and fetching what it reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from interp_assets.setting_errors import listed
from resources.errors import NotNow, UnusableInput
from resources.hub import (
    Repository,
    Snapshot,
    cached,
    fetch,
    files_known,
    files_of,
    how_to_fetch,
    remember_files,
    repository_of,
    room_left,
)
from resources.sparse_autoencoders.config import UnknownSae
from resources.sparse_autoencoders.formats import CONFIGS, FORMATS, beside, file_names, is_weights
from resources.sparse_autoencoders.locate import listed_saes, locate
from resources.sparse_autoencoders.location import in_order

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
        UnknownSae: there is no such folder, and nothing of that name here; or the repository has none of the hookpoints.
        NotNow: it cannot be fetched.
    """
    folder = study.path(path)
    if folder.exists():
        return folder
    repository = meant_by(path, folder)
    here = cached(repository.name, revision)
    there = here is not None and holds_saes(here.folder / repository.folder)
    if here is not None and there and (not get or all_here(repository, here, hookpoints, model)):
        return here.folder / repository.folder
    if get:
        try:
            return get_saes(repository, revision, hookpoints, model)
        except NotNow:
            if here is None or not there:
                raise
            return here.folder / repository.folder  # what is missing of it is said layer by layer
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


def holds_saes(folder: Path) -> bool:
    """Whether files of SAEs are there."""
    return any(True for name in file_names() for _ in folder.rglob(name))


def all_here(
    repository: Repository, here: Snapshot, hookpoints: tuple[str, ...] = (), model: Mapping[str, Any] | None = None
) -> bool:
    """Whether nothing has to be fetched; of what another tool fetched, only that the hookpoints are among it is known."""
    folder = here.folder / repository.folder
    if not hookpoints:
        files = files_known(repository.name, here.commit)
        return files is None or all((here.folder / file).exists() for file in sae_files(files, repository.folder))
    try:
        found = locate(folder, model=model, problems={})
    except UnusableInput:
        return False
    # Where files do not say what they read, the study does.
    return any(place.hookpoint is None for place in found) or all(
        any(each in (place.hookpoint, place.writes) for place in found) for each in hookpoints
    )


def get_saes(
    repository: Repository,
    revision: str | None,
    hookpoints: tuple[str, ...] = (),
    model: Mapping[str, Any] | None = None,
) -> Path:
    """Fetch the SAEs of a repository's folder, or those of some hookpoints.

    Raises:
        UnknownSae: it has none of the hookpoints.
        NotNow: they are not to be had, or there is no room for them.
    """
    listing = files_of(repository.name, revision)
    files = sae_files(listing, repository.folder)
    if not files:
        raise NotNow(f"{repository.name}: no files of SAEs {f'in {repository.folder}' if repository.folder else ''}")
    wanted = of_hookpoints(repository, revision, files, hookpoints, model) if hookpoints else list(files)
    if (needed := sum(files[file] for file in wanted)) > room_left():
        raise NotNow(f"{repository.name}: {needed / 1e9:,.1f} GB, more than there is room for; name a folder in it")
    print(f"fetch    {'/'.join(filter(None, repository))}: {needed / 1e9:,.2f} GB", file=sys.stderr)
    here = fetch(repository.name, revision, wanted)
    remember_files(repository.name, here.commit, listing)
    return here.folder / repository.folder


def of_hookpoints(
    repository: Repository,
    revision: str | None,
    files: dict[str, int],
    hookpoints: tuple[str, ...],
    model: Mapping[str, Any] | None,
) -> list[str]:
    """Of the files of SAEs those of some hookpoints; all where the files do not say what they read.

    Settings say which is which, and are fetched for it; weights are not.

    Raises:
        UnknownSae: there is no SAE of any of them.
    """
    settings = [file for file in files if Path(file).name in CONFIGS]
    with TemporaryDirectory() as folder:
        whole = Path(folder) / repository.name  # by which some makers tell what their SAEs are
        if settings:
            fetch(repository.name, revision, settings, whole)
        root = whole / repository.folder
        inside = {file: str(PurePath(file).relative_to(repository.folder)) for file in files}
        places = listed_saes(root, inside.values(), model)
        wanted = [each for each in places if each.hookpoint in hookpoints or each.writes in hookpoints]
        if not places or any(each.hookpoint is None for each in places):
            return list(files)
        if not wanted:
            there = listed(dict.fromkeys(each.hookpoint for each in sorted(places, key=in_order)))
            raise UnknownSae(f"{repository.name}: no SAE for {', '.join(hookpoints)}; {there}")
        kept = {place.folder / name for place in wanted for name in beside(place.format)}
        kept |= {place.weights for place in wanted}
        return [file for file, below in inside.items() if root / below in kept]


def sae_files(files: dict[str, int], folder: str) -> dict[str, int]:
    """Of the files of a repository those of SAEs, in or below a folder of it."""
    inside = f"{folder}/" if folder else ""
    names = file_names(beside=True)
    return {
        file: size
        for file, size in files.items()
        if file.startswith(inside) and any(PurePath(file).match(name) for name in names)
    }


def unasked(path: str) -> Path:
    """The SAEs of a hub repository, on this machine; fetched where they are not too large for that.

    Raises:
        UnusableInput: it is no hub name, or holds more than is fetched unasked.
    """
    repository = meant_by(path, Path(path).resolve())
    here = cached(repository.name)
    fetched = here and here.folder / repository.folder
    if here is not None and fetched is not None and holds_saes(fetched) and all_here(repository, here):
        return fetched
    inside = f"{repository.folder}/" if repository.folder else ""
    try:
        files = sae_files(files_of(repository.name), repository.folder)
    except NotNow:
        if fetched is None or not holds_saes(fetched):
            raise
        return fetched
    if (size := sum(files.values())) > LARGE_BYTES:
        if fetched is not None and holds_saes(fetched):
            return fetched
        weights = [file for file in files if any(is_weights(file, module) for module in FORMATS.values())]
        folders = dict.fromkeys(
            file.removeprefix(inside).split("/")[0] for file in weights if "/" in file.removeprefix(inside)
        )
        if folders:
            raise UnusableInput(
                f"{path}: {size / 1e9:,.0f} GB, more than is fetched unasked; name a folder in it, as in "
                f"{repository.name}/{inside}{next(iter(folders))}; {listed(folders)}"
            )
        wanted = [*(file for file in files if Path(file).name in CONFIGS), weights[0]]
        raise UnusableInput(
            f"{path}: {size / 1e9:,.0f} GB, more than is fetched unasked; fetch the layers that you want, and ask again: "
            f"{how_to_fetch(repository.name, None, wanted)}; {listed(weights)}"
        )
    return get_saes(repository, None)
