"""The statistic by which each method is shown, and what is to be known to draw it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from interp_assets.layers import control_in
from interp_assets.means import UNBOUNDED, Bounds, Limits
from interp_assets.settings.scorers import ZERO_ABLATION

HEADLINE = {
    "token_embedding": "auroc",
    "token_fuzzing": "auroc",
    "embedding": "auroc",
    "detection": "auroc",
    "fuzzing": "auroc",
    "surprisal": "auroc",
    "simulation": "pearson",
    "generation": "generation_rate",
    "intruder": "accuracy",
    "example_embedding": "auroc",
    "reranker": "auroc",
    "intervention": "nats",
}
"By method."


class Statistic(NamedTuple):
    title: str
    chance: float | None
    "What an explanation that says nothing scores."
    limits: tuple[float, float] | None
    "Between which all scores lie; None where there are no limits."


STATISTICS = {
    "auroc": Statistic("AUROC", 0.5, (0, 1)),
    "pearson": Statistic("Pearson correlation", 0.0, (-1, 1)),
    "generation_rate": Statistic("share of texts that activate it", None, (0, 1)),
    "accuracy": Statistic("accuracy", None, (0, 1)),
    "nats": Statistic("nats, all conditions", 0.0, None),
}
LIMITS_OF_OTHERS = {
    "auprc": (0, 1),
    "f1": (0, 1),
    "precision_at_rate": (0, 1),
    "chance": (0, 1),
    "strength": (0, float("inf")),
    "ev": (float("-inf"), 1),
}
"Of statistics that are no method's headline."
SUBJECT = ["layer", "latent", "explainer"]
OF_A_CONTROL = pl.col("layer").map_elements(lambda key: control_in(key) is not None, pl.Boolean)
"Rows of layers whose latents are not those of a trained SAE."


def limits_of(statistic: str) -> Limits:
    """Between which all values of a statistic lie."""
    name = statistic.removesuffix("_weighted")
    known = STATISTICS[name].limits if name in STATISTICS else LIMITS_OF_OTHERS.get(name)
    return known or UNBOUNDED


def limits_by_row(statistics: pl.Series) -> Bounds:
    """The limits of each row's statistic, float64."""
    limits = np.array([limits_of(each) for each in statistics], dtype=np.float64).reshape(-1, 2)
    return limits[:, 0], limits[:, 1]


def headlines(scores: pl.DataFrame) -> pl.DataFrame:
    """The rows of each method's headline statistic that have a value, with `score`: the method and its condition.

    Args:
        scores: `tables.SCORES` with columns layer and method.
    """
    of_method = pl.col("method").replace_strict(HEADLINE, default="auroc", return_dtype=pl.String)
    named = pl.col("condition").is_not_null() & (pl.col("condition") != "sequential")
    shown = scores.filter((pl.col("statistic") == of_method) & pl.col("value").is_not_null())
    condition = (
        pl.when(pl.col("condition") == ZERO_ABLATION)
        .then(pl.lit("taken away"))
        .otherwise(pl.format("KL {}", "condition"))
    )
    score = pl.when(named).then(pl.format("{}, {}", "method", condition)).otherwise("method")
    return shown.with_columns(score=score)


def explained(scores: pl.DataFrame) -> pl.DataFrame:
    """Of `headlines`, the rows of the explanations themselves on SAEs that were trained: no control of any kind."""
    return headlines(scores).filter((pl.col("control") == "none") & ~OF_A_CONTROL)
