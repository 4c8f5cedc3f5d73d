"""What explaining and testing took: calls of language models, tokens and money, from the tables' own columns."""

from __future__ import annotations

import polars as pl

from interp_assets.graph import engine_asked
from interp_assets.settings import EFFECT_EXPLAINER, Price
from interp_assets.study import Study
from interp_assets.tables import COSTS, OUTCOMES, conform

TOKENS = ["prompt_tokens", "cached_tokens", "completion_tokens"]
EXPLAINING_EFFECTS = "intervention: its explanations"
"The step in which effects are explained, beside `intervention`, in which those explanations are scored."
PER = 100_000


def costs(study: Study, explanations: pl.DataFrame, trials: pl.DataFrame, effects: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.COSTS`, at the prices that stand in the study now.

    Args:
        explanations: `tables.EXPLANATIONS` of all layers, with column layer.
        trials: `tables.TRIALS` of all layers and methods, with columns layer and method.
        effects: `tables.EFFECTS` of all layers, with column layer.
    """
    columns = ["step", "explainer", "layer", "latent", "prompt_hash", *TOKENS]
    rows = pl.concat(
        [
            explanations.with_columns(step=pl.lit("explanations")).select(columns),
            effects.with_columns(step=pl.lit(EXPLAINING_EFFECTS), explainer=pl.lit(EFFECT_EXPLAINER)).select(columns),
            trials.with_columns(step="method").select(columns),
        ]
    )
    # A list of answers is one call, whose tokens stand on its first trial; rows that asked the same share one call, whose
    # tokens stand on each of them.
    shared = pl.int_range(pl.len()).over("step", "explainer", "prompt_hash", *TOKENS) > 0
    rows = rows.with_columns(
        pl.when(shared & pl.col("prompt_hash").is_not_null()).then(0).otherwise(pl.col(name)).alias(name)
        for name in TOKENS
    )
    calls = pl.col("prompt_hash").str.split(" ").explode().drop_nulls().n_unique()
    table = (
        rows.group_by("step", "explainer", maintain_order=True)
        .agg(pl.struct("layer", "latent").n_unique().alias("latents"), calls.alias("calls"), *map(pl.sum, TOKENS))
        .filter(pl.col("calls") > 0)
    )
    money = [money_of(study, row) for row in table.iter_rows(named=True)]
    return conform(table.with_columns(money=pl.Series(money, dtype=pl.Float64)), COSTS)


def money_of(study: Study, row: dict[str, object]) -> float | None:
    price = price_of(study, str(row["step"]), str(row["explainer"]))
    return None if price is None else price.of(*(int(str(row[name])) for name in TOKENS))


def price_of(study: Study, step: str, explainer: str) -> Price | None:
    """Of the engine that is asked in a step; None where it has none."""
    intervention = study.scorers.intervention
    if step == EXPLAINING_EFFECTS and intervention is not None:
        engine: str | None = intervention.explainer
    else:
        role = study.explainers.get(explainer) if step == "explanations" else study.scorers.chosen().get(step)
        engine = engine_asked(role)
    return study.engines[engine].price if engine in study.engines else None


def per_latent(costs: pl.DataFrame) -> list[dict[str, object]]:
    """The rows with what one latent took, and what PER latents take at this rate."""
    amounts = ["calls", *TOKENS, "money"]
    return costs.with_columns(
        *((pl.col(name) / pl.col("latents")).alias(f"{name}_of_one") for name in amounts),
        *((pl.col(name) / pl.col("latents") * PER).alias(f"{name}_of_many") for name in amounts),
    ).to_dicts()


def outcomes(trials: pl.DataFrame) -> pl.DataFrame:
    """The table `tables.OUTCOMES`: how many trials were answered, failed, not asked, left out.

    Args:
        trials: `tables.TRIALS` with columns layer and method.
    """
    statuses = ("ok", "failed", "not_asked", "left_out")
    counted = trials.group_by("method", "explainer", "control", maintain_order=True).agg(
        trials=pl.len(), **{status: (pl.col("status") == status).sum() for status in statuses}
    )
    return conform(counted, OUTCOMES)
