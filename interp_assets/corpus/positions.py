"""Whether contexts are longer than the subject model has positions."""

from __future__ import annotations

from typing import Any

from resources.errors import UnusableInput

NAMES = ("max_position_embeddings", "max_seq_len")
"What configurations call the number of positions; transformers maps further names, such as n_positions, to the first."


def positions_of(config: Any) -> int | None:
    """How many positions a model has; None where it knows no such limit, as ALiBi and recurrent models do not."""
    numbers = (getattr(config, name, None) for name in NAMES)
    return next((number for number in numbers if isinstance(number, int) and number > 0), None)


def is_rotary(config: Any) -> bool:
    """Whether positions are angles that are computed, so that none is missing. Not of the oldest rotary models, GPT-J and
    CodeGen: these look them up in a table."""
    return getattr(config, "rope_parameters", None) is not None


def beyond_positions(config: Any, context_length: int) -> str | None:
    """A warning where contexts are longer than what a model was made for, but can be read.

    With rotary positions nothing fails, and stretched ones may be meant; yet no position behind the last one was ever
    trained, so neither was an SAE on it.

    Raises:
        UnusableInput: the model has no such positions.
    """
    positions = positions_of(config)
    if positions is None or context_length <= positions:
        return None
    said = f"corpus.context_length: {context_length:,} is more than the subject model's {positions:,} positions"
    if is_rotary(config):
        return f"{said}; what stands behind them was never seen in training"
    raise UnusableInput(f"{said}; set it to {positions:,} or less")
