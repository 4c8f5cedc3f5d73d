"""How far the methods agree: correlations of their scores, and the latents on which they differ most."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
from scipy import stats

from interp_assets.means import FEWEST
from interp_assets.report.headline import SUBJECT, explained
from interp_assets.scores.intervals import Z
from interp_assets.tables import CORRELATIONS

Interval = tuple[float, float, float]


def correlations(scores: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.CORRELATIONS`, over what both of two methods scored.

    Args:
        scores: `tables.SCORES` of all layers and methods with columns `layer` and `method`.
    """
    found = explained(scores)
    rows = []
    for one, other in combinations(sorted(found["score"].unique()), 2):
        pairs = scored_by_both(found, one, other)
        latents = pairs.select("layer", "latent").n_unique()
        x, y = pairs["value"].to_numpy(), pairs["value_other"].to_numpy()
        if latents < FEWEST or not np.ptp(x) or not np.ptp(y):
            continue
        pearson = with_interval(float(stats.pearsonr(x, y)[0]), latents, 1.0)
        rank = float(stats.spearmanr(x, y)[0])
        rows.append((one, other, latents, *pearson, *with_interval(rank, latents, 1 + rank**2 / 2)))
    return pl.DataFrame(rows, schema=CORRELATIONS, orient="row")


def scored_by_both(found: pl.DataFrame, one: str, other: str) -> pl.DataFrame:
    """Rows with `value` and `value_other`: of the same explanation, or of the same latent where the two methods have
    no explainer in common (a method may need no explanation, or have one of its own).
    """
    mine, theirs = found.filter(score=one), found.filter(score=other)
    shared = set(mine["explainer"]) & set(theirs["explainer"])
    on = SUBJECT if shared else ["layer", "latent"]
    return mine.select(*SUBJECT, "value").join(theirs.select(*on, "value"), on=on, suffix="_other")


def with_interval(r: float, latents: int, variance: float) -> Interval:
    """r and its 95 % interval by Fisher's z with standard error sqrt(variance / (latents - 3)).

    Variance is 1 for Pearson (Fisher 1921) and 1 + r^2 / 2 for Spearman (Bonett and Wright 2000). Several explanations
    of one latent count as one. An r nearer to 1 or -1 than half a step of Spearman's, 6 / (n^3 - n), is no surer than that:
    a few latents in one order by chance would have an interval without width.
    """
    half = Z * np.sqrt(variance / (latents - 3))
    most = 1 - 6 / (latents**3 - latents)
    z = np.arctanh(np.clip(r, -most, most))
    return r, float(min(np.tanh(z - half), r)), float(max(np.tanh(z + half), r))


def disagreements(scores: pl.DataFrame) -> pl.DataFrame:
    """Explanations by how far apart the methods rank them, the furthest first.

    Ranks are shares 0 to 1 among the explanations that all of those methods scored which scored more than one.

    Returns:
        SUBJECT, `apart`, `highest` and `lowest` (scores' names), `scores`: list of (score, value, rank).
    """
    found = explained(scores)
    several = found.group_by(SUBJECT).agg(pl.col("score").n_unique()).filter(pl.col("score") > 1)
    found = found.join(several.select(SUBJECT), on=SUBJECT)
    ranked = found.with_columns(
        rank=(pl.col("value").rank("average").over("score") - 1) / (pl.len().over("score") - 1).clip(1)
    )
    return (
        ranked.sort("score")
        .group_by(SUBJECT, maintain_order=True)
        .agg(
            apart=pl.col("rank").max() - pl.col("rank").min(),
            highest=pl.col("score").sort_by("rank").last(),
            lowest=pl.col("score").sort_by("rank").first(),
            scores=pl.struct("score", "value", "rank"),
        )
        .sort("apart", *SUBJECT, descending=[True, False, False, False])
    )
