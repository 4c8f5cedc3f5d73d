"""How often small samples give a verdict where there is no effect, and how wide the intervals are: 1.96 standard errors, as the
report took them at any number of latents, Student's t, and what `interp_assets.means` does.

Differences without effect: normal ones; differences of two AUROC of 5 against 5 trials and of two balanced accuracies of 10
trials, which are discrete; some that are mostly 0; skewed ones, bounded within -1 and 1, of skewness .9 and 2.
A false verdict is an interval that leaves out 0. Behind each rate its Monte Carlo standard error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from benchmarks.measuring import quick, show
from interp_assets.means import ALPHA, FEWEST, Bounds, Moments, holm, interval, p_of_mean

SIZES = (2, 3, 6, 10, 30, 200)
BOUNDS = (-1.0, 1.0)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
EXPONENTIAL = 0.1
COMPARISONS = 40


def aurocs(draw: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Of a weak explanation, 5 trials against 5."""
    positive, negative = draw.normal(0.3, 1, (*size, 5, 1)), draw.normal(0, 1, (*size, 1, 5))
    return np.asarray((positive > negative).mean((-1, -2)))


NO_EFFECT: dict[str, Draw] = {
    "normal": lambda draw, size: draw.normal(0, 0.15, size),
    "auroc_5_by_5": lambda draw, size: aurocs(draw, size) - aurocs(draw, size),
    "balanced_accuracy_of_10": lambda draw, size: (draw.binomial(10, 0.5, size) - draw.binomial(10, 0.5, size)) / 10,
    "mostly_zero": lambda draw, size: draw.choice([-0.1, 0.0, 0.1], size=size, p=[0.15, 0.7, 0.15]),
    "skewness_0.9": lambda draw, size: draw.beta(2, 8, size) - 0.2,
    "skewness_2": lambda draw, size: np.minimum(draw.exponential(EXPONENTIAL, size), 1) - clipped_mean(EXPONENTIAL),
}


def clipped_mean(scale: float) -> float:
    """Of an exponential variable that is cut at 1."""
    return scale * (1 - float(np.exp(-1 / scale)))


def normal_errors(values: np.ndarray) -> Bounds:
    """The old rule: 1.96 standard errors of the mean, whatever their number."""
    return around(values, stats.norm.ppf(1 - ALPHA / 2))


def student(values: np.ndarray) -> Bounds:
    return around(values, stats.t.ppf(1 - ALPHA / 2, values.shape[1] - 1))


def around(values: np.ndarray, reach: float) -> Bounds:
    half = reach * values.std(1, ddof=1) / np.sqrt(values.shape[1])
    return values.mean(1) - half, values.mean(1) + half


def ours(values: np.ndarray) -> Bounds:
    return interval(Moments.of(values), BOUNDS)


METHODS: dict[str, Callable[[np.ndarray], Bounds]] = {"old_1.96": normal_errors, "student_t": student, "new": ours}


def misses(bounds: Bounds, truth: float = 0.0) -> float:
    """The share of intervals that leave out the truth; none is no verdict."""
    return float(((bounds[0] > truth + 1e-12) | (bounds[1] < truth - 1e-12)).mean())


def power(values: np.ndarray, effect: float) -> dict[str, float]:
    """The share of samples, shifted by an effect, whose interval lies above 0."""
    return {name: float((of(values + effect)[0] > 0).mean()) for name, of in METHODS.items()}


def main() -> None:
    samples = 1_500 if quick() else 20_000
    show("samples_of_each_kind_and_size", samples)
    show("monte_carlo_standard_error_at_0.05", float(np.sqrt(0.05 * 0.95 / samples)))
    show("fewest_latents_with_an_interval", FEWEST)
    for n in SIZES:
        draw = np.random.default_rng(n)
        worst = dict.fromkeys(METHODS, 0.0)
        for kind, of in NO_EFFECT.items():
            values = of(draw, (samples, n))
            for method, bounds in ((name, each(values)) for name, each in METHODS.items()):
                rate = misses(bounds)
                worst[method] = max(worst[method], rate)
                show(f"n_{n}_{kind}_{method}_false_verdict_share", rate)
                if not np.isnan(bounds[0]).all():
                    show(f"n_{n}_{kind}_{method}_mean_width", float(np.nanmean(bounds[1] - bounds[0])))
        for method, rate in worst.items():
            show(f"n_{n}_worst_{method}_false_verdict_share", rate)
    for n in (6, 10, 30, 200):
        # So large an effect that Student's t finds it in four of five normal samples.
        effect = 0.15 * 2.8 / np.sqrt(n) * (1.2 if n < 10 else 1.05)
        values = np.random.default_rng(n).normal(0, 0.15, (samples, n))
        for method, found in power(values, effect).items():
            show(f"n_{n}_effect_{effect:.3f}_{method}_power_share", found)
    show_families(samples // 5)


def show_families(reports: int) -> None:
    """Reports of COMPARISONS without any effect: how many have a verdict, uncorrected and corrected."""
    draw, sizes, kinds = np.random.default_rng(0), (6, 6, 6, 6, 50, 50, 250, 250), [*NO_EFFECT.values()]
    p, old = np.zeros((reports, COMPARISONS)), np.zeros(reports)
    for place in range(COMPARISONS):
        values = kinds[place % len(kinds)](draw, (reports, sizes[place % len(sizes)]))
        p[:, place] = p_of_mean(Moments.of(values), BOUNDS, np.count_nonzero(np.abs(values) > 1e-9, axis=1))
        low, high = normal_errors(values)
        old += (low > 0) | (high < 0)
    plain = (p <= ALPHA).sum(1)
    corrected = np.array([sum(each <= ALPHA for each in holm(row)) for row in p])
    show(f"reports_of_{COMPARISONS}_comparisons", reports)
    show("old_false_verdicts_per_report_mean", float(old.mean()))
    show("new_uncorrected_false_verdicts_per_report_mean", float(plain.mean()))
    show("old_reports_with_a_false_verdict_share", float((old > 0).mean()))
    show("new_reports_with_a_false_verdict_share", float((corrected > 0).mean()))


if __name__ == "__main__":
    main()
