"""Statistics of how trials are ranked, and what each trial adds to their error; vectorised over subjects.

auroc: probability that a positive's value lies above a negative's, ties counting half.
auprc: average precision, sum over thresholds of (recall_k - recall_{k-1}) precision_k, ties one threshold.

What each trial adds to the error is, for auroc, its structural component (DeLong, DeLong and Clarke-Pearson 1988), whose
sums by cluster are those of Obuchowski (1997); for auprc what average precision loses when it is left out (the jackknife,
Efron 1982), as its derivative says too little of the error where trials are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp_assets.scores.intervals import (
    Bounds,
    Clusters,
    auroc_interval,
    corrected,
    in_few_clusters,
    over,
    per,
    wilson,
)


@dataclass(frozen=True)
class Ranking:
    """Trials sorted by subject and value. Arrays [trials] unless said."""

    positive: np.ndarray
    "bool"
    weight: np.ndarray
    "float64 > 0"
    group: np.ndarray
    "int64, the subject"
    tied: np.ndarray
    "int64, the run of equal values within a subject that a trial belongs to; ascending"
    within: Clusters

    @classmethod
    def of(
        cls, positive: np.ndarray, value: np.ndarray, weight: np.ndarray, group: np.ndarray, within: Clusters
    ) -> Ranking:
        """
        Args:
            value: float64 [trials]; the higher, the more the trial is taken for a positive.
            within: the clusters of the trials, in the order given.
        """
        order = np.lexsort((value, group))
        value, group = value[order], group[order]
        new = (value[1:] != value[:-1]) | (group[1:] != group[:-1])
        tied = np.concatenate([[0], np.cumsum(new)]) if len(value) else np.zeros(0, dtype=np.int64)
        sorted_within = Clusters(within.of_trial[order], within.group, within.n)
        return cls(positive[order], weight[order], group, tied, sorted_within)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """By subject."""
        return per(self.group, values, self.within.n)

    def up_to(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each trial the sum of values of its subject's trials ranked below it, and of those that tie with it."""
        of_ties = np.bincount(self.tied, weights=values)
        # Sums run on over all subjects: in double precision late subjects would lose digits.
        before = np.cumsum(of_ties, dtype=np.longdouble) - of_ties
        starts = before[self.tied[np.searchsorted(self.group, np.arange(self.within.n))]]
        return (before[self.tied] - starts[self.group]).astype(float), of_ties[self.tied]

    def auroc(self) -> tuple[np.ndarray, Bounds]:
        """Its value float64 [subjects], and its interval."""
        w1, w0 = self.weight * self.positive, self.weight * ~self.positive
        total1, total0 = self.sums(w1), self.sums(w0)
        below0, equal0 = self.up_to(w0)
        below1, equal1 = self.up_to(w1)
        beaten = over(below0 + equal0 / 2, total0[self.group])
        beating = 1 - over(below1 + equal1 / 2, total1[self.group])
        value = over(self.sums(np.nan_to_num(w1 * beaten)), np.where(total0 > 0, total1, 0))
        centre = value[self.group]
        influence1 = np.nan_to_num(w1 * over(beaten - centre, total1[self.group]))
        influence0 = np.nan_to_num(w0 * over(beating - centre, total0[self.group]))
        n1, n0 = over(total1**2, self.sums(w1**2)), over(total0**2, self.sums(w0**2))
        return value, auroc_interval(value, n1, n0, self.design_effect(influence1, influence0))

    def design_effect(self, influence1: np.ndarray, influence0: np.ndarray) -> np.ndarray:
        """Obuchowski's variance over DeLong's, at least 1; float64 [subjects]."""
        alone, together = np.zeros(self.within.n), np.zeros(self.within.n)
        for influence, taken in ((influence1, self.positive), (influence0, ~self.positive)):
            alone += corrected(self.sums(influence**2), self.sums(taken.astype(float)))
            together += corrected(self.within.squares(influence), self.within.counts(taken))
        together += 2 * self.within.products(influence1, influence0)
        trials, clusters = self.sums(np.ones(len(self.group))), self.within.counts(np.ones(len(self.group)))
        found = over(together, alone)
        # Where trials of one kind share contexts, and those are few, what was estimated is itself not well known.
        by_kind = self.within.counts(self.positive) + self.within.counts(~self.positive)
        shrinks = in_few_clusters(trials - 1, by_kind - 1)
        found = np.where(shrinks < 1, np.minimum(found / shrinks, over(trials, by_kind)), found)
        return np.maximum(np.where(np.isnan(found), over(trials, clusters), found), 1)

    def auprc(self) -> tuple[np.ndarray, Bounds]:
        """Its value float64 [subjects], and its interval: Wilson's, for as many trials as its variance tells.

        The clustered variance is that of independent draws of positives and of negatives. The interval is never that
        of more trials than there are.
        """
        w1 = self.weight * self.positive
        total1 = self.sums(w1)
        has_both = (total1 > 0) & (self.sums(self.weight) > total1)
        value = over(self.sums(w1 * self.precision()), np.where(has_both, total1, 0))
        lost, together = self.lost_without(value), np.zeros(self.within.n)
        for kind in (self.positive, ~self.positive):
            # Positives and negatives are drawn each for themselves: only what differs within a kind is error.
            share = over(self.weight * kind, self.sums(self.weight * kind)[self.group], 0.0)
            centred = kind * lost - share * self.sums(kind * lost)[self.group]
            count = self.within.counts(kind)
            together += self.within.squares(centred) * np.where(count > 1, over(count - 1, count), np.nan)
        most = over(self.sums(self.weight) ** 2, self.within.squares(self.weight))
        return value, wilson(value, np.fmin(over(value * (1 - value), together), most))

    def lost_without(self, value: np.ndarray) -> np.ndarray:
        """What average precision loses when a trial is left out, float64 [trials].

        With a and b the weight of positives and of all that a threshold accepts, and without a trial of weight w in
        1 / (b - w) = 1 / b + w / (b (b - w)), the last w is taken as 1, the mean weight: exact where all weigh the same.

        Args:
            value: float64 [subjects], the average precision.
        """
        w1, precision, accepted = self.weight * self.positive, self.precision(), self.accepted(self.weight)
        all1, negatives = self.sums(w1)[self.group], accepted - self.accepted(w1)
        step = 1 / (accepted * (accepted - np.minimum(1, accepted / 2)))
        # Without a positive all thresholds that accept it lose precision, but for its own, which is gone.
        others = self.thresholds_below(negatives * step) - w1 * negatives * step
        centre = value[self.group]
        without_positive = over(all1 * centre - self.weight * (precision + others), all1 - self.weight)
        without_negative = centre + self.weight * over(self.thresholds_below((accepted - negatives) * step), all1)
        return np.nan_to_num(centre - np.where(self.positive, without_positive, without_negative))

    def accepted(self, values: np.ndarray) -> np.ndarray:
        """For each trial the sum of values of its subject's trials that tie with it or are ranked above."""
        return self.sums(values)[self.group] - self.up_to(values)[0]

    def precision(self) -> np.ndarray:
        """At each trial's value as threshold, float64 [trials]."""
        return self.accepted(self.weight * self.positive) / self.accepted(self.weight)

    def thresholds_below(self, term: np.ndarray) -> np.ndarray:
        """For each trial the sum over positives at or below its value, whose thresholds accept it.

        Args:
            term: of each trial, alike for those that tie.
        """
        below, own = self.up_to(self.weight * self.positive * term)
        return below + own
