"""What gives negatives away to one who knows no latent: how they look, where they stand, and how often one serves.

A negative is to test whether an explanation is right. Where negatives look unlike activating windows whatever the latent,
a judge is right without any explanation, and where a few windows serve many latents, trials are fewer than they seem. Plain
functions of tables, for `benchmarks.negatives` and for tests of single kinds.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

FOLDS = 5
SURFACE = ("characters", "digits", "punctuation", "words")


class Estimate(NamedTuple):
    """A mean over latents with its 95 % interval, in which latents are what varies (Student's t)."""

    value: float
    low: float
    high: float
    latents: int


class Use(NamedTuple):
    """How often windows serve as negatives of one kind."""

    rows: int
    windows: int
    "Distinct ones, by context and start."
    most: int
    "Latents that one window serves at most."


def surface(texts: Sequence[str]) -> np.ndarray:
    """What a text looks like, int64 [texts, 4]: how many characters, digits, signs of punctuation and words it has."""
    signs = set(string.punctuation)
    counts = [
        (len(text), sum(map(str.isdigit, text)), sum(sign in signs for sign in text), len(text.split()))
        for text in texts
    ]
    return np.array(counts, dtype=np.int64).reshape(-1, len(SURFACE))


def use_of_windows(negatives: pl.DataFrame) -> Use:
    """
    Args:
        negatives: rows of the table `examples`, of one kind.
    """
    served = negatives.group_by("context", "start").agg(pl.col("latent").n_unique())["latent"]
    return Use(len(negatives), len(served), max(served, default=0))


def told_apart(features: np.ndarray, activating: np.ndarray, latent: np.ndarray) -> Estimate:
    """How well a classifier that knows no latent tells activating windows from negatives: AUROC, .5 where it cannot.

    Boosted trees are fitted to the windows of four fifths of the latents and tested on those of the others, fifth by fifth;
    which latent is in which fifth, its rank decides.

    Args:
        features: float [windows, features].
        activating: bool [windows].
        latent: int [windows].
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    rank = np.unique(latent, return_inverse=True)[1]
    fold = rank % min(FOLDS, rank.max(initial=0) + 1)
    scores = np.zeros(len(features))
    for held_out in np.unique(fold):
        test, train = fold == held_out, fold != held_out
        if len(np.unique(activating[train])) == 2:
            trees = HistGradientBoostingClassifier(max_iter=60, max_depth=3, learning_rate=0.1, random_state=0)
            trees.fit(features[train], activating[train])
            scores[test] = trees.predict_proba(features[test])[:, 1]
    return mean_auroc(scores, activating, latent)


def mean_auroc(scores: np.ndarray, activating: np.ndarray, latent: np.ndarray) -> Estimate:
    """The mean over latents of the AUROC of one's activating windows against its negatives, ties counting half.

    Latents without both are left out.
    """
    of_latents = []
    order = np.argsort(latent, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(latent[order])) + 1):
        positive, negative = scores[rows[activating[rows]]], scores[rows[~activating[rows]]]
        if len(positive) and len(negative):
            above = np.sign(positive[:, None] - negative[None, :])
            of_latents.append(0.5 + above.mean() / 2)
    return mean_of(np.array(of_latents))


def mean_of(values: np.ndarray) -> Estimate:
    n = len(values)
    if n < 2:
        return Estimate(float(values.mean()) if n else np.nan, np.nan, np.nan, n)
    mean, error = values.mean(), stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Estimate(float(mean), float(mean - error), float(mean + error), n)
