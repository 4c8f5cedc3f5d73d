"""Latents that persist from layer to layer: where each comes from, how long it stays, where it splits or ends."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from interp_assets.tables import CHAINS, conform

NEARLY = 0.8
"A latent splits where others of the next layer are nearest to it and at least so much of its match's similarity."
STEP = ["chain", "step", "layer", "latent", "similarity", "splits", "end"]
LAST_LAYER, LOST, LEFT_OVER = "last layer", "its match is not its mutual nearest", "it has no match"


@dataclass(frozen=True)
class Pair:
    """What was found of two layers."""

    a: str
    b: str
    matching: pl.DataFrame
    "`tables.LAYER_MATCHING`"
    left_over: pl.DataFrame
    "`tables.LEFT_OVER`"
    next_best: pl.DataFrame
    "`tables.NEXT_BEST`"


def families(pairs: list[Pair]) -> list[list[Pair]]:
    """Pairs that follow one another: the second layer of one is the first of the next. Each pair stands in one row; in
    which order they are given makes no difference to what follows what."""
    follows = {pair.b for pair in pairs}
    left, rows = [*pairs], []
    while left:
        row = [next((pair for pair in left if pair.a not in follows), left[0])]
        left.remove(row[0])
        while nexts := [pair for pair in left if pair.a == row[-1].b]:
            row.append(nexts[0])
            left.remove(nexts[0])
        follows = {pair.b for pair in left}
        rows.append(row)
    return rows


def chains(pairs: list[Pair]) -> pl.DataFrame:
    """The table `tables.CHAINS`. A latent goes on as its match where the two are each other's nearest.

    Latents that were left out of the matching (dead ones) are in no chain.
    """
    parts: list[pl.DataFrame] = []
    count = 0
    for number, row in enumerate(families(pairs)):
        steps, open_ = [], starting(alive(row[0], "a"), count)
        for pair in row:
            count = max(count, int(open_["chain"].max() or 0) + 1)  # type: ignore[arg-type]
            links = pair.matching.rename({"latent_a": "latent", "latent_b": "next", "similarity": "onward"})
            found = open_.join(links, on="latent", how="left", maintain_order="left").join(
                splits(pair), on="latent", how="left", maintain_order="left"
            )
            goes_on = pl.col("mutual_nearest").fill_null(value=False)
            end = (
                pl.when(goes_on)
                .then(None)
                .when(pl.col("next").is_null())
                .then(pl.lit(LEFT_OVER))
                .otherwise(pl.lit(LOST))
            )
            steps.append(found.with_columns(end=end, layer=pl.lit(pair.a)).select(STEP))
            on = found.filter(goes_on).select("chain", step=pl.col("step") + 1, latent="next", similarity="onward")
            new = starting(alive(pair, "b").filter(~alive(pair, "b").is_in(on["latent"].implode())), count)
            open_ = pl.concat([on, new])
        count = max(count, int(open_["chain"].max() or 0) + 1)  # type: ignore[arg-type]
        last = open_.with_columns(splits=pl.lit(None, pl.UInt32), end=pl.lit(LAST_LAYER), layer=pl.lit(row[-1].b))
        parts.append(pl.concat([*steps, last.select(STEP)]).with_columns(row=pl.lit(number)))
    if not parts:
        return pl.DataFrame(schema=CHAINS)
    table = pl.concat(parts).with_columns(length=pl.len().over("chain"))
    return conform(table, CHAINS).sort("chain", "step")


def starting(latents: pl.Series, first: int) -> pl.DataFrame:
    """Chains that begin with some latents, numbered from `first`."""
    return pl.DataFrame(
        {
            "chain": pl.int_range(first, first + len(latents), dtype=pl.UInt32, eager=True),
            "step": pl.repeat(1, len(latents), dtype=pl.UInt32, eager=True),
            "latent": latents.cast(pl.UInt32),
            "similarity": pl.repeat(None, len(latents), dtype=pl.Float64, eager=True),
        }
    )


def alive(pair: Pair, side: str) -> pl.Series:
    """The latents of a side that could be matched: those that have next bests."""
    return pair.next_best.filter(side=side)["latent"].unique().sort()


def splits(pair: Pair) -> pl.DataFrame:
    """Of each matched latent of the first layer, how many others of the second are nearest to it and nearly as similar."""
    nearest = pair.next_best.filter(side="b", place=1).select(latent="other", child="latent", close="similarity")
    match = pair.matching.select(latent="latent_a", match="latent_b", own="similarity")
    other = (pl.col("child") != pl.col("match")) & (pl.col("close") >= NEARLY * pl.col("own"))
    return (
        match.join(nearest, on="latent", how="left")
        .group_by("latent")
        .agg(splits=other.fill_null(value=False).sum().cast(pl.UInt32))
    )
