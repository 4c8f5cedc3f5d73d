"""Repositories of the Hugging Face hub: what this machine has of them, what a branch stands at, fetching. Needs no torch.

What is here lies in the hub's own cache, under the commit that a branch stood at when it was fetched. That commit is
what a study then reads, until somebody fetches again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from resources.durable_files import write_aside
from resources.errors import NotNow, one_line

COMMIT = r"[0-9a-f]{40}"
PART = r"(?!\.\.?(?:/|$))[A-Za-z0-9._-]+"
LOOK_SECONDS = 10.0
"How long the hub is waited for when a branch is looked at."


class Repository(NamedTuple):
    """A repository, and a folder in it ("" is all of it)."""

    name: str
    folder: str = ""


class Snapshot(NamedTuple):
    """What this machine has of a repository at one commit."""

    folder: Path
    commit: str


class Listing(NamedTuple):
    """The files of a repository at one commit."""

    commit: str
    files: dict[str, int]
    "Their sizes in bytes, by their path in it."


def repository_of(path: str) -> Repository | None:
    """`owner/name` or `owner/name/folder/in/it`; None of what can be no hub name."""
    found = re.fullmatch(rf"({PART}/{PART})((?:/{PART})*)/?", path)
    return Repository(found[1], found[2].strip("/")) if found else None


def home_of(name: str) -> Path:
    """Where the hub's cache keeps a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def cached(name: str, revision: str | None = None) -> Snapshot | None:
    """What is here of a repository, at the commit that a branch or tag (`main` if None) stood at when it was fetched."""
    home = home_of(name)
    commit = revision or "main"
    if not re.fullmatch(COMMIT, commit):
        reference = home / "refs" / commit
        if not reference.resolve().is_relative_to(home.resolve()) or not reference.is_file():
            return None
        commit = reference.read_text(encoding="utf-8").strip()
    folder = home / "snapshots" / commit
    return Snapshot(folder, commit) if re.fullmatch(COMMIT, commit) and folder.is_dir() else None


def newest(name: str, revision: str | None = None) -> str | None:
    """The commit that a branch stands at on the hub; None where that cannot be told now."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, revision=revision, timeout=LOOK_SECONDS).sha
    except Exception:
        # Offline, gone, private, or too slow: nothing that is here depends on it.
        return None


def files_of(name: str, revision: str | None = None) -> Listing:
    """The files of a repository on the hub, and the commit that a branch stands at now.

    Raises:
        NotNow: the hub is not reached, or shows no such repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        # This one asks once; listing would ask again for half a minute where nothing answers.
        commit = HfApi().model_info(name, revision=revision, timeout=LOOK_SECONDS).sha
        tree = list(HfApi().list_repo_tree(name, recursive=True, revision=commit))
    except Exception as error:
        raise not_had(name, revision, None, error) from None
    return Listing(str(commit), {each.path: each.size for each in tree if isinstance(each, RepoFile)})


def remember(name: str, listing: Listing) -> None:
    """Keep which files a repository has at a commit, so that it can be told later whether all of them are here."""
    write_aside(home_of(name) / "files" / f"{listing.commit}.json", json.dumps(listing.files).encode())


def known_files(name: str, commit: str) -> Listing | None:
    """What was kept of a repository's files at a commit."""
    try:
        found = json.loads((home_of(name) / "files" / f"{commit}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Listing(commit, found) if isinstance(found, dict) else None


def fetch(name: str, revision: str | None, patterns: Sequence[str], folder: Path | None = None) -> Snapshot:
    """Bring files of a repository to this machine, at the commit that the branch stands at now.

    Args:
        patterns: like `layers.10/*`; what fits none stays there.
        folder: where to; the hub's own cache if None.

    Raises:
        NotNow: the hub is not reached, or shows no such repository.
    """
    from huggingface_hub import snapshot_download

    try:
        there = Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_dir=folder))
    except Exception as error:
        raise not_had(name, revision, patterns, error) from None
    return Snapshot(there, there.name)


def how_to_fetch(name: str, revision: str | None = None, patterns: Sequence[str] = ()) -> str:
    """The command of the hub's own tool."""
    words = ["hf", "download", name, *(["--revision", revision] if revision else [])]
    words += [word for pattern in patterns for word in ("--include", f"'{pattern}'")]
    return " ".join(words)


def not_had(name: str, revision: str | None, patterns: Sequence[str] | None, error: Exception) -> Exception:
    """What it means that something was not to be had: the machine's own troubles stay what they are."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return error
    said = one_line(str(error) or type(error).__name__, 200)
    command = how_to_fetch(name, revision, patterns or ())
    return NotNow(
        f"{name}{f' at {revision}' if revision else ''}: not to be had from the hub ({said}); "
        f"where the hub can be reached: {command}; then copy {cache_folder()} here or set HF_HOME"
    )


def cache_folder() -> str:
    from huggingface_hub import constants

    return os.fspath(constants.HF_HUB_CACHE)


def room_left() -> int:
    """Bytes that are free where fetched files go."""
    place = Path(cache_folder())
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def origin_of(folder: Path) -> tuple[Repository, str] | None:
    """The repository that a folder of the hub's cache holds, and at which commit; None of any other folder."""
    found = re.fullmatch(
        rf"{re.escape(cache_folder())}/models--([^/]+?)--([^/]+)/snapshots/({COMMIT})(?:/(.*))?", os.fspath(folder)
    )
    return (Repository(f"{found[1]}/{found[2]}", found[4] or ""), found[3]) if found else None
