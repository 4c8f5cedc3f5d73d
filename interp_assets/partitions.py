"""Partition keys: layers, pairs of layers, and the order in which layers are adjacent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from interp_assets.asset import Asset

if TYPE_CHECKING:
    from interp_assets.study import Study

BETWEEN = "__"
"Stands between the two layers of a pair's key."


def layer_keys(study: Study) -> list[str]:
    return [layer.key for layer in study.layers]


def layer_pairs(study: Study) -> list[tuple[str, str]]:
    """The pairs that are matched: those that the study lists, or else every two adjacent layers.

    Adjacent are layers that differ in one number only (layers.8 and layers.9; layers.8.mlp and layers.9.mlp) with none
    of the study between them. Controls are matched with nothing.
    """
    if study.alignment is None:
        return []
    if study.alignment.pairs is not None:
        return list(study.alignment.pairs)
    families: dict[str, list[tuple[int, str]]] = {}
    for layer in study.layers:
        if layer.control is not None:
            continue
        number = re.search(r"(?<=\.)\d+", layer.key)
        if number is not None:
            family = f"{layer.key[: number.start()]}#{layer.key[number.end() :]}"
            families.setdefault(family, []).append((int(number[0]), layer.key))
    in_order = [[key for _, key in sorted(family)] for family in families.values()]
    return [(keys[i], keys[i + 1]) for keys in in_order for i in range(len(keys) - 1)]


def pairs_followed(study: Study, layer: str) -> list[tuple[str, str]]:
    """The pairs along which the draws of a layer follow latents, from this layer to the first of its row; none where
    latents are not drawn along the alignment, or nothing is matched with this layer.

    Pairs may branch or skip layers. One that joins layers which those listed before it have joined already is not
    followed, so that one way leads from each layer to another, and no latent meets another one of its own layer.
    """
    if not study.examples.along_alignment:
        return []
    above: dict[str, tuple[str, str]] = {}
    joined: dict[str, set[str]] = {}
    branches: dict[str, list[tuple[str, str]]] = {}
    for pair in layer_pairs(study):
        a, b = (joined.setdefault(key, {key}) for key in pair)
        if a is not b:
            a |= b
            joined |= dict.fromkeys(b, a)
            for key in pair:
                branches.setdefault(key, []).append(pair)
    first = next((key for key in joined if joined[key] is joined.get(layer)), layer)
    reached = [first]
    for key in reached:
        for pair in branches.get(key, []):
            other = pair[1] if pair[0] == key else pair[0]
            if pair != above.get(key):
                above[other] = pair
                reached.append(other)
    way = []
    while layer in above:
        way.append(above[layer])
        layer = way[-1][1] if way[-1][0] == layer else way[-1][0]
    return way


def pair_key(first: str, second: str) -> str:
    return f"{first}{BETWEEN}{second}"


def layers_of_pair(study: Study, key: str) -> tuple[str, str]:
    """
    Raises:
        KeyError: the study does not match this pair.
    """
    return {pair_key(*pair): pair for pair in layer_pairs(study)}[key]


def partitions_of(study: Study, asset: Asset) -> list[str | None]:
    """The partition keys of an asset, or [None] where there is one for all."""
    if asset.scope == "pair":
        return [pair_key(*pair) for pair in layer_pairs(study)]
    return [*layer_keys(study)] if asset.per_layer else [None]


def partitions_read(study: Study, asset: Asset, key: str | None, source: Asset) -> list[str | None]:
    """Which partitions of an input a partition reads."""
    if not source.partitioned:
        return [None]
    if asset.scope == "study":
        return partitions_of(study, source)
    if asset.scope == "pair" and source.per_layer:
        return [*layers_of_pair(study, str(key))]
    if source.scope == "pair" and asset.per_layer:
        return [pair_key(*pair) for pair in pairs_followed(study, str(key))]
    return [key]


def layers_touched(study: Study, asset: Asset, key: str | None) -> list[str]:
    """The layers that a partition is about; none where it is one for all."""
    if key is None:
        return []
    return [*layers_of_pair(study, key)] if asset.scope == "pair" else [key]
