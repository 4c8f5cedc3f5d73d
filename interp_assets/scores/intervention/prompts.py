"""Which prompts a latent is changed on: the beginnings of windows on which it fires, up to where it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from interp_assets.activations.cache_file import Entries
from interp_assets.examples.draws import PICK_PROMPT, WRITE_ON, keyed, order_by, rank_in_group
from interp_assets.settings import InterventionScorer

QUINTILES = 5
SHORTEST_PROMPT = 8
"Tokens; behind fewer than these a model writes the same whatever they are."


class Place(NamedTuple):
    """Where in the corpus a prompt stands: tokens [start, first) of a context, the latent firing on token `first`."""

    context: int
    start: int
    first: int


@dataclass(frozen=True)
class Prompts:
    """The prompts of one latent, each of another context, quintiles of activation evenly among both purposes."""

    latent: int
    explain: list[Place]
    score: list[Place]

    @property
    def all(self) -> list[Place]:
        return [*self.explain, *self.score]


class TooFewPrompts(Exception):
    """The message says how many there are, and how many it takes."""


def choose_prompts(entries: Entries, context_length: int, settings: InterventionScorer, seed: int) -> Prompts:
    """The prompts of one latent; which they are depends on its own activations and the seed alone.

    Contexts are cut into windows of `prompt_tokens`. Of each context one active window is drawn, of those an equal
    number from each quintile of their strongest activation. So no two prompts share a context, and those that show
    the effect to the explainer none with those that it is scored on.

    Args:
        entries: all activations of the latent, in the order of the corpus.

    Raises:
        TooFewPrompts: the latent fires in too few contexts, or too early in them.
    """
    latent = int(entries.latent[0]) if len(entries.latent) else 0
    windows_in_context = -(-context_length // settings.prompt_tokens)
    position = entries.position.astype(np.int64)
    window = entries.context.astype(np.int64) * windows_in_context + position // settings.prompt_tokens
    window, at = np.unique(window, return_index=True)
    peak = np.maximum.reduceat(entries.activation, at) if len(at) else entries.activation
    context, start = np.divmod(window, windows_in_context)
    start, first = start * settings.prompt_tokens, position[at]
    long_enough = np.flatnonzero(first - start >= SHORTEST_PROMPT)
    priority = keyed(seed, PICK_PROMPT, latent, context, start)
    in_turn = long_enough[order_by(context[long_enough], priority[long_enough])]
    one_each = in_turn[np.unique(context[in_turn], return_index=True)[1]]
    wanted = settings.explain_prompts + settings.score_prompts
    if len(one_each) < wanted:
        raise TooFewPrompts(
            f"{len(one_each)} contexts with {SHORTEST_PROMPT} or more tokens before the latent fires; "
            f"explain_prompts and score_prompts are {wanted} together"
        )
    rank = np.empty(len(one_each), dtype=np.int64)
    rank[np.lexsort((priority[one_each], peak[one_each]))] = np.arange(len(one_each))
    quintile = rank * QUINTILES // len(one_each)
    by_quintile = order_by(quintile, priority[one_each])
    turn = rank_in_group(quintile[by_quintile])
    chosen = one_each[by_quintile[np.lexsort((quintile[by_quintile], turn))[:wanted]]]
    places = [Place(int(context[i]), int(start[i]), int(first[i])) for i in chosen]
    return Prompts(latent, places[: settings.explain_prompts], places[settings.explain_prompts :])


def token_ids(tokens: np.ndarray, place: Place, bos: int | None, with_firing: bool = False) -> list[int]:
    """The prompt as the model is given it, behind BOS where the corpus has it.

    Args:
        tokens: uint32 [contexts, context_length].
        bos: the id of the corpus's BOS token, or None.
        with_firing: the prompt ends with the token on which the latent fires: before it there is nothing to take away.
    """
    text = tokens[place.context, place.start : place.first + with_firing].tolist()
    return text if bos is None or place.start == 0 else [bos, *text]


def writing_seed(seed: int, latent: int, place: Place) -> int:
    """What decides how a prompt goes on: the same whatever is done to the latent, and whoever is run beside it."""
    return int(keyed(seed, WRITE_ON, latent, place.context, place.start)) >> 1
