"""The activation cache on disk: written as tokens arrive, sorted by latent, read one latent or one block at a time.

While tokens arrive, entries gather in memory until there are ENTRIES_PER_RUN of them; they are then sorted by latent
and appended to a spill file as one run. At the end the runs are merged block of latents by block of latents, so
memory stays bounded whatever the number of tokens. Files hold whole latents:

    activations-00000.parquet ...   latent u32, context u32, position u16, activation f32, sorted in that order
    index-<hash>.parquet            latent, file, row, entries, entries_hash
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from resources.content_hash import set_hashes
from resources.durable_files import settle
from resources.partition_files import Draft, Partition

ENTRIES_PER_RUN = 1_000_000
ENTRIES_PER_FILE = 1_000_000
ROWS_PER_GROUP = 16_384

SCHEMA = pa.schema(
    [("latent", pa.uint32()), ("context", pa.uint32()), ("position", pa.uint16()), ("activation", pa.float32())]
)
COLUMNS: dict[str, np.dtype[Any]] = {
    "context": np.dtype("<u4"),
    "position": np.dtype("<u2"),
    "activation": np.dtype("<f4"),
}


class Entries(NamedTuple):
    """Activations in parallel arrays, each [n]."""

    latent: np.ndarray
    "uint32"
    context: np.ndarray
    "uint32"
    position: np.ndarray
    "uint16"
    activation: np.ndarray
    "float32, > 0"


class CacheWriter:
    """Takes the activations of one layer in the order of the corpus; `finish` puts them in the order of latents."""

    def __init__(self, draft: Draft, n_latents: int) -> None:
        self.draft = draft
        self.n_latents = n_latents
        self.counts = np.zeros(n_latents, dtype=np.int64)
        self.spill = SpillFile(draft.folder / ".spill.part", n_latents)
        self._waiting: list[Entries] = []
        self._waiting_entries = 0

    def append(self, entries: Entries) -> None:
        """Add entries whose contexts are not smaller than those before."""
        self._waiting.append(entries)
        self._waiting_entries += len(entries.latent)
        if self._waiting_entries >= ENTRIES_PER_RUN:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        latent, *columns = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._waiting_entries = [], 0
        # Few latents fit 16 bits, for which numpy's stable sort is a radix sort.
        order = np.argsort(latent.astype(np.uint16) if self.n_latents <= 2**16 else latent, kind="stable")
        counts = np.bincount(latent, minlength=self.n_latents)
        self.counts += counts
        self.spill.append([column[order] for column in columns], counts)

    def finish(self) -> None:
        """Merge the runs into the final files and hand them, with the index, to the draft."""
        self._flush()
        files: list[Path] = []
        hashes = {name: hashlib.sha256() for name in SCHEMA.names}
        where_file = np.zeros(self.n_latents, dtype=np.uint32)
        where_row = np.zeros(self.n_latents, dtype=np.uint64)
        entries_hash = np.zeros(self.n_latents, dtype=np.uint64)
        for first, last in latent_blocks(self.counts, ENTRIES_PER_FILE):
            block = self.spill.block(first, last)
            for name, column in zip(SCHEMA.names, block, strict=True):
                hashes[name].update(column.data)
            file = self.draft.folder / f"activations-{len(files):05d}.parquet"
            where_file[first:last] = len(files)
            where_row[first:last] = np.cumsum(self.counts[first:last]) - self.counts[first:last]
            place = (block.context.astype(np.uint64) << np.uint64(16)) | block.position
            entries_hash[first:last] = set_hashes(self.counts[first:last], place, block.activation.view(np.uint32))
            write_entries(block, file)
            files.append(file)
        digests = {name: digest.hexdigest()[:16] for name, digest in hashes.items()}
        self.draft.adopt("activations", files, int(self.counts.sum()), digests)
        latents = np.arange(self.n_latents, dtype=np.uint32)
        index = {"latent": latents, "file": where_file, "row": where_row, "entries": self.counts.astype(np.uint64)}
        self.draft.write("index", pl.DataFrame(index | {"entries_hash": entries_hash}))
        self.close()

    def close(self) -> None:
        self.spill.close()


def latent_blocks(counts: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of latents with at most `limit` entries together, or one latent that has more alone."""
    first = 0
    total = 0
    for latent, count in enumerate(counts.tolist()):
        if latent > first and total + count > limit:
            yield first, latent
            first, total = latent, 0
        total += count
    if len(counts):
        yield first, len(counts)


def write_entries(entries: Entries, file: Path) -> None:
    """One Parquet file: runs of equal latents and small steps of contexts take few bytes, activations their four."""
    aside = file.with_name(f".{file.name}.part")
    with pq.ParquetWriter(
        aside,
        SCHEMA,
        compression={"latent": "zstd", "context": "zstd", "position": "zstd", "activation": "none"},
        use_dictionary=["latent"],
        column_encoding={"context": "DELTA_BINARY_PACKED", "position": "DELTA_BINARY_PACKED", "activation": "PLAIN"},
        write_statistics=False,
    ) as writer:
        writer.write_table(pa.table(list(entries), schema=SCHEMA), row_group_size=ROWS_PER_GROUP)
    settle(aside, file)


class SpillFile:
    """Runs of entries, each sorted by latent, with the offsets of its latents; raw columns one behind the other."""

    def __init__(self, path: Path, n_latents: int) -> None:
        self.path, self.n_latents = path, n_latents
        self.file = path.open("w+b")
        self.runs: list[tuple[int, int]] = []  # where a run begins in the file, its entries

    def append(self, columns: list[np.ndarray], counts: np.ndarray) -> None:
        """Add a run: its COLUMNS in the order of latents, and how many entries each latent has in it."""
        self.runs.append((self.file.seek(0, 2), len(columns[0])))
        offsets = np.zeros(self.n_latents + 1, dtype="<u4")
        np.cumsum(counts, out=offsets[1:])
        self.file.write(offsets.data)
        for column, dtype in zip(columns, COLUMNS.values(), strict=True):
            self.file.write(np.ascontiguousarray(column, dtype=dtype).data)

    def block(self, first: int, last: int) -> Entries:
        """The entries of latents [first, last) over all runs, sorted by latent, context, position."""
        offsets = np.zeros((len(self.runs), last - first + 1), dtype=np.int64)
        for run, (begin, _) in enumerate(self.runs):
            offsets[run] = self._read(begin + 4 * first, last - first + 1, np.dtype("<u4"))
        counts = np.diff(offsets, axis=1)
        totals = counts.sum(axis=0)
        # Runs follow the corpus, so what a run holds of a latent goes right behind what earlier runs hold of it.
        places = np.cumsum(totals) - totals + np.cumsum(counts, axis=0) - counts
        columns = [np.empty(totals.sum(), dtype=dtype) for dtype in COLUMNS.values()]
        for run, (begin, size) in enumerate(self.runs):
            start, stop = int(offsets[run, 0]), int(offsets[run, -1])
            to = np.repeat(places[run] - offsets[run, :-1], counts[run]) + np.arange(start, stop)
            begin += 4 * (self.n_latents + 1)
            for column in columns:
                column[to] = self._read(begin + start * column.itemsize, stop - start, column.dtype)
                begin += size * column.itemsize
        return Entries(np.repeat(np.arange(first, last, dtype=np.uint32), totals), *columns)

    def _read(self, position: int, count: int, dtype: np.dtype) -> np.ndarray:
        self.file.seek(position)
        return np.frombuffer(self.file.read(count * dtype.itemsize), dtype=dtype)

    def close(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


@dataclass
class CacheReader:
    """Reads a committed activation cache."""

    partition: Partition
    _open: dict[int, pq.ParquetFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = self.partition.files("activations")
        index = self.partition.read("index")
        self.entries = index["entries"].to_numpy().astype(np.int64)
        "int64 [n_latents], how often each latent fires"
        self.entries_hash = index["entries_hash"].to_numpy()
        "uint64 [n_latents], of all that is known of a latent here"
        self._file, self._row = index["file"].to_numpy(), index["row"].to_numpy().astype(np.int64)

    @property
    def n_latents(self) -> int:
        return len(self.entries)

    def latent(self, latent: int) -> Entries:
        """All activations of one latent, reading only the row groups that hold them."""
        number, row, count = int(self._file[latent]), int(self._row[latent]), int(self.entries[latent])
        if number not in self._open:
            self._open[number] = pq.ParquetFile(self.files[number])
        first, last = row // ROWS_PER_GROUP, (row + max(count, 1) - 1) // ROWS_PER_GROUP
        if count == 0:
            return Entries(*(np.empty(0, dtype=t.to_pandas_dtype()) for t in SCHEMA.types))
        table = self._open[number].read_row_groups(
            list(range(first, last + 1)), columns=list(COLUMNS), use_threads=False
        )
        part = table.slice(row - first * ROWS_PER_GROUP, count)
        context, position, activation = (part.column(name).to_numpy() for name in COLUMNS)
        return Entries(np.full(count, latent, dtype=np.uint32), context, position, activation)

    def block(self, number: int) -> tuple[range, Entries]:
        """One file of the cache: the latents that it holds, and its entries in order. Threads may read at once."""
        held = np.flatnonzero(self._file == number)
        latents = range(int(held[0]), int(held[-1]) + 1)
        # The index says which rows belong to which latent, so that column need not be decoded.
        latent = np.repeat(np.arange(latents.start, latents.stop, dtype=np.uint32), self.entries[held])
        table = pq.ParquetFile(self.files[number]).read(list(COLUMNS), use_threads=False)
        return latents, Entries(latent, *(table.column(name).to_numpy() for name in COLUMNS))

    def blocks_of(self, wanted: np.ndarray) -> list[int]:
        """Which blocks hold a wanted latent.

        Args:
            wanted: bool [n_latents].
        """
        return np.unique(self._file[wanted]).tolist()

    def part(self, number: int, wanted: np.ndarray) -> tuple[np.ndarray, Entries]:
        """The wanted latents of one block, int64 ascending, and their entries.

        Args:
            wanted: bool [n_latents].
        """
        latents, entries = self.block(number)
        chosen = latents.start + np.flatnonzero(wanted[latents.start : latents.stop])
        if len(chosen) == len(latents):
            return chosen, entries
        kept = wanted[entries.latent]
        return chosen, Entries(*(column[kept] for column in entries))

    def blocks(self) -> Iterator[tuple[range, Entries]]:
        """The cache file by file."""
        return (self.block(number) for number in range(len(self.files)))
