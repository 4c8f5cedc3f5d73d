"""How well labels can be told from features that know nothing of the latent: logistic regression, trained on some latents and
tested on others.

Whatever it finds in trials that a scorer asks gives right answers away to a judge that never reads the explanation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from interp_assets.scores.intervals import Clusters
from interp_assets.scores.ranking import Ranking

FOLDS = 5
PENALTY = 1.0
"On the squared weights of standardised features, beside the summed log loss."


class ToldApart(NamedTuple):
    auroc: float
    low: float
    high: float


def told_apart(features: np.ndarray, labels: np.ndarray, group: np.ndarray, seed: int = 0) -> ToldApart:
    """AUROC of a latent-blind classifier on groups that it was not trained on, with a 95 % interval clustered by group.

    Args:
        features: float [n, d].
        labels: bool [n].
        group: int [n], the latent of each; whole groups are trained or tested on.
    """
    value = out_of_fold(features, labels, group, seed)
    one = np.zeros(len(labels), dtype=np.int64)
    within = Clusters.of(one, group.astype(np.int64), 1)
    auroc, (low, high) = Ranking.of(labels.astype(bool), value, np.ones(len(labels)), one, within).auroc()
    return ToldApart(float(auroc[0]), float(low[0]), float(high[0]))


def out_of_fold(features: np.ndarray, labels: np.ndarray, group: np.ndarray, seed: int = 0) -> np.ndarray:
    """The log odds of each row by a regression on the other folds, float64 [n].

    Folds hold whole groups, and their log odds are centred: a fold's intercept is no property of its rows.
    """
    names = np.unique(group)
    fold_of = dict(zip(names.tolist(), np.random.default_rng(seed).permutation(len(names)) % FOLDS, strict=True))
    fold = np.array([fold_of[name] for name in group.tolist()])
    found = np.zeros(len(labels))
    for number in range(min(FOLDS, len(names))):
        held = fold == number
        mean, spread = features[~held].mean(0), features[~held].std(0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1)
        odds = np.clip(scaled[held], -5, 5) @ weights(np.clip(scaled[~held], -5, 5), labels[~held])
        found[held] = odds - odds.mean()
    return found


def weights(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of a logistic regression with intercept, which is left out: float64 [d]."""
    sign = np.where(labels, 1.0, -1.0)
    x = np.column_stack([features, np.ones(len(labels))])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        slope = -sign / (1 + np.exp(np.clip(margin, -500, 500)))
        penalised = np.append(w[:-1], 0)
        return float(
            np.logaddexp(0, -margin).sum() + PENALTY / 2 * penalised @ penalised
        ), x.T @ slope + PENALTY * penalised

    return np.asarray(minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x[:-1])
