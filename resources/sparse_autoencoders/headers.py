"""What a weights file says about its tensors, before any of them is read. Needs no torch."""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from resources.errors import UnusableInput

LARGEST_HEADER_BYTES = 16 << 20
"Of a safetensors file, or of one tensor in an archive."
MOST_BLOWN_UP = 10
"Weights hardly compress; an archive that unpacks to more than so many times its size holds none."
BLOWN_UP_BYTES = 64 << 20
"As much is unpacked from any archive."


class InvalidSae(UnusableInput):
    """Weights that cannot be used; the message names the file, the key and what is wrong."""


class Header(NamedTuple):
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: str
    "As the file calls it: F32, BF16, <f4 ..."


def shapes_in(file: Path) -> dict[str, Header] | None:
    """The tensors of a file by name; None for a .pt file, which says nothing before it is read.

    Raises:
        InvalidSae: it is damaged, or cannot be read.
    """
    if file.suffix == ".npz":
        with archive(file) as opened:
            return {name: header for name, (header, _, _) in npy_members(file, opened).items()}
    if file.suffix == ".safetensors":
        try:
            return safetensors_header(file)
        except OSError as error:
            raise InvalidSae(f"{file}: cannot be read ({error.strerror})") from None
    with archive(file):
        return None


def safetensors_header(file: Path) -> dict[str, Header]:
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(LARGEST_HEADER_BYTES, file.stat().st_size - 8):
            raise InvalidSae(f"{file}: damaged or cut short (its header has no possible length)")
        try:
            entries = json.loads(opened.read(length))
            entries.pop("__metadata__", None)
            headers, bytes_of = {}, {}
            for name, entry in entries.items():
                headers[name] = Header(tuple(int(n) for n in entry["shape"]), str(entry["dtype"]))
                first, end = (int(place) for place in entry["data_offsets"])
                bytes_of[name] = end - first
                if (missing := 8 + length + end - file.stat().st_size) > 0:
                    raise InvalidSae(f"{file}: damaged or cut short (of {name} {missing:,} bytes are missing)")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise InvalidSae(f"{file}: damaged or cut short (its header cannot be read: {error})") from None
    for name, header in headers.items():
        bits = re.search(r"\d+", header.dtype)
        if bits and math.prod(header.shape) * int(bits[0]) != 8 * bytes_of[name]:
            raise InvalidSae(
                f"{file}: damaged or cut short ({name} says it has shape {header.shape} of {header.dtype}, but it has "
                f"{bytes_of[name]:,} bytes)"
            )
    return headers


def vector_in(file: Path, name: str, length: int) -> np.ndarray | None:
    """One number for each latent, float64 [length], from a safetensors file; None where it is not there.

    Raises:
        InvalidSae: it is damaged, or not so long.
    """
    header = safetensors_header(file).get(name) if file.is_file() else None
    if header is None:
        return None
    if header.shape != (length,) or header.dtype not in ("F16", "F32", "F64"):
        raise InvalidSae(
            f"{file}: {name} is {header.dtype} {list(header.shape)}, not a number for each of {length} latents"
        )
    try:
        with safe_open(file, framework="numpy") as opened:
            return np.asarray(opened.get_tensor(name), dtype=np.float64)
    except SafetensorError as error:
        raise InvalidSae(f"{file}: damaged or cut short ({error})") from None


@contextmanager
def archive(file: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive of weights, once its members' declared sizes have been looked at; no member unpacks to more.

    Raises:
        InvalidSae: it is damaged, or would unpack to far more than weights can.
    """
    size = file.stat().st_size
    try:
        with zipfile.ZipFile(file) as opened:
            unpacked = sum(each.file_size for each in opened.infolist())
            if unpacked > MOST_BLOWN_UP * size + BLOWN_UP_BYTES:
                raise InvalidSae(
                    f"{file}: {size:,} bytes would unpack to {unpacked:,}: no weights compress that much; not opened"
                )
            yield opened
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, struct.error) as error:
        raise InvalidSae(f"{file}: damaged or cut short ({error})") from None


def npy_members(file: Path, opened: zipfile.ZipFile) -> dict[str, tuple[Header, bool, int]]:
    """Of each array: its header, whether columns stand together (Fortran order), and where its numbers begin."""
    found: dict[str, tuple[Header, bool, int]] = {}
    for member in opened.infolist():
        name = member.filename.removesuffix(".npy")
        with opened.open(member) as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read: Any = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read(stream, max_header_size=10_000)
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
                raise InvalidSae(f"{file}: {name!r} is no array that can be read ({error})") from None
            start = stream.tell()
        if dtype.hasobject or dtype.kind not in "fiub" or dtype.subdtype is not None:
            raise InvalidSae(f"{file}: {name!r} holds {dtype}, not numbers; pickled objects are never loaded")
        if member.file_size != start + math.prod(shape) * dtype.itemsize:
            raise InvalidSae(
                f"{file}: {name!r} says it has shape {shape} of {dtype}, but it has {member.file_size - start:,} bytes"
            )
        if name in found:
            raise InvalidSae(f"{file}: {name!r} stands there twice")
        found[name] = (Header(tuple(shape), dtype.str), fortran, start)
    return found
