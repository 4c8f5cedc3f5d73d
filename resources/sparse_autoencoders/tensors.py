"""Open a weights file: named tensors in float32, or an error that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .autoencoder import InvalidSae


def load_tensors(file: Path, names: tuple[str, ...], device: str) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt", device=device) as opened:
            there = set(opened.keys())
            if missing := [name for name in names if name not in there]:
                raise InvalidSae(f"{file}: tensor {missing[0]} is missing; there are: {', '.join(sorted(there))}")
            return {name: opened.get_tensor(name).to(torch.float32) for name in names}
    except SafetensorError as error:
        raise InvalidSae(f"{file}: damaged or cut short ({error})") from None


def check_declared(file: Path, tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    """The tensors are the truth, the settings must agree with them."""
    for name, declared in shapes.items():
        if (shape := tuple(tensors[name].shape)) != declared:
            raise InvalidSae(f"{file}: {name} has shape {shape}, cfg.json says {declared}")
