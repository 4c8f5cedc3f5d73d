"""Work done block by block, with a progress line, that goes on from the last finished block after an interruption."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from interp_assets.progress import Progress
from resources.durable_files import write_aside

Arrays = dict[str, np.ndarray]


class Blocks:
    def __init__(self, label: str, folder: Path | None = None) -> None:
        """
        Args:
            label: what is being made, for the progress line.
            folder: where finished blocks are kept; nowhere if None. What lies there must have come from the same inputs.
        """
        self.label, self.folder = label, folder

    def over(self, what: str, blocks: Sequence[slice], compute: Callable[[slice], Arrays]) -> list[Arrays]:
        """What `compute` gives for each block of rows; of blocks finished before, what it gave then."""
        found = []
        with Progress(f"{self.label}: {what}", blocks[-1].stop if blocks else 0, "rows") as progress:
            for block in blocks:
                found.append(self.once(f"{what}-{block.start}", lambda block=block: compute(block)))  # type: ignore[misc]
                progress.advance(block.stop - block.start)
        return found

    def once(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        """Some arrays, computed where they are not kept already."""
        if self.folder is None:
            return compute()
        file = self.folder / f"{what.replace(' ', '_')}.npz"
        try:
            with np.load(file) as kept:
                return dict(kept)
        except (FileNotFoundError, ValueError, EOFError, OSError, zipfile.BadZipFile):
            arrays = compute()
            written = io.BytesIO()
            np.savez(written, **arrays)  # type: ignore[arg-type]
            write_aside(file, written.getvalue())
            return arrays

    def part(self, name: str) -> Blocks:
        """Blocks of their own kind: their files lie in a folder below."""
        return Blocks(f"{self.label}: {name}", self.folder and self.folder / name.replace(" ", "_"))

    def remove(self) -> None:
        """Forget what is kept."""
        if self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)
