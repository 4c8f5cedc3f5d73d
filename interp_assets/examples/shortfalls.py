"""How many windows of each kind latents go without, and why: derived from the examples table, so nothing escapes it."""

from __future__ import annotations

import polars as pl

from interp_assets.settings import Examples
from interp_assets.tables import SHORTFALLS, conform

REASONS = {
    "activating": "fires on no more windows that differ in text",
    "random": "is silent on too few windows at the starts of its test windows",
    "neighbour": "is silent on too few windows on which its neighbours fire, at the starts of its test windows",
    "similar_text": "is silent on too few windows of the index, at the starts of its test windows",
}


def shortfalls(table: pl.DataFrame, settings: Examples) -> pl.DataFrame:
    """The table `tables.SHORTFALLS`: a row for each latent that is interpreted and kind of which it has fewer than asked.

    Args:
        table: the examples table.
    """
    test = settings.test
    wanted = [("explain", "activating", settings.explain.n), ("test", "activating", test.activating)]
    wanted += [("test", kind, len(test.numbers(kind))) for kind in test.kinds]
    kinds = pl.DataFrame(wanted, schema={"purpose": pl.String, "kind": pl.String, "wanted": pl.Int64}, orient="row")
    drawn = table.filter(pl.col("status") == "ok").group_by("latent", "purpose", "kind").agg(drawn=pl.len())
    every = drawn.select("latent").unique().join(kinds, how="cross")
    counted = every.join(drawn, on=["latent", "purpose", "kind"], how="left").with_columns(pl.col("drawn").fill_null(0))
    order = pl.struct("purpose", "kind").replace_strict(
        [{"purpose": purpose, "kind": kind} for purpose, kind, _ in wanted], range(len(wanted)), return_dtype=pl.UInt8
    )
    short = counted.filter(pl.col("drawn") < pl.col("wanted")).sort("latent", order)
    return conform(short.with_columns(reason=pl.col("kind").replace_strict(REASONS)), SHORTFALLS)
