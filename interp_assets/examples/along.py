"""Draws along an alignment: matched latents share one random number, so that they are drawn together or not at all.

The number of a latent is uniform and keyed. A latent that is matched has its match's, one layer further up, and so on to
the first latent of its chain. Each layer takes the latents with the lowest numbers among those with enough windows. As a
matching is one to one, no two latents of a layer share a number, so the latents of every layer are a simple random sample:
all are drawn with the same probability, matched or not, and means over them need no weights. Of two matched latents both
are drawn about as often as either of them. (Permanent random numbers: Ohlsson, "Coordination of samples using permanent
random numbers", in Business Survey Methods, Wiley, 1995.)

A latent with too few windows does not end a chain; it is passed over, and the layer takes the next. Dead latents, and
those of controls, are matched with nothing and have numbers of their own.

Pairs of latents are not drawn equally often: those of one chain are drawn more often than others. What is estimated over
pairs is weighted for it (`alignment/overlap.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from interp_assets.examples.drawing import Counted
from interp_assets.examples.draws import PICK_LATENT, first_latents, keyed
from interp_assets.partitions import pair_key, pairs_followed
from interp_assets.tables import LATENT_DRAWS, conform

if TYPE_CHECKING:
    from interp_assets.job import Inputs

Match = tuple[np.ndarray, np.ndarray]
"Latents of a layer and those of the layer above that they are matched with, int64 [matched] each."


def numbers_along(seed: int, n_latents: int, layers: Sequence[str], matches: Sequence[Match]) -> np.ndarray:
    """The random number of each latent of a layer, uint64 [n_latents].

    A chain has the number of its first latent. In the layer at the top that is the number by which latents are drawn
    where nothing is matched.

    Args:
        layers: keys of the layer, the one that its draws follow, and so on to the top.
        matches: of each of these layers with the next.
    """
    number = np.zeros(n_latents, dtype=np.uint64)
    latent, at = np.arange(n_latents), np.arange(n_latents)
    for layer, (here, above) in zip(layers, matches, strict=False):
        matched = np.isin(at, here)
        number[latent[~matched]] = keyed(seed, PICK_LATENT, at[~matched], named(layer))
        latent, at = latent[matched], at[matched]
        if len(here):
            order = np.argsort(here)
            at = above[order][np.searchsorted(here[order], at)]
    number[latent] = keyed(seed, PICK_LATENT, at)
    return number


def named(layer: str) -> int:
    return int.from_bytes(hashlib.blake2b(layer.encode(), digest_size=7).digest(), "little")


def numbers_of(inputs: Inputs, n_latents: int) -> np.ndarray:
    """The random number of each latent of a partition's layer, uint64 [n_latents], from the matchings that it reads.
    Chains begin anew behind a layer that cannot be matched, since its SAE failed."""
    layers, matches = [inputs.layer], []
    for pair in pairs_followed(inputs.study, inputs.layer):
        if inputs.freshness.stopped("layer_matching", pair_key(*pair)):
            break
        table = inputs.input("layer_matching", pair_key(*pair)).read("matching", ["latent_a", "latent_b"])
        sides = [table[name].to_numpy().astype(np.int64) for name in ("latent_a", "latent_b")]
        here = pair.index(layers[-1])
        matches.append((sides[here], sides[1 - here]))
        layers.append(pair[1 - here])
    return numbers_along(inputs.study.examples.seed, n_latents, layers, matches)


def draws_table(numbers: np.ndarray, enough: np.ndarray) -> pl.DataFrame:
    """The table `tables.LATENT_DRAWS`: all latents that could be drawn, in the order in which they are.

    Args:
        numbers: uint64 [n_latents].
        enough: bool [n_latents], whether a latent has enough windows.
    """
    latents = np.flatnonzero(enough)
    return conform(pl.DataFrame({"latent": latents, "number": numbers[latents]}), LATENT_DRAWS).sort("number")


def first_drawn(inputs: Inputs, latents: list[int], count: int | None) -> list[int]:
    """So many latents of a layer, the first in the keyed order which every stage takes them in; by number."""
    examples = inputs.study.examples
    if count is None or not examples.along_alignment:
        return first_latents(examples.seed, latents, count)
    order = inputs.input("examples").read("draws", ["latent"])["latent"]
    return sorted(order.filter(order.is_in(latents)).head(count).to_list())


def draws_of(inputs: Inputs, layer: str) -> pl.DataFrame:
    """The table `tables.LATENT_DRAWS` of a layer, however the study draws latents; of a list only those in it."""
    examples, partition = inputs.study.examples, inputs.input("examples", layer)
    if examples.along_alignment:
        return partition.read("draws")
    columns = partition.read("latents", ["windows", "smaller_side"]).to_dict()
    windows, smaller_side = (columns[name].to_numpy() for name in ("windows", "smaller_side"))
    # Whether there is enough is told by these two alone.
    counted = Counted(**dict.fromkeys(Counted._fields, windows) | {"smaller_side": smaller_side})
    enough = counted.enough(examples)
    if isinstance(examples.latents, tuple):
        enough &= np.isin(np.arange(len(enough)), examples.latents)
    return draws_table(keyed(examples.seed, PICK_LATENT, np.arange(len(enough))), enough)
