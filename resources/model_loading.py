"""A causal language model into memory: on one device, over several, or quantised."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from resources.errors import NotNow, UnusableInput, install_command
from resources.tokenizers import not_usable

DeviceMap = str | Mapping[str, str | int]
"""`auto`, `balanced`, `balanced_low_0` or `sequential`, or for each module path the device it stands on: a number of a
GPU, `cpu` or `disk`."""
Quantization = Literal["8bit", "4bit"]


def pick_device(device: str) -> str:
    """
    Raises:
        NotNow: this machine has no such device.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device == "auto":
        return "cuda" if len(there) > 1 else "cpu"
    if device.startswith("cuda") and (device if ":" in device else "cuda:0") not in there:
        raise NotNow(f"device {device}: this machine has none; there are: {', '.join(there)}")
    return device


def load_language_model(
    path: str | Path,
    revision: str | None,
    dtype: str,
    device: str,
    device_map: DeviceMap | None = None,
    quantization: Quantization | None = None,
) -> Any:
    """
    Args:
        device: where the model runs, where there is no device map.

    Raises:
        UnusableInput: no complete causal language model that transformers can read lies there.
    """
    place = pick_device(device)
    settings: dict[str, Any] = {}
    if device_map is not None or quantization is not None:
        settings["device_map"] = {"": place} if device_map is None else device_map
        settings["offload_folder"] = offload_folder()
    if quantization is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise NotNow(f"quantization: {quantization} needs: {install_command('quantized')}")
        settings["quantization_config"] = quantized(quantization, dtype)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            trust_remote_code=False,
            attn_implementation=attention_of(config),
            **settings,
        )
        model, report = loaded
        # transformers fills what is missing with random numbers.
        if missing := sorted(report["missing_keys"]):
            raise UnusableInput(f"{path}: the model's files lack {len(missing)} of its tensors, such as {missing[0]}")
    except Exception as error:
        raise not_usable(path, "causal language model", error) from None
    return model.eval() if settings else model.to(place).eval()


def fresh_language_model(
    path: str | Path, revision: str | None, dtype: str, device: str, seed: int, device_map: DeviceMap | None = None
) -> Any:
    """The model as its makers' code initialises it, from its settings alone; the same for a seed on every device.

    Raises:
        UnusableInput: no settings of a causal language model that transformers knows lie there.
    """
    place = pick_device(device)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attention_of(config)
            )
    except Exception as error:
        raise not_usable(path, "causal language model", error) from None
    # Only parameters: buffers, such as the frequencies of rotary positions, stay as exact as a loaded model's.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return model.to(place).eval() if device_map is None else dispatched(model, device_map).eval()


def attention_of(config: Any) -> str | None:
    """The attention that a model needs; None where any will do.

    Torch's own attention has no soft-capping of its logits (Gemma 2), and transformers leaves that out without a word.
    """
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def quantized(quantization: Quantization, dtype: str) -> BitsAndBytesConfig:
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    kept: Any = getattr(torch, dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=kept)


def dispatched(model: Any, device_map: DeviceMap) -> Any:
    from accelerate import dispatch_model, infer_auto_device_map

    chosen: Any = device_map
    if isinstance(device_map, str):
        chosen = infer_auto_device_map(model, no_split_module_classes=list(model._no_split_modules or ()))
    return dispatch_model(model, chosen, offload_dir=offload_folder())


OFFLOADED: list[tempfile.TemporaryDirectory[str]] = []
"Kept until the process ends: a model reads from its folder for as long as it is used."


def offload_folder() -> str:
    OFFLOADED.append(tempfile.TemporaryDirectory(prefix="interp-offload-"))
    return OFFLOADED[-1].name
