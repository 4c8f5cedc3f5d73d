"""Whether the first tokens of contexts are attention sinks: what latents do on them is unlike all else that they do.

Where no BOS stands before it, attention that has nowhere to go rests on the first token, whatever it is (Xiao et al. 2024,
"Efficient Streaming Language Models with Attention Sinks").
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

SINK = 4.0
"How many times as strong as elsewhere latents fire, on average, on a position that counts as a sink."


def attention_sink(activations: Tensor, tokens_per_context: int) -> dict[str, Any]:
    """The leading positions that are sinks, with the figures; empty where there are none.

    Args:
        activations: float32 [tokens, width] of whole contexts, one after the other; 0 is padding.
    """
    by_position = activations.unflatten(0, (-1, tokens_per_context)).transpose(0, 1).flatten(1)
    firing = (by_position > 0).sum(1).clamp(min=1)
    mean = by_position.sum(1) / firing
    elsewhere = mean.median()
    is_sink = mean > SINK * elsewhere
    tokens = int(is_sink.long().cumprod(0).sum())
    if not tokens or not elsewhere > 0:
        return {}
    there = by_position[:tokens].sum() / firing[:tokens].sum()
    return {"tokens": tokens, "mean_activation": round(float(there), 3), "elsewhere": round(float(elsewhere), 3)}


def warning_of(sink: dict[str, Any], skip_first: int) -> str:
    """
    Args:
        skip_first: the study's; what it skips is not among the tokens of the sink.
    """
    tokens = sink["tokens"]
    first = "the first token" if tokens == 1 else f"the first {tokens} tokens"
    behind = f" behind the {skip_first} that are skipped" if skip_first else ""
    return (
        f"{first} of each context{behind} is an attention sink: latents that fire have a mean activation of "
        f"{sink['mean_activation']:.3g} there and of {sink['elsewhere']:.3g} elsewhere; corpus.skip_first: "
        f"{skip_first + tokens} leaves it out"
    )
