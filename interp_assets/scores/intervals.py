"""95 % intervals of single scores, vectorised over subjects.

Trials from one context hang together, so an interval is made for as many independent trials as they are worth:
the design effect, variance clustered by context over variance of independent trials, is estimated from the trials
themselves (Kish 1965; Obuchowski 1997 for AUROC) and never taken below 1. Where trials all agree it cannot be
estimated; then contexts are counted in place of trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"The 97.5 % point of the normal distribution."
Bounds = tuple[np.ndarray, np.ndarray]
Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"Of the shares of right answers on positives and on negatives; rises with both."


def per(group: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sums of values by group, float64 [n]."""
    return np.bincount(group, weights=values, minlength=n)


def over(above: np.ndarray, below: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """above / below, float64; `otherwise` where below is not positive."""
    return np.divide(above, below, out=np.full(len(below), otherwise), where=below > 0)


@dataclass(frozen=True)
class Clusters:
    """Which context each trial comes from, and which subject each context belongs to."""

    of_trial: np.ndarray
    "int64 [trials], numbered over all subjects"
    group: np.ndarray
    "int64 [clusters], the subject of each"
    n: int
    "subjects"

    @classmethod
    def of(cls, group: np.ndarray, context: np.ndarray, n: int) -> Clusters:
        """
        Args:
            group: int64 [trials], the subject of each.
            context: int64 [trials]; negative where it is not known, then every number must differ.
            n: how many subjects there are.
        """
        lowest = int(context.min(initial=0))
        span = int(context.max(initial=0)) - lowest + 1
        found, of_trial = np.unique(group * span + (context - lowest), return_inverse=True)
        return cls(of_trial, found // span, n)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums of a number of each trial by cluster, float64 [clusters]."""
        return per(self.of_trial, values, len(self.group))

    def squares(self, values: np.ndarray) -> np.ndarray:
        """Sum over clusters of (sum of values)^2, float64 [subjects]."""
        return per(self.group, self.sums(values) ** 2, self.n)

    def products(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Sum over clusters of sum(one) sum(other), float64 [subjects]."""
        return per(self.group, self.sums(one) * self.sums(other), self.n)

    def counts(self, taken: np.ndarray) -> np.ndarray:
        """In how many clusters some trial is taken, float64 [subjects]."""
        return per(self.group, (self.sums(taken.astype(float)) > 0).astype(float), self.n)


def corrected(squares: np.ndarray, count: np.ndarray) -> np.ndarray:
    """n / (n - 1) times a sum of squares of n; nan where n < 2."""
    return squares * over(count, count - 1)


def in_few_clusters(trials: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """What a number of independent trials shrinks by, where it was estimated from few clusters: the square of Student's t
    for that many trials over t for that many clusters (Korn and Graubard 1998); 1 where each trial has its own.
    """
    from scipy.special import stdtrit

    found = np.ones(len(trials))
    fewer = (clusters < trials) & (clusters > 1)
    found[fewer] = (stdtrit(trials[fewer] - 1, 0.975) / stdtrit(clusters[fewer] - 1, 0.975)) ** 2
    return found


@dataclass(frozen=True)
class Share:
    """A weighted share of right answers of each subject; arrays float64 [subjects] unless said."""

    value: np.ndarray
    n: np.ndarray
    "as how many independent trials it is known"
    deviation: np.ndarray
    "float64 [trials]; what each trial adds to the share's error, 0 for trials of the other kind"

    @classmethod
    def of(cls, right: np.ndarray, taken: np.ndarray, weight: np.ndarray, group: np.ndarray, within: Clusters) -> Share:
        """
        Args:
            right: bool [trials].
            taken: bool [trials]; which trials the share is of.
            weight: float64 [trials].
        """
        w = weight * taken
        total = per(group, w, within.n)
        value = over(per(group, w * right, within.n), total)
        deviation = np.nan_to_num(w * over(right - value[group], total[group]))
        of_trials = over(total**2, per(group, w * w, within.n), 0.0)
        of_clusters = over(total**2, within.squares(w), 0.0)
        alone = corrected(per(group, deviation**2, within.n), per(group, taken.astype(float), within.n))
        together = corrected(within.squares(deviation), within.counts(taken))
        # From one context alone nothing is known of how contexts differ: it counts as one trial.
        n = np.minimum(over(of_trials * alone, together), of_trials)
        n *= in_few_clusters(per(group, taken.astype(float), within.n), within.counts(taken))
        return cls(value, np.where(np.isnan(n), of_clusters, np.maximum(n, of_clusters)), deviation)


def wilson(p: np.ndarray, n: np.ndarray) -> Bounds:
    """Of a share p of n trials (Wilson 1927); nan where n is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = (Z / (1 + Z**2 / n)) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return middle - half, middle + half


def square_and_add(figure: Figure, on_positives: Share, on_negatives: Share, within: Clusters) -> Bounds:
    """Of a figure made of two shares: their Wilson intervals' distances, squared and added (Newcombe 1998; for
    figures in general Zou and Donner 2008). Where contexts hold positives and negatives, the correlation of the two
    shares is added as well, as far as it is positive. nan where there are no positives.
    """
    both = within.products(on_positives.deviation, on_negatives.deviation)
    alone = within.squares(on_positives.deviation) * within.squares(on_negatives.deviation)
    correlation = np.clip(over(both, np.sqrt(alone), 0.0), 0, 1)
    p1, p0 = on_positives.value, on_negatives.value
    value = figure(p1, p0)
    bounds = []
    for side1, side0 in zip(wilson(p1, on_positives.n), wilson(p0, on_negatives.n), strict=True):
        by1, by0 = figure(side1, p0) - value, figure(p1, side0) - value
        bounds.append(np.sqrt(by1**2 + by0**2 + 2 * correlation * by1 * by0))
    known = np.where(on_positives.n > 0, 0.0, np.nan)
    return np.clip(value - bounds[0], 0, 1) + known, np.clip(value + bounds[1], 0, 1) + known


def auroc_interval(value: np.ndarray, n1: np.ndarray, n0: np.ndarray, design_effect: np.ndarray) -> Bounds:
    """The areas a whose distance from the one found is at most Z standard errors *of a* (Newcombe 2006, method 5):

        V(a) = a (1 - a) (1 + (N - 1) ((1 - a) / (2 - a) + a / (1 + a))) / (n1 n0),   N = (n1 + n0) / 2

    of Hanley and McNeil (1982), times the design effect. It stays within 0 and 1, and has a width where all positives
    lie above all negatives.

    Args:
        n1, n0: positives and negatives, float64; nan where there are fewer than two of either.
    """

    def too_far(a: np.ndarray) -> np.ndarray:
        spread = 1 + ((n1 + n0) / 2 - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (value - a) ** 2 > Z**2 * design_effect * a * (1 - a) * spread / (n1 * n0)

    known = (n1 >= 2) & (n0 >= 2) & ~np.isnan(value)
    bounds = []
    for end in (0.0, 1.0):
        outside, inside = np.full(len(value), end), value.copy()
        for _ in range(40):
            middle = (outside + inside) / 2
            far = too_far(middle)
            outside, inside = np.where(far, middle, outside), np.where(far, inside, middle)
        bounds.append(np.where(known, inside, np.nan))
    return bounds[0], bounds[1]
