"""How many matched latents are explained on both sides, and how surely semantic overlap is known from them.

As many latents of each layer are drawn by index, as a plain number under `examples.latents` draws them, and along the
alignment; beside both stands what comes out where all latents are explained. First on planted layers, then, without
`--quick`, on the demo's SAEs, whose extractive explanations of all latents are made for it (about ten minutes):

    python -m benchmarks.chains [--quick] [STUDY]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from benchmarks.measuring import quick, show
from interp_assets.activations.cache_file import CacheReader
from interp_assets.alignment.overlap import explained_alike
from interp_assets.commands import find_study
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.along import draws_table, numbers_along
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.draws import PICK_LATENT, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.explanations.extractive import explain, words_of
from interp_assets.explanations.pending import windows_of
from interp_assets.freshness import Freshness
from interp_assets.partitions import layer_pairs, pair_key
from interp_assets.settings import ExtractiveExplainer
from interp_assets.study import Study
from resources.partition_files import Partition
from resources.text_embedder import TextEmbedder

COUNT = 200
EXPLAINER = ExtractiveExplainer(kind="extractive")


class Explained(NamedTuple):
    """A layer of which every latent with enough windows is explained."""

    key: str
    enough: np.ndarray
    "bool [n_latents]"
    vectors: np.ndarray
    "float32 [n_latents, d], of unit length where there is an explanation"


def main() -> None:
    seeds = 10 if quick() else 50
    compare("planted", *planted(), seeds)
    if not quick():
        study = find_study(next((word for word in sys.argv[1:] if not word.startswith("-")), "smollm2_demo"))
        compare("study", *all_explained(study), seeds)


def compare(name: str, layers: Sequence[Explained], matchings: Sequence[pl.DataFrame], seeds: int) -> None:
    """
    Args:
        matchings: of each layer with the next.
    """
    widths: dict[str, list[float]] = {"by_index": [], "along": []}
    for place, (pair, matching) in enumerate(zip(pairwise(layers), matchings, strict=True)):
        label = f"{name}_{pair[0].key.rpartition('.')[2]}_{pair[1].key.rpartition('.')[2]}"
        show(f"{label}_matched_pairs_that_can_be_drawn", of_all(pair, matching)[1])
        show(f"{label}_mean_cosine_of_all", of_all(pair, matching)[0])
        for way in widths:
            rows = [overlap(layers, matchings, place, way, seed) for seed in range(seeds)]
            values = np.array([row["value"] for row in rows if row["low"] is not None])
            width = np.mean([row["high"] - row["low"] for row in rows if row["low"] is not None])
            widths[way].append(float(width))
            show(f"{label}_{way}_pairs_explained_on_both_sides", float(np.mean([row["n_latents"] for row in rows])))
            show(f"{label}_{way}_mean_cosine", float(values.mean()))
            show(f"{label}_{way}_mean_cosine_standard_error_over_seeds", float(values.std(ddof=1) / len(values) ** 0.5))
            show(f"{label}_{way}_mean_cosine_standard_deviation_over_seeds", float(values.std(ddof=1)))
            show(f"{label}_{way}_interval_width", float(width))
    show(f"{name}_interval_width_ratio", float(np.mean(widths["by_index"]) / np.mean(widths["along"])))


def of_all(pair: tuple[Explained, Explained], matching: pl.DataFrame) -> tuple[float, int]:
    """The mean cosine of all matched latents that can be drawn, and how many pairs they are."""
    a, b = (matching[name].to_numpy() for name in ("latent_a", "latent_b"))
    both = pair[0].enough[a] & pair[1].enough[b]
    return float((pair[0].vectors[a[both]] * pair[1].vectors[b[both]]).sum(1).mean()), int(both.sum())


def overlap(
    layers: Sequence[Explained], matchings: Sequence[pl.DataFrame], place: int, way: str, seed: int
) -> dict[str, float]:
    """The row of `tables.SEMANTIC_OVERLAP` about a pair of layers, from COUNT latents of each."""
    draws = tuple(drawn(layers, matchings, place + side, way, seed) for side in (0, 1))
    sides = [
        table.head(COUNT).select(
            "latent",
            explainer=pl.lit("extractive"),
            status=pl.lit("ok"),
            explanation=pl.format("{} {}", pl.lit(place + side), "latent"),
        )
        for side, table in enumerate(draws)
    ]

    def embed(names: list[str]) -> np.ndarray:
        numbers = [[int(part) for part in name.split()] for name in names]
        return np.stack([layers[layer].vectors[latent] for layer, latent in numbers])

    frames = {"optimal": matchings[place].select("latent_a", "latent_b")}
    table, _ = explained_alike(frames, sides[0], sides[1], embed, seed, (draws[0], draws[1]))
    return table.filter(matching="optimal", statistic="mean_cosine").to_dicts()[0]


def drawn(
    layers: Sequence[Explained], matchings: Sequence[pl.DataFrame], place: int, way: str, seed: int
) -> pl.DataFrame:
    n_latents = len(layers[place].enough)
    if way == "by_index":
        return draws_table(keyed(seed, PICK_LATENT, np.arange(n_latents)), layers[place].enough)
    above = [layer.key for layer in layers[place::-1]]
    matches = [(each["latent_b"].to_numpy(), each["latent_a"].to_numpy()) for each in matchings[:place][::-1]]
    return draws_table(numbers_along(seed, n_latents, above, matches), layers[place].enough)


def planted() -> tuple[list[Explained], list[pl.DataFrame]]:
    """Three layers of 2,048 latents, of which three quarters have enough windows and nine tenths go on to the next layer."""
    draw, n = np.random.default_rng(0), 2_048
    vectors = [draw.normal(size=(n, 64))]
    matchings = []
    for _ in range(2):
        a, b = draw.permutation(n)[: n * 9 // 10], draw.permutation(n)[: n * 9 // 10]
        following = draw.normal(size=(n, 64))
        following[b] += draw.uniform(0, 1.5, (len(a), 1)) * vectors[-1][a]
        vectors.append(following)
        matchings.append(pl.DataFrame({"latent_a": a, "latent_b": b}).cast(pl.UInt32))
    layers = [
        Explained(f"layers.{i}", draw.random(n) < 0.75, (each / np.linalg.norm(each, axis=1)[:, None]).astype("f4"))
        for i, each in enumerate(vectors)
    ]
    return layers, matchings


def all_explained(study: Study) -> tuple[list[Explained], list[pl.DataFrame]]:
    """The layers of a study that has been run, with every latent explained by quotes."""
    look, pairs = Freshness(study), layer_pairs(study)
    settings = study.scorers.embedding
    if settings is None or any(one[1] != next_[0] for one, next_ in pairwise(pairs)):
        sys.exit(f"{study.file}: scorers.embedding and pairs of layers that follow one another are needed")

    def made(asset: str, key: str | None) -> Partition:
        if (partition := look.current(asset, key)) is None:
            sys.exit(f"{asset} of {study.name} is not there; make it with: interp run {study.called}")
        return partition

    matchings = [made("layer_matching", pair_key(*pair)).read("matching") for pair in pairs]
    tokens = tokens_matrix(made("corpus", None).read("corpus", ["tokens"]))
    place, revision = study.model_at(settings.model)
    model = TextEmbedder(place, settings.dtype, settings.device, settings.batch_size, revision=revision)
    layers = []
    for key in dict.fromkeys(layer for pair in pairs for layer in pair):
        texts = quoted(study, CacheReader(made("activation_cache", key)), tokens)
        enough = np.array([text is not None for text in texts])
        vectors = model.embed([text for text in texts if text is not None], role="query")
        every = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        every[enough] = vectors
        layers.append(Explained(key, enough, every))
    return layers, matchings


def quoted(study: Study, cache: CacheReader, tokens: np.ndarray) -> list[str | None]:
    """The extractive explanation of each latent; None where it has too few windows."""
    test = study.examples.test.model_copy(update={"activating": 1, "non_activating": 0})
    examples = draw_examples(cache, tokens, study.examples.model_copy(update={"latents": "all", "test": test}))
    shown = examples.filter(purpose="explain", status="ok")
    shown = shown.sort("latent", "peak_activation", "example", descending=[False, True, False])
    rendering = Rendering.of(study)
    texts: list[str | None] = [None] * cache.n_latents
    for latent, windows in windows_of(shown, shown["latent"], bool(study.corpus.bos)).items():
        texts[latent] = explain([words_of(*window, rendering) for window in windows], EXPLAINER)
    return texts


if __name__ == "__main__":
    main()
