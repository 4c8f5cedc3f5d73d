"""Statistics of how trials are ranked, and what each trial adds to their error; vectorised over subjects.

auroc: probability that a positive's value lies above a negative's, ties counting half.
auprc: average precision, sum over thresholds of (recall_k - recall_{k-1}) precision_k, ties one threshold.

Both are smooth functions of the trials' weights. A trial's influence is its weight times the derivative by it: for
auroc these are the structural components of DeLong, DeLong and Clarke-Pearson (1988), whose sums by cluster are those
of Obuchowski (1997); for auprc the same is done to average precision (the infinitesimal jackknife, Efron 1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp_assets.scores.intervals import Bounds, Clusters, auroc_interval, corrected, over, per, wilson


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
        return np.maximum(np.where(np.isnan(found), over(trials, clusters), found), 1)

    def auprc(self) -> tuple[np.ndarray, Bounds]:
        """Its value float64 [subjects], and its interval: Wilson's, for as many trials as its variance tells.

        The clustered variance is that of independent draws of positives and of negatives. The interval is never that
        of more trials than there are positives (the choice of Boyd, Eng and Page 2013).
        """
        w1 = self.weight * self.positive
        total, total1 = self.sums(self.weight), self.sums(w1)
        below, _ = self.up_to(self.weight)
        below1, equal1 = self.up_to(w1)
        # Who says yes to a trial says yes to all above it and to those that tie with it.
        accepted = total[self.group] - below
        precision = (total1[self.group] - below1) / accepted
        value = over(self.sums(w1 * precision), np.where(total > total1, total1, 0))
        lost, gained = self.thresholds_below(equal1, precision / accepted), self.thresholds_below(equal1, 1 / accepted)
        through_precision = np.where(self.positive, gained - lost, -lost)
        derivative = self.positive * (precision - value[self.group]) + through_precision
        influence = np.nan_to_num(self.weight * over(derivative, total1[self.group]))
        together = np.zeros(self.within.n)
        for taken in (self.positive, ~self.positive):
            # Positives and negatives are drawn each for themselves: only what differs within a kind is error.
            share = over(self.weight * taken, self.sums(self.weight * taken)[self.group], 0.0)
            centred = taken * influence - share * self.sums(taken * influence)[self.group]
            together += corrected(self.within.squares(centred), self.within.counts(taken))
        most = over(total1**2, self.within.squares(w1))
        n = np.fmin(over(value * (1 - value), together), most)
        return value, wilson(value, n)

    def thresholds_below(self, weight: np.ndarray, term: np.ndarray) -> np.ndarray:
        """For each trial the sum over thresholds at which it is accepted: its own value and all lower ones.

        Args:
            weight, term: alike for trials that tie; what is summed is weight x term, once for each threshold.
        """
        first = np.append(True, self.tied[1:] != self.tied[:-1])
        below, own = self.up_to(first * weight * term)
        return below + own
