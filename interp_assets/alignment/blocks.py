"""Work done block by block, with a progress line, that goes on from the last finished block after an interruption."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from interp_assets.progress import Progress
from resources.durable_files import write_aside

Arrays = dict[str, np.ndarray]


def digest(*arrays: np.ndarray) -> str:
    """Sixteen hex digits of what arrays hold, for the name of a block that depends on it."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


class Blocks:
    def __init__(self, label: str, folder: Path | None = None) -> None:
        """
        Args:
            label: what is being made, for the progress line.
            folder: where finished blocks are kept; nowhere if None. `of` sees to it that they came from the same inputs.
        """
        self.label, self.folder = label, folder

    def over(
        self, what: str, blocks: Sequence[slice], compute: Callable[[slice], Arrays], version: str = ""
    ) -> list[Arrays]:
        """What `compute` gives for each block of rows; of blocks finished before, what it gave then.

        Args:
            version: blocks finished under another one are not taken.
        """
        found = []
        version = f" {version}" if version else ""
        with Progress(f"{self.label}: {what}", blocks[-1].stop if blocks else 0, "rows") as progress:
            for block in blocks:
                found.append(self.once(f"{what}{version}-{block.start}", lambda block=block: compute(block)))  # type: ignore[misc]
                progress.advance(block.stop - block.start)
        return found

    def once(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        """Some arrays, computed where they are not kept already."""
        if self.folder is None:
            return compute()
        file = self.folder / f"{what.replace(' ', '_')}.npz"
        with suppress(FileNotFoundError, ValueError, EOFError, OSError, zipfile.BadZipFile), np.load(file) as kept:
            return dict(kept)
        arrays = compute()
        written = io.BytesIO()
        np.savez(written, **arrays)  # type: ignore[arg-type]
        write_aside(file, written.getvalue())
        return arrays

    def of(self, inputs: str) -> Blocks:
        """These, after those were removed that came from other inputs."""
        if self.folder is not None:
            stamp = self.folder / "inputs"
            if not stamp.is_file() or stamp.read_text() != inputs:
                self.remove()
                write_aside(stamp, inputs.encode())
        return self

    def part(self, name: str) -> Blocks:
        """Blocks of their own kind: their files lie in a folder below."""
        return Blocks(f"{self.label}: {name}", self.folder and self.folder / name.replace(" ", "_"))

    def remove(self) -> None:
        """Forget what is kept."""
        if self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)
