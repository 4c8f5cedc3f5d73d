"""Whether matched latents are explained alike: the mean cosine of their embedded explanations, against chance.

Compared are latents that the same explainer has explained on both sides. Beside the matching stand the same figures for
a greedy matching, the most similar pair first, and for random matchings of the same latents. A latent is what varies:
intervals are those of means over the latents of the first layer (`interp_assets.means`), with all that was measured of each.

Latents with the same random number are drawn together (`examples/along.py`): matched ones where they are drawn along the
alignment, elsewhere those with the same index, which after a shared start of training are more alike than others. So pairs
with one number and pairs with two count as their share of all pairs whose latents could be drawn (post-stratification:
Holt and Smith, JRSS A, 1979). Otherwise a random matching would meet the right one too often, and of a greedy one those
pairs would count too much in which it is right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from interp_assets.examples.draws import MATCH_AT_RANDOM, keyed
from interp_assets.means import Limits, mean_with_interval, of_differences
from interp_assets.tables import OVERLAP_PAIRS, SEMANTIC_OVERLAP, conform

RANDOM_MATCHINGS = 100
COSINE = (-1.0, 1.0)
NEGLIGIBLE = 0.02
"Where a larger share of all pairs is of a kind of which none was drawn, nothing is said of their mean."
Embed = Callable[[list[str]], np.ndarray]
Vectors = tuple[np.ndarray, np.ndarray]
"Of the explanations of two layers: unit vectors float32 [latents, d]."
Draws = tuple[pl.DataFrame, pl.DataFrame]
"`tables.LATENT_DRAWS` of two layers."


def explained_alike(
    matchings: dict[str, pl.DataFrame],
    a: pl.DataFrame,
    b: pl.DataFrame,
    embed: Embed,
    seed: int,
    draws: Draws | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables `tables.SEMANTIC_OVERLAP` and `tables.OVERLAP_PAIRS`.

    Args:
        matchings: columns latent_a, latent_b, by name; one is called `optimal`.
        a, b: `tables.EXPLANATIONS` of the two layers.
        embed: texts to unit vectors float32 [texts, d].
        draws: of both layers; None where all latents are explained.
    """
    overlaps, pairs = [], []
    told = [side.filter(status="ok").select("explainer", "latent", "explanation") for side in (a, b)]
    for explainer in sorted(set(told[0]["explainer"]) & set(told[1]["explainer"])):
        one, other = (side.filter(explainer=explainer).sort("latent") for side in told)
        vectors = embed(one["explanation"].to_list()), embed(other["explanation"].to_list())
        found = {
            name: measured(matching, one["latent"], other["latent"], vectors) for name, matching in matchings.items()
        }
        pairs += [rows.with_columns(explainer=pl.lit(explainer), matching=pl.lit(name)) for name, rows in found.items()]
        found["random"] = at_random(one["latent"], other["latent"], vectors, seed)
        found = {name: weighted(rows, draws, matchings.get(name)) for name, rows in found.items()}
        overlaps += [summary(explainer, name, rows) for name, rows in found.items()]
        overlaps.append(above_random(explainer, found["optimal"], found["random"]))
    empty = pl.DataFrame(schema=OVERLAP_PAIRS)
    return (
        conform(pl.DataFrame(overlaps, schema=SEMANTIC_OVERLAP, orient="row"), SEMANTIC_OVERLAP),
        pl.concat([empty, *(conform(each, OVERLAP_PAIRS) for each in pairs)]),
    )


def cosines(vectors: Vectors, row: np.ndarray, column: np.ndarray) -> pl.Series:
    """Float64 of pairs: of all with all there would be too many."""
    one, other = vectors
    return pl.Series((one[row] * other[column]).sum(1, dtype=np.float64))


def measured(matching: pl.DataFrame, of_a: pl.Series, of_b: pl.Series, vectors: Vectors) -> pl.DataFrame:
    """The pairs of a matching of which both are explained, with the cosine of their explanations.

    Args:
        of_a, of_b: the latents that the vectors belong to.
    """
    rows = pl.DataFrame({"latent_a": of_a}).with_row_index("row")
    columns = pl.DataFrame({"latent_b": of_b}).with_row_index("column")
    both = (
        matching.select("latent_a", "latent_b").join(rows, on="latent_a").join(columns, on="latent_b").sort("latent_a")
    )
    value = cosines(vectors, both["row"].to_numpy(), both["column"].to_numpy())
    return both.select("latent_a", "latent_b").with_columns(cosine=value)


def at_random(of_a: pl.Series, of_b: pl.Series, vectors: Vectors, seed: int) -> pl.DataFrame:
    """All pairs of RANDOM_MATCHINGS one-to-one matchings of the latents, each drawn by keys."""
    parts = []
    for draw in range(RANDOM_MATCHINGS):
        row, column = (
            np.argsort(keyed(seed, MATCH_AT_RANDOM, draw, side, latents.to_numpy()), kind="stable")
            for side, latents in enumerate((of_a, of_b))
        )
        count = min(len(row), len(column))
        row, column = row[:count], column[:count]
        found = {"latent_a": of_a.gather(row), "latent_b": of_b.gather(column)}
        parts.append(pl.DataFrame(found).with_columns(cosine=cosines(vectors, row, column)))
    return pl.concat(parts)


def weighted(rows: pl.DataFrame, draws: Draws | None, matching: pl.DataFrame | None) -> pl.DataFrame:
    """Pairs with a column `weight`, of mean 1; null where too many pairs are of a kind of which none was drawn.

    Args:
        matching: all pairs that there are; every latent of one layer with every one of the other where None.
    """
    if draws is None:
        return rows.with_columns(weight=pl.lit(1.0))
    if matching is None:
        same = len(draws[0].join(draws[1], on="number"))
        all_pairs = {True: same, False: len(draws[0]) * len(draws[1]) - same}
    else:
        all_pairs = dict(with_one_number(matching, draws).drop_nulls().value_counts().iter_rows())
    kind = with_one_number(rows, draws)
    drawn = dict(kind.value_counts().iter_rows())
    known = sum(all_pairs.get(each, 0) for each in drawn)
    if not drawn or known < (1 - NEGLIGIBLE) * sum(all_pairs.values()):
        return rows.with_columns(weight=pl.lit(None, pl.Float64))
    weights = {each: all_pairs[each] / known * len(rows) / drawn[each] for each in drawn}
    return rows.with_columns(weight=kind.replace_strict(weights, return_dtype=pl.Float64))


def with_one_number(pairs: pl.DataFrame, draws: Draws) -> pl.Series:
    """Whether two latents have the same random number; null where one of them cannot be drawn."""
    numbers = []
    for side, of_layer in zip(("latent_a", "latent_b"), draws, strict=True):
        named = of_layer.select(pl.col("latent").alias(side), "number")
        numbers.append(pairs.select(side).join(named, on=side, how="left", maintain_order="left")["number"])
    return numbers[0] == numbers[1]


def by_latent(rows: pl.DataFrame) -> pl.DataFrame:
    """The mean cosine of each latent of the first layer, and the mean weight of its pairs."""
    mean = (pl.col("cosine") * pl.col("weight")).sum() / pl.col("weight").sum()
    return rows.group_by("latent_a").agg(mean.alias("cosine"), pl.mean("weight")).sort("latent_a")


def linearised(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Values whose plain mean is the weighted mean of those given, and whose spread is that of its error (Taylor
    linearisation of a ratio: Saerndal, Swensson and Wretman, Model Assisted Survey Sampling, 1992, section 5.5)."""
    if not len(values) or (weight == weight[0]).all():
        return values
    mean = np.average(values, weights=weight)
    return np.asarray(mean + (values - mean) * weight / weight.mean())


def summary(explainer: str, matching: str, rows: pl.DataFrame) -> tuple[object, ...]:
    latents = by_latent(rows)
    return (explainer, matching, "mean_cosine", len(latents), *weighted_mean(latents, COSINE))


def above_random(explainer: str, optimal: pl.DataFrame, random: pl.DataFrame) -> tuple[object, ...]:
    """By how much the matched explanation is nearer than one of a random matching, latent by latent."""
    both = by_latent(optimal).join(by_latent(random), on="latent_a", suffix="_random")
    above = both.select(
        cosine=pl.col("cosine") - pl.col("cosine_random"), weight=pl.when(pl.col("weight_random") > 0).then("weight")
    )
    return (explainer, "optimal", "above_random", len(above), *weighted_mean(above, of_differences(COSINE)))


def weighted_mean(latents: pl.DataFrame, limits: Limits) -> tuple[float | None, float | None, float | None]:
    if latents["weight"].has_nulls():
        return None, None, None
    return mean_with_interval(linearised(latents["cosine"].to_numpy(), latents["weight"].to_numpy()), limits)
