"""How often the intervals of one explanation's scores hold the truth where its trials are few, or come from few contexts.

AUROC and balanced accuracy: trials of which those of one context share part of their luck (correlation .7 of their values).
`old` takes the variance estimated from few contexts for as well known as that of as many trials.
Simulation: windows foreseen more or less well, on every second of which the latent fires, a context each. `old` resamples whole
contexts 400 times and takes quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
from scipy import stats

from benchmarks.measuring import quick, show
from interp_assets.scores import intervals, ranking
from interp_assets.scores.population import Population
from interp_assets.scores.simulation import correlations, pearson
from interp_assets.scores.statistics import scores
from interp_assets.tables import TRIALS, conform

SHAPES = ((2, 1), (3, 1), (5, 1), (10, 1), (2, 5), (2, 10), (4, 5), (5, 2), (10, 2))
"Contexts of each kind, and trials of each context."
ALIKE, APART = 0.7, 1.0
"Correlation of two trials' values in one context; how far positives lie above negatives."
TOKENS, RESAMPLED = 32, 400


def main() -> None:
    subjects = 400 if quick() else 4_000
    show("explanations_of_each_shape", subjects)
    truth = {"auroc": stats.norm.cdf(APART / np.sqrt(2)), "balanced_accuracy": stats.norm.cdf(APART / 2)}
    for contexts, each in SHAPES:
        trials, population = made_up(subjects, contexts, each)
        for name, table in (("new", scores(trials, population)), ("old", as_if_contexts_were_many(trials, population))):
            for statistic, value in truth.items():
                mine = table.filter(statistic=statistic)
                place = f"{contexts}_contexts_of_{each}_{statistic}_{name}"
                show(f"{place}_holds_truth_share", mine.select(pl.lit(value).is_between("low", "high").mean()).item())
                show(f"{place}_mean_width", mine.select((pl.col("high") - pl.col("low")).mean()).item())
    simulated(150 if quick() else 1_500)


def made_up(subjects: int, contexts: int, each: int) -> tuple[pl.DataFrame, Population]:
    """`tables.TRIALS` of so many explanations, and where their examples come from."""
    draw = np.random.default_rng(0)
    kind, subject, trial = (axis.ravel() for axis in np.indices((2, subjects, contexts * each)))
    context = trial // each + kind * contexts
    luck = draw.normal(size=(subjects, 2 * contexts))[subject, context]
    value = np.sqrt(ALIKE) * luck + np.sqrt(1 - ALIKE) * draw.normal(size=len(subject)) + (kind == 0) * APART
    frame = pl.DataFrame(
        {
            "latent": subject, "explainer": "llm", "control": "none", "example": trial, "expected": kind == 0,
            "probability": value, "predicted": value > APART / 2, "status": "ok",
        }
    )  # fmt: skip
    examples = frame.select("latent", "example", "expected", context=pl.Series(context), decile=None).cast(
        {"latent": pl.UInt32, "example": pl.UInt32, "context": pl.UInt32, "decile": pl.Int8}
    )
    latents = pl.DataFrame({"latent": np.arange(subjects), "windows": 100, "rate": 0.1})
    return conform(frame, TRIALS), Population(examples, latents.cast({"latent": pl.UInt32, "windows": pl.UInt32}))


def as_if_contexts_were_many(trials: pl.DataFrame, population: Population) -> pl.DataFrame:
    with contexts_are_many():
        return scores(trials, population)


@contextmanager
def contexts_are_many() -> Iterator[None]:
    def nothing(trials: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.ones(len(trials))

    with (
        mock.patch.object(intervals, "in_few_clusters", nothing),
        mock.patch.object(ranking, "in_few_clusters", nothing),
    ):
        yield


def simulated(samples: int) -> None:
    draw = np.random.default_rng(1)
    predicted, true = windows(draw, 40_000)
    truth = float(np.corrcoef(predicted.ravel(), true.ravel())[0, 1])
    show("simulations_of_each_number", samples)
    for count in (6, 10, 20, 40):
        held, resampled = np.zeros((2, samples))
        for sample in range(samples):
            predicted, true = windows(draw, count)
            _, _, low, high = next(correlations(predicted.tolist(), true.tolist(), range(count)))
            held[sample] = low <= truth <= high
            low, high = quantiles(draw, predicted, true)
            resampled[sample] = low <= truth <= high
        show(f"simulation_{count}_contexts_new_holds_truth_share", float(held.mean()))
        show(f"simulation_{count}_contexts_old_holds_truth_share", float(resampled.mean()))


def windows(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true activations float64 [count, TOKENS]; every second window is silent."""
    fires = (draw.random((count, TOKENS)) < 0.1) & (np.arange(count) % 2 == 0)[:, None]
    fires[::2, 0] = True
    true = np.where(fires, draw.gamma(2, 1, fires.shape), 0.0)
    well = draw.random((count, 1))
    seen = fires & (draw.random(fires.shape) < 0.3 + 0.6 * well)
    false = ~fires & (draw.random(fires.shape) < 0.1 * (1 - well))
    predicted = np.where(
        seen, true + draw.normal(size=true.shape), np.where(false, draw.uniform(1, 7, true.shape), 0.0)
    )
    return np.clip(predicted.round(), 0, 10), true


def quantiles(draw: np.random.Generator, predicted: np.ndarray, true: np.ndarray) -> Any:
    a, b = predicted, true
    parts = np.stack([np.full(len(a), a.shape[1]), *(x.sum(1) for x in (a, b, a * a, b * b, a * b))], 1)
    counts = draw.multinomial(len(a), np.full(len(a), 1 / len(a)), size=RESAMPLED)
    return np.quantile(pearson(counts @ parts), [0.025, 0.975])


if __name__ == "__main__":
    main()
