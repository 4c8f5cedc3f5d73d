"""What a study reads from the Hugging Face hub: which commit that is, fetching it, and whether its branch has moved.

A name is resolved once, when it is fetched. From then on the study reads that commit; another one is taken up when it
is fetched on purpose, and is then a change like any other: new files, new fingerprints.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from interp_assets.setting_errors import listed
from interp_assets.settings import EmbedderSettings, LocalModel
from resources.durable_files import write_aside
from resources.errors import NotNow, UnusableInput
from resources.hub import (
    Repository,
    Snapshot,
    cached,
    fetch,
    files_known,
    files_of,
    how_to_fetch,
    newest,
    remember_files,
    repository_of,
    room_left,
)
from resources.sparse_autoencoders.config import UnknownSae
from resources.sparse_autoencoders.formats import CONFIGS, beside, file_names
from resources.sparse_autoencoders.locate import listed_saes, locate
from resources.sparse_autoencoders.location import in_order

if TYPE_CHECKING:
    from interp_assets.study import Study

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt")
LOOK_AGAIN_SECONDS = float(os.environ.get("INTERP_HUB_SECONDS", "3600"))
"How long what the hub said of a branch is taken to hold."


class HubName(NamedTuple):
    """A name in a study that the hub has something under."""

    key: str
    "Where it stands in the study file."
    name: str
    revision: str | None


def models_named(study: Study) -> list[HubName]:
    """The models of a study that are no folders."""
    subject = study.subject_model
    named = [("subject_model.path", subject.path, subject.revision)]
    for name, engine in study.engines.items():
        if isinstance(engine, LocalModel):
            named.append((f"engines.{name}.path", engine.path, engine.revision))
    for name, scorer in study.scorers.chosen().items():
        if isinstance(scorer, EmbedderSettings):
            named.append((f"scorers.{name}.model", scorer.model, None))
    if study.examples.similar_text is not None:
        named.append(("examples.similar_text.model", study.examples.similar_text.model, None))
    return [HubName(*each) for each in named if study.local_folder(each[1]) is None]


def saes_named(study: Study) -> list[HubName]:
    """The SAEs of a study that lie in no folder."""
    named = [(f"saes[{i}].path", source.path, source.revision) for i, source in enumerate(study.saes)]
    untrained = study.controls.untrained
    if untrained is not None and untrained.saes is not None:
        named.append(("controls.untrained.saes", untrained.saes, None))
    found = []
    for key, path, revision in named:
        if not study.path(path).exists():
            with contextlib.suppress(UnknownSae):
                found.append(HubName(key, meant_by(path, study.path(path)).name, revision))
    return found


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


def get_models(study: Study) -> None:
    """Fetch the models of a study that are not here; what cannot be had is told by the stage that needs it."""
    for key, name, revision in models_named(study):
        here = cached(name, revision)
        if repository_of(name) is None or (here is not None and has_weights(here.folder)):
            continue
        with contextlib.suppress(NotNow):
            # What is here of it, settings perhaps, was fetched at a commit; the rest is to be of the same.
            revision = here.commit if here else revision
            files = files_of(name, revision)
            plain = any(file.endswith(".safetensors") for file in files)
            print(f"fetch    {name} ({key})", file=sys.stderr)
            fetch(name, revision, [*MODEL_FILES, *(() if plain else ("*.bin",))])


def has_weights(folder: Path) -> bool:
    return any(True for suffix in ("safetensors", "bin") for _ in folder.glob(f"*.{suffix}"))


def moved(study: Study, memory: Path) -> Iterator[str]:
    """Of each branch that stands elsewhere on the hub than it did when it was fetched, a sentence that says so.

    Args:
        memory: a file in which is kept what the hub said last, and when.
    """
    looked: dict[str, list[float | str | None]] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        looked = json.loads(memory.read_text(encoding="utf-8"))
    before, reached = json.dumps(looked), True
    for key, name, revision in [*saes_named(study), *models_named(study)]:
        here = cached(name, revision)
        if here is None or here.commit == revision:
            continue
        label = f"{name}@{revision or 'main'}"
        at, now = looked.get(label, [0.0, None])
        # Where the hub did not answer for one name, it is not waited for with each of the others too.
        if reached and (not isinstance(at, float) or time.time() - at >= LOOK_AGAIN_SECONDS):
            now = newest(name, revision)
            reached = now is not None
            looked[label] = [time.time(), now]
        if now is not None and now != here.commit:
            yield (
                f"{key}: {name} has moved on the hub, {here.commit[:8]} -> {str(now)[:8]}; "
                f"the study reads what was fetched until: {how_to_fetch(name, revision)}"
            )
    if json.dumps(looked) != before:
        write_aside(memory, json.dumps(looked).encode())
