"""95 % intervals of means over latents and of differences of means, and what may be said of many of them at once.

Scores of latents are few, bounded, skewed and often discrete. An interval is the hull of two: Student's t, and t with
Hall's correction for skewness (Hall 1992, "On the removal of skewness by transformation", JRSS B 54, with the unbiased
sample skewness G). With W = (mean - mu) / s,

    g(W) = sqrt(n) (W + G W^2 / 3 + G^2 W^3 / 27 + G / (6 n))

follows Student's t far more nearly than sqrt(n) W does, and rises throughout, so that it can be inverted. Either alone
misses too often: t where scores are skewed, Hall's where they are discrete or have heavy tails. `benchmarks.small_samples`
shows what both, each alone and 1.96 standard errors do.

The mean of a bounded statistic lies within its bounds, so the interval is cut at them without losing coverage. Where all
values are equal there is no deviation to go by: as Clopper and Pearson's interval for 0 of n, the share of the
distribution that lies elsewhere is at most 1 - (alpha / 2)^(1 / n), and at worst it lies at the bound; without bounds
there is no interval.

Nothing is said of fewer than FEWEST values. What no sample shows, an outlier that is rarer than one in n, no such interval
can know of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

ALPHA = 0.05
FEWEST = 6
"""The least sample of which anything is said: fewer than 6 differences all have one sign by chance more often than one time
in twenty (2 of 2^n), so no test that knows only that chance treats both signs alike can tell them from chance."""
EQUAL = 1e-9
"A standard deviation below this, in units of the largest value or 1, is rounding."
UNBOUNDED = (-np.inf, np.inf)
Limits = tuple[float, float]
"Between which every value lies."
Bounds = tuple[np.ndarray, np.ndarray]
Ends = tuple[np.ndarray | float, np.ndarray | float]
"Limits of one statistic, or of each sample its own."


class Moments(NamedTuple):
    """What is known of samples; arrays float64 [samples]."""

    n: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    "with n - 1; nan where n < 2"
    skewness: np.ndarray
    "unbiased; 0 where all values are equal"

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """
        Args:
            values: float64 [samples, n].
        """
        from scipy import stats  # loading it takes longer than what else a plan imports

        count, samples = values.shape[1], len(values)
        nothing = np.full(samples, np.nan)
        deviation = values.std(1, ddof=1) if count > 1 else nothing
        # Of values that are all but equal, skewness is rounding.
        varied = ~equal(deviation, values.mean(1)) if count > 2 else np.zeros(samples, dtype=bool)
        skewness = np.zeros(samples)
        skewness[varied] = stats.skew(values[varied], axis=1, bias=False)
        return cls(np.full(samples, float(count)), values.mean(1) if count else nothing, deviation, skewness)

    @classmethod
    def join(cls, parts: Iterable[Moments]) -> Moments:
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @classmethod
    def read(cls, table: pl.DataFrame) -> Moments:
        """From a table with the columns of `moments_of`."""
        found = (table[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in cls._fields)
        n, mean, deviation, skewness = found
        return cls(n, mean, deviation, np.where(np.isfinite(skewness), skewness, 0.0))


def moments_of(value: pl.Expr) -> dict[str, pl.Expr]:
    """The columns of `Moments` of the values that are not null, to aggregate with."""
    return {
        "n": value.count(),
        "mean": value.mean(),
        "deviation": value.std(),
        "skewness": value.drop_nulls().skew(bias=False),
    }


def equal(deviation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Whether all values of a sample are the same but for rounding."""
    return deviation <= EQUAL * np.maximum(1, np.abs(mean))


def interval(of: Moments, limits: Ends, alpha: np.ndarray | float = ALPHA) -> Bounds:
    """The interval of each mean at the level 1 - alpha; nan where nothing is said of it.

    Args:
        limits: of values; infinite where there are none.
    """
    from scipy import stats

    alpha = np.asarray(alpha, dtype=np.float64)
    enough = of.n >= FEWEST
    n = np.where(enough, of.n, FEWEST)
    reach = stats.t.ppf(1 - alpha / 2, n - 1) / np.sqrt(n)
    elsewhere = 1 - (alpha / 2) ** (1 / n)
    ends = []
    for side, limit, further in ((1, limits[0], np.fmax), (-1, limits[1], np.fmin)):
        away = further(side * reach, unskewed(side * reach, of.skewness, n))
        at_most = of.mean + elsewhere * (limit - of.mean)
        end = np.where(equal(of.deviation, of.mean), at_most, of.mean - away * of.deviation)
        ends.append(np.where(enough & np.isfinite(end), np.clip(end, *limits), np.nan))
    return ends[0], ends[1]


def unskewed(reach: np.ndarray, skewness: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The W of which g(W) is sqrt(n) times `reach`: Hall's transformation inverted."""
    flat = np.abs(skewness) < 1e-6
    g = np.where(flat, 1.0, skewness)
    return np.where(flat, reach, 3 / g * (np.cbrt(1 + g * (reach - g / (6 * n))) - 1))


def difference_interval(one: Moments, other: Moments, limits: Ends, alpha: np.ndarray | float = ALPHA) -> Bounds:
    """Of the difference of the means of independent samples, from the intervals of both (MOVER; Zou and Donner 2008).

    Args:
        limits: of the values of both.
    """
    (low, high), (other_low, other_high) = interval(one, limits, alpha), interval(other, limits, alpha)
    difference = one.mean - other.mean
    return (
        difference - np.hypot(one.mean - low, other_high - other.mean),
        difference + np.hypot(high - one.mean, other.mean - other_low),
    )


def p_of_mean(of: Moments, limits: Ends, nonzero: np.ndarray) -> np.ndarray:
    """Two-sided, of each mean being 0: the least alpha whose interval leaves 0 out; nan where nothing is said of it.

    Never less than 2 / 2^nonzero, which is how often chance gives all differences that are not 0 one sign.

    Args:
        nonzero: how many values of each sample are not 0.
    """
    return np.maximum(least_alpha(lambda alpha: interval(of, limits, alpha)), np.minimum(2.0 ** (1 - nonzero), 1))


def p_of_difference(one: Moments, other: Moments, limits: Ends) -> np.ndarray:
    """Two-sided, of both means being one; never less than 2 of the ways to part both samples' values as they are parted."""
    from scipy.special import betaln

    ways = 1 / ((one.n + other.n + 1) * np.exp(betaln(one.n + 1, other.n + 1)))
    found = least_alpha(lambda alpha: difference_interval(one, other, limits, alpha))
    return np.maximum(found, np.minimum(2 / ways, 1))


def least_alpha(at: Callable[[np.ndarray | float], Bounds]) -> np.ndarray:
    """The least alpha whose interval leaves 0 out, to 1e-30; nan where there is no interval."""
    low, high = (np.full_like(at(ALPHA)[0], end) for end in (-70.0, 0.0))
    for _ in range(50):
        middle = (low + high) / 2
        ends = at(np.exp(middle))
        outside = (ends[0] > 0) | (ends[1] < 0)
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return np.where(np.isnan(at(ALPHA)[0]), np.nan, np.exp(high))


def holm(p: Sequence[float]) -> list[float]:
    """P values corrected for how many they are (Holm 1979); nan are not counted and stay.

    Corrected at ALPHA, the chance of a single false verdict among all is at most ALPHA, however they hang together.
    """
    values = np.asarray(p, dtype=np.float64)
    told = np.flatnonzero(~np.isnan(values))
    order = told[np.argsort(values[told], kind="stable")]
    found = np.full(len(values), np.nan)
    found[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return found.tolist()


def of_differences(limits: Limits) -> Limits:
    """The limits of differences of two values that have these."""
    return limits[0] - limits[1], limits[1] - limits[0]


def mean_with_interval(
    values: np.ndarray, limits: Limits = UNBOUNDED
) -> tuple[float | None, float | None, float | None]:
    """The mean of some values float64 [n] and its interval; None where there is none."""
    if not len(values):
        return None, None, None
    low, high = (float(end[0]) for end in interval(Moments.of(np.asarray(values, dtype=np.float64)[None]), limits))
    return float(np.mean(values)), None if np.isnan(low) else low, None if np.isnan(high) else high
