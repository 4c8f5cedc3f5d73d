"""Open a weights file: named tensors in float32, or an error that says what is wrong with the file."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resources.sparse_autoencoders.headers import Header, InvalidSae, archive, npy_members

BYTES_AT_ONCE = 64 << 20
"Converted or copied at a time, so that nothing stands in memory twice."


class Opened(Protocol):
    """A weights file of one kind."""

    names: list[str]

    def shape(self, name: str) -> tuple[int, ...]: ...

    def tensor(self, name: str) -> Tensor: ...


class Weights:
    """The tensors of one file. Each is read once and made float32 when it is asked for.

    Whoever reads an SAE says at the end, with `all_read`, which tensors may have been left: any other that nobody asked
    for means that the maker's class computes something more.
    """

    def __init__(self, file: Path, device: str, settings: str | None = None) -> None:
        """
        Args:
            settings: the name of the file beside it that says which shapes there are.

        Raises:
            InvalidSae: the file is damaged, no weights file, or would unpack to more than weights can.
        """
        self.file, self.device, self.settings = file, device, settings
        self._read: set[str] = set()
        openers: dict[str, Callable[[Path, str], Opened]] = {".npz": NpzFile, ".pt": PtFile}
        self._opened = openers.get(file.suffix, SafetensorsFile)(file, device)
        self.names: Collection[str] = self._opened.names

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """One tensor, float32, on the device; the caller must not write to it.

        Args:
            shape: what the settings say it has.

        Raises:
            InvalidSae: it is not there, has another shape, or holds no numbers.
        """
        if name not in self.names:
            raise InvalidSae(f"{self.file}: tensor {name} is missing; there are: {', '.join(sorted(self.names))}")
        self._read.add(name)
        try:
            found = self._opened.shape(name)
            if shape is not None and found != shape:
                raise InvalidSae(f"{self.file}: {name} has shape {found}, {self.settings} says {shape}")
            tensor: Tensor = self._opened.tensor(name)
        except SafetensorError as error:
            raise InvalidSae(f"{self.file}: {name} cannot be read ({error})") from None
        if not tensor.is_floating_point():
            raise InvalidSae(f"{self.file}: {name} holds {tensor.dtype}, not real numbers")
        return tensor.to(self.device, torch.float32)

    def transposed(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """As `get`, but rows and columns change places, and rows stand together: shape is that in the file."""
        tensor = self.get(name, shape)
        if tensor.ndim != 2:
            raise InvalidSae(f"{self.file}: {name} has shape {tuple(tensor.shape)}, not rows and columns")
        turned = torch.empty(tensor.shape[::-1], device=self.device)
        step = max(1, BYTES_AT_ONCE // 4 // max(1, tensor.shape[0]))
        for start in range(0, tensor.shape[1], step):
            turned[start : start + step] = tensor[:, start : start + step].T
        return turned

    def all_read(self, may_be_left: Collection[str] = ()) -> None:
        """
        Raises:
            InvalidSae: there is a tensor that nothing here reads.
        """
        if left := sorted(set(self.names) - self._read - set(may_be_left)):
            raise InvalidSae(
                f"{self.file}: tensor {left[0]} is not supported: what it does to the SAE is not known here; "
                f"supported are: {', '.join(sorted(self._read))}"
            )


class SafetensorsFile:
    def __init__(self, file: Path, device: str) -> None:
        try:
            self.opened = safe_open(file, framework="pt", device=device)
        except SafetensorError as error:
            raise InvalidSae(f"{file}: damaged or cut short ({error})") from None
        self.names = list(self.opened.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.opened.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        return self.opened.get_tensor(name)


class NpzFile:
    """Arrays of numpy; nothing pickled is ever read."""

    def __init__(self, file: Path, device: str) -> None:
        self.file = file
        with archive(file) as opened:
            self.members = npy_members(file, opened)
        self.names = list(self.members)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.members[name][0].shape

    def tensor(self, name: str) -> Tensor:
        header, fortran, start = self.members[name]
        with archive(self.file) as opened, opened.open(_member(opened, name)) as stream:
            stream.read(start)
            found = _numbers(stream, header)
        tensor = torch.from_numpy(found)
        # Of a matrix whose columns stand together, rows and columns have been read the wrong way round.
        return tensor.reshape(header.shape[::-1]).T.contiguous() if fortran else tensor.reshape(header.shape)


def _member(opened: Any, name: str) -> str:
    return f"{name}.npy" if f"{name}.npy" in opened.namelist() else name


def _numbers(stream: Any, header: Header) -> np.ndarray:
    """All numbers of an array, float32 unless they are whole; a part at a time."""
    dtype = np.dtype(header.dtype)
    count = int(np.prod(header.shape, dtype=np.int64))
    found = np.empty(count, np.float32 if dtype.kind == "f" else np.int64)
    step = BYTES_AT_ONCE // dtype.itemsize
    for start in range(0, count, step):
        part = stream.read(min(step, count - start) * dtype.itemsize)
        found[start : start + step] = np.frombuffer(part, dtype)
    return found


class PtFile:
    """A state dict of torch, by the unpickler that makes tensors and nothing else."""

    def __init__(self, file: Path, device: str) -> None:
        with archive(file):
            pass
        try:
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (
            pickle.UnpicklingError,
            RuntimeError,
            ValueError,
            EOFError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            told = str(error).split(". ")[0]
            raise InvalidSae(
                f"{file}: not a file of tensors alone; nothing else is loaded from a .pt file ({told})"
            ) from None
        if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
            raise InvalidSae(f"{file}: holds no state dict, that is named tensors")
        self.tensors = dict(found)
        for name, tensor in self.tensors.items():
            # A view may claim any size, whatever lies behind it.
            if tensor.layout != torch.strided or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
                raise InvalidSae(f"{file}: {name} claims shape {tuple(tensor.shape)}, more numbers than the file holds")
        self.names = [str(name) for name in self.tensors]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name].detach()
