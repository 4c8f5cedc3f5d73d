"""All statistics of a layer's scores with their intervals, beside a loop over latents that asks scikit-learn for the values."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
from sklearn import metrics

from benchmarks.measuring import median_seconds, quick, seconds, show
from interp_assets.scores.population import Population
from interp_assets.scores.statistics import scores
from interp_assets.scores.trials import KEYS
from interp_assets.tables import TRIALS, conform

PER_KIND, CONTEXTS = 50, 4096
REFERENCE_LATENTS = 200
CONTROLS = ("none", "shuffled")


def main() -> None:
    latents = 2_000 if quick() else 65_536
    trials, population = made_up(latents)
    took = median_seconds(lambda: scores(trials, population), 3)
    explanations = latents * len(CONTROLS)
    some = trials.filter(pl.col("latent") < REFERENCE_LATENTS)
    rows: list[dict[str, object]] = []
    reference = seconds(lambda: rows.extend(one_by_one(population.place(some))))
    apart = largest_difference(pl.DataFrame(rows), scores(trials, population))
    assert apart < 1e-9, apart
    show("explanations", explanations)
    show("trials_of_each_explanation", 2 * PER_KIND)
    show("project_seconds_intervals_included", took)
    show("statistics_of_each_explanation", len(rows) // (REFERENCE_LATENTS * len(CONTROLS)))
    show("largest_difference_from_scikit_learn", apart)
    some_explanations = REFERENCE_LATENTS * len(CONTROLS)
    show("project_explanations_per_second_intervals_included", explanations / took)
    show("reference_explanations_per_second_values_only", some_explanations / reference)
    show("project_over_reference_speed_ratio", explanations / took / (some_explanations / reference))


def made_up(latents: int) -> tuple[pl.DataFrame, Population]:
    """Trials with two explanations of each latent, whose answers are right more or less often, with ties."""
    draw = np.random.default_rng(0)
    shape = (latents, len(CONTROLS), 2, PER_KIND)
    latent, control, expected, example = (axis.ravel() for axis in np.indices(shape))
    better = np.where(control == 0, draw.random(latents)[latent], 0.0)
    probability = np.clip(draw.normal(0.4 + 0.3 * better * expected, 0.2), 0, 1).round(2)
    trials = pl.DataFrame(
        {
            "latent": latent,
            "explainer": "llm",
            "control": np.array(CONTROLS)[control],
            "example": example,
            "expected": expected == 1,
            "probability": probability,
            "predicted": probability > 0.5,
            "status": "ok",
        }
    )
    examples = pl.DataFrame({"latent": latent, "example": example, "expected": expected == 1})
    decile = draw.integers(0, 10, len(latent)).astype(np.int8)
    examples = examples.with_columns(
        context=draw.integers(0, CONTEXTS, len(latent)), decile=pl.when("expected").then(pl.Series(decile))
    ).filter(control == 0)
    windows = draw.integers(100, 5_000, latents)
    numbers = {"latent": pl.UInt32, "example": pl.UInt32, "context": pl.UInt32}
    rates = pl.DataFrame({"latent": np.arange(latents), "windows": windows, "rate": windows / 32_768})
    population = Population(examples.cast(numbers), rates.cast({"latent": pl.UInt32, "windows": pl.UInt32}))
    return conform(trials, TRIALS), population


def one_by_one(placed: pl.DataFrame) -> list[dict[str, object]]:
    """The reference: each latent by itself, every value by the function that is made for it."""
    rows: list[dict[str, object]] = []
    for key, group in placed.group_by(KEYS):
        truth, guess, value = (group[name].to_numpy() for name in ("expected", "predicted", "probability"))
        decile, n, rate = group["decile"].cast(pl.Float64).to_numpy(), group["windows"][0], group["rate"][0]
        weight = np.ones(len(group))
        for d in np.unique(decile[truth]):
            share = (np.ceil(n * (d + 1) / 10) - np.ceil(n * d / 10)) / n
            weight[decile == d] = share / (decile == d).sum()
        weight[truth] /= weight[truth].mean()
        at_rate = np.where(truth, rate * weight / weight[truth].sum(), (1 - rate) / (~truth).sum())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {
                "auroc": metrics.roc_auc_score(truth, value),
                "auroc_weighted": metrics.roc_auc_score(truth, value, sample_weight=weight),
                "auprc": metrics.average_precision_score(truth, value),
                "auprc_weighted": metrics.average_precision_score(truth, value, sample_weight=weight),
                "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
                "balanced_accuracy_weighted": metrics.balanced_accuracy_score(truth, guess, sample_weight=weight),
                "f1": metrics.f1_score(truth, guess),
                "f1_weighted": metrics.f1_score(truth, guess, sample_weight=weight),
                "precision_at_rate": metrics.precision_score(truth, guess, sample_weight=at_rate, zero_division=0),
            }
        rows += [dict(zip(KEYS, key, strict=True)) | {"statistic": name, "plain": x} for name, x in found.items()]
    return rows


def largest_difference(plain: pl.DataFrame, table: pl.DataFrame) -> float:
    """Between the values of both; every value of the one must be in the other."""
    both = plain.cast({"latent": pl.UInt32}).join(table, on=[*KEYS, "statistic"], how="left")
    difference = (both["plain"] - both["value"]).abs()
    assert not difference.null_count()
    return float(difference.max())  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
