"""What settings of SAEs call a model, as its name on the hub; TransformerLens has short names of its own."""

from __future__ import annotations

import re
from typing import NamedTuple

from resources.hub import repository_of


class Known(NamedTuple):
    short: str
    "Pattern of the short name."
    hub: str
    "The name on the hub; \\g<0> is the short name."
    model_type: str
    "What its settings say, for where these are not to be had."


KNOWN = (
    Known(r"gpt2(-small)?", "openai-community/gpt2", "gpt2"),
    Known(r"gpt2-(medium|large|xl)", r"openai-community/\g<0>", "gpt2"),
    Known(r"pythia-[0-9a-z.-]+", r"EleutherAI/\g<0>", "gpt_neox"),
    Known(r"gpt-neo-[0-9.]+[MB]", r"EleutherAI/\g<0>", "gpt_neo"),
    Known(r"gpt-j-6[Bb]", "EleutherAI/gpt-j-6b", "gptj"),
    Known(r"tiny-stories-(\d+M)", r"roneneldan/TinyStories-\1", "gpt_neo"),
    Known(r"TinyStories-\d+M", r"roneneldan/\g<0>", "gpt_neo"),
    Known(r"gemma-2-\d+b(-it)?", r"google/\g<0>", "gemma2"),
    Known(r"gemma-3-(270m|1b)(-pt|-it)?", r"google/\g<0>", "gemma3_text"),
    Known(r"gemma-3-\d+b(-pt|-it)", r"google/\g<0>", "gemma3"),
    Known(r"gemma-\d+b(-it)?", r"google/\g<0>", "gemma"),
    Known(r"(Meta-)?Llama-3(\.\d)?-\d+B(-Instruct)?", r"meta-llama/\g<0>", "llama"),
    Known(r"mistral-7b", "mistralai/Mistral-7B-v0.1", "mistral"),
    Known(r"qwen2(\.5)?-[0-9.]+b(-instruct)?", r"Qwen/\g<0>", "qwen2"),
    Known(r"Qwen2(\.5)?-[0-9.]+B(-Instruct)?", r"Qwen/\g<0>", "qwen2"),
    Known(r"qwen3-([0-9.]+)b", r"Qwen/Qwen3-\1B", "qwen3"),
    Known(r"Qwen3-[0-9.]+B(-Base)?", r"Qwen/\g<0>", "qwen3"),
)


def hub_name_of(name: str) -> str | None:
    """The name on the hub of what a settings file calls a model; None where it is no name that is known."""
    repository = repository_of(name)
    if repository is not None:
        return None if repository.folder else name
    for known in KNOWN:
        if found := re.fullmatch(known.short, name):
            return found.expand(known.hub)
    return None


def model_type_of(hub_name: str) -> str | None:
    """The `model_type` of a model by its name on the hub, where that is one of those known here."""
    name = hub_name.partition("/")[2]
    for known in KNOWN:
        found = re.fullmatch(known.short, name)
        if known.hub == hub_name or (found and found.expand(known.hub) == hub_name):
            return known.model_type
    return None
