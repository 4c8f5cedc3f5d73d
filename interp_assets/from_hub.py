"""What a study reads from the Hugging Face hub: which commit that is, fetching it, and whether its branch has moved.

A name is resolved once, when it is fetched. From then on the study reads that commit; another one is taken up when it
is fetched on purpose, and is then a change like any other: new files, new fingerprints.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from interp_assets.setting_errors import listed
from interp_assets.settings import EmbedderSettings, LocalModel
from resources.durable_files import write_aside
from resources.errors import NotNow
from resources.hub import Repository, cached, fetch, files_of, how_to_fetch, newest, repository_of, room_left
from resources.sparse_autoencoders.config import UnknownSae
from resources.sparse_autoencoders.formats import CONFIGS, file_names, number_of

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
    study: Study, path: str, revision: str | None = None, hookpoints: tuple[str, ...] = (), get: bool = False
) -> Path:
    """Where SAEs lie: the folder that the study names, or what this machine has of a hub repository.

    Args:
        hookpoints: folders of these names alone are fetched, where the repository has such.
        get: fetch from the hub what is not here.

    Raises:
        UnknownSae: there is no such folder, and nothing of that name here.
        NotNow: it cannot be fetched.
    """
    folder = study.path(path)
    if folder.exists():
        return folder
    repository = meant_by(path, folder)
    here = cached(repository.name, revision)
    if here is not None and holds_saes(here.folder / repository.folder, hookpoints):
        return here.folder / repository.folder
    if get:
        return get_saes(repository, revision, hookpoints)
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
        raise UnknownSae(f"{path}: no such folder ({folder}), and not a hub name like owner/name")
    if repository.folder and (above := folder.parents[len(Path(repository.folder).parts) - 1]).is_dir():
        there = sorted(each.name for each in above.iterdir() if each.is_dir())
        raise UnknownSae(f"{path}: no such folder; in {above} {listed(there)}")
    return repository


def holds_saes(folder: Path, hookpoints: tuple[str, ...] = ()) -> bool:
    """Whether files of SAEs are there; where hookpoints have folders or numbered files, those of each of them."""
    there = [file.relative_to(folder) for name in file_names() for file in folder.rglob(name)]
    missing = [each for each in hookpoints if not any(is_of(file, each) for file in there)]
    # Where paths tell of no hookpoint, nothing can be said to be missing.
    told = len(missing) < len(hookpoints) or any(number_of(file.name) is not None for file in there)
    return bool(there) and not (missing and told)


def is_of(file: PurePath, hookpoint: str) -> bool:
    """Whether a file's path says that it is of a hookpoint: by a folder of that name, or by the number of its layer."""
    layer = re.search(r"\.(\d+)(?=[.:]|$)", hookpoint)
    return hookpoint in file.parts or (layer is not None and number_of(file.name) == int(layer[1]))


def get_saes(repository: Repository, revision: str | None, hookpoints: tuple[str, ...] = ()) -> Path:
    """Fetch the SAEs of a repository's folder, or those of some hookpoints.

    Raises:
        UnknownSae: it has a file for each of other layers.
        NotNow: they are not to be had, or there is no room for them.
    """
    files = sae_files(files_of(repository.name, revision), repository.folder)
    if not files:
        raise NotNow(f"{repository.name}: no files of SAEs {f'in {repository.folder}' if repository.folder else ''}")
    wanted = of_hookpoints(files, hookpoints)
    layers = [Path(file).name for file in files if number_of(Path(file).name) is not None]
    if hookpoints and layers and not wanted:
        raise UnknownSae(f"{repository.name}: no file of the layer of {', '.join(hookpoints)}; {listed(layers)}")
    wanted = wanted or files
    if (needed := sum(wanted.values())) > room_left():
        raise NotNow(f"{repository.name}: {needed / 1e9:,.1f} GB, more than there is room for; name a folder in it")
    print(f"fetch    {'/'.join(filter(None, repository))}: {needed / 1e9:,.2f} GB", file=sys.stderr)
    return fetch(repository.name, revision, list(wanted)).folder / repository.folder


def of_hookpoints(files: dict[str, int], hookpoints: tuple[str, ...]) -> dict[str, int]:
    """Of files of SAEs those whose paths say that they are of some hookpoints, with the settings beside them."""
    found = [PurePath(file) for file in files if any(is_of(PurePath(file), each) for each in hookpoints)]
    beside = {str(file.parent / name) for file in found for name in CONFIGS}
    return {file: size for file, size in files.items() if PurePath(file) in found or file in beside}


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
