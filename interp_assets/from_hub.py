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

from interp_assets.saes_from_hub import meant_by
from interp_assets.settings import EmbedderSettings, LocalModel
from resources.durable_files import write_aside
from resources.errors import NotNow
from resources.hub import (
    cached,
    fetch,
    files_of,
    how_to_fetch,
    newest,
    repository_of,
)
from resources.sparse_autoencoders.config import UnknownSae

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


def get_models(study: Study) -> None:
    """Fetch the models of a study that are not here; what cannot be had is told by the stage that needs it."""
    for key, name, revision in models_named(study):
        here = cached(name, revision)
        if repository_of(name) is None or (here is not None and has_weights(here.folder)):
            continue
        with contextlib.suppress(NotNow):
            # What is here of it, settings perhaps, was fetched at a commit; the rest is to be of the same.
            revision = here.commit if here else revision
            files = model_files(files_of(name, revision).files)
            print(f"fetch    {name} ({key}): {sum(files.values()) / 1e9:,.2f} GB", file=sys.stderr)
            fetch(name, revision, list(files))


def model_files(files: dict[str, int]) -> dict[str, int]:
    """Of the files of a repository those of the model itself: no other forms of it that lie below, or beside."""
    plain = any(PurePath(file).match("*.safetensors") for file in files if "/" not in file)
    patterns = [*MODEL_FILES, *(() if plain else ("*.bin",))]
    return {
        file: size
        for file, size in files.items()
        if any(PurePath(file).match(pattern) for pattern in patterns)
        and not PurePath(file).match("consolidated*.safetensors")
        # The parts of an embedder lie in folders of their own, 1_Pooling and such.
        and ("/" not in file or re.match(r"\d+_[A-Z]", file))
    }


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
