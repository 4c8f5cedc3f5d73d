"""Statistics of scores against scikit-learn, and intervals against simulated trials whose truth is known."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn import metrics

from benchmarks.score_statistics import largest_difference, made_up, one_by_one
from interp_assets.scores.intervals import Clusters
from interp_assets.scores.population import NOWHERE, Population
from interp_assets.scores.ranking import Ranking
from interp_assets.scores.statistics import scores
from interp_assets.tables import TRIALS, conform

RATE = 0.1


def test_every_statistic_equals_scikit_learn() -> None:
    """Ties, deciles of unequal size, several controls; failed and left-out rows in between."""
    trials, population = made_up(12)
    draw = np.random.default_rng(1).random(len(trials))
    status = pl.Series(np.where(draw < 0.1, "failed", np.where(draw < 0.2, "left_out", "ok")))
    answered = pl.col("status") == "ok"
    trials = trials.with_columns(status=status).with_columns(
        pl.when(answered).then(pl.col(name)).alias(name) for name in ("probability", "predicted")
    )
    table = scores(trials, population)
    plain = pl.DataFrame(one_by_one(population.place(trials.filter(answered))))
    assert largest_difference(plain, table) < 1e-12
    assert set(table["statistic"]) == set(plain["statistic"]) | {"share_yes"}  # which is a share as any other
    assert table["low"].le(table["value"]).all() and table["high"].ge(table["value"]).all()
    shuffled = trials.sample(fraction=1, shuffle=True, seed=0)
    assert scores(shuffled, population).equals(table)


def test_weights_are_not_idle_and_even_deciles_weigh_nothing() -> None:
    trials, population = made_up(12)
    table = scores(trials, population).pivot(on="statistic", index=["latent", "control"], values="value")
    assert (table["auroc"] - table["auroc_weighted"]).abs().max() > 1e-3  # type: ignore[operator]
    even = population.examples.with_columns(decile=pl.when("expected").then((pl.col("example") % 10).cast(pl.Int8)))
    many = population.latents.with_columns(windows=pl.lit(1000, dtype=pl.UInt32))
    table = scores(trials, Population(even, many)).pivot(on="statistic", index=["latent", "control"], values="value")
    for name in ("auroc", "auprc", "f1", "balanced_accuracy"):
        assert (table[name] - table[f"{name}_weighted"]).abs().max() < 1e-12  # type: ignore[operator]


def test_one_kind_alone_has_no_score_and_one_trial_of_each_has_no_auroc_interval() -> None:
    trials, population = made_up(1)
    one_kind = scores(trials.filter("expected"), population)
    assert set(one_kind.filter(~pl.col("statistic").str.starts_with("f1"))["status"]) == {"failed"}
    one_each = scores(trials.filter(pl.col("example") == 0), population)
    rows = {(row["control"], row["statistic"]): row for row in one_each.iter_rows(named=True)}
    assert rows["none", "auroc"]["value"] is not None and rows["none", "auroc"]["low"] is None
    assert rows["none", "balanced_accuracy"]["high"] - rows["none", "balanced_accuracy"]["low"] > 0.5


def test_clustered_variance_is_that_of_trials_where_each_has_its_own_context() -> None:
    trials, _ = made_up(5)
    table = scores(trials)
    p1, p0 = 0.0, 0.0
    for (control,), group in trials.filter(pl.col("latent") == 3).group_by("control"):
        found = table.filter(latent=3, control=control, statistic="balanced_accuracy").row(0, named=True)
        right = (group["expected"] == group["predicted"]).to_numpy()
        kinds = [right[(group["expected"] == kind).to_numpy()] for kind in (True, False)]
        sides = [stats.binomtest(int(each.sum()), len(each)).proportion_ci(method="wilson") for each in kinds]
        p1, p0 = (each.mean() for each in kinds)
        value = (p1 + p0) / 2
        low = value - np.hypot(p1 - sides[0].low, p0 - sides[1].low) / 2
        high = value + np.hypot(sides[0].high - p1, sides[1].high - p0) / 2
        assert (found["low"], found["high"]) == pytest.approx((low, high))


@pytest.mark.parametrize(("lightest", "tolerance"), [(1.0, 1e-12), (0.5, 0.1)])
def test_what_average_precision_loses_without_a_trial(lightest: float, tolerance: float) -> None:
    """What the interval's variance is made of: exact where all trials weigh the same, near it elsewhere."""
    draw = np.random.default_rng(4)
    n = 60
    positive, value, weight = draw.random(n) < 0.4, draw.integers(0, 12, n), draw.uniform(lightest, 2 - lightest, n)
    group = np.zeros(n, dtype=np.int64)
    ranking = Ranking.of(positive, value, weight, group, Clusters.of(group, np.arange(n), 1))
    plain = metrics.average_precision_score(positive, value, sample_weight=weight)
    assert ranking.auprc()[0][0] == pytest.approx(plain)
    lost = np.zeros(n)
    for i in range(n):
        kept = np.arange(n) != i
        lost[i] = plain - metrics.average_precision_score(positive[kept], value[kept], sample_weight=weight[kept])
    order = np.argsort(value, kind="stable")
    found = ranking.lost_without(np.array([plain]))
    assert np.abs(found - lost[order]).max() <= tolerance * np.abs(lost).max()


def clustered(
    subjects: int, contexts: int, per_context: int, alike: float, seed: int = 0
) -> tuple[pl.DataFrame, Population]:
    """Trials of which those from one context share part of their luck; the truth is the same for all subjects.

    Args:
        alike: correlation of the values of two trials from one context.
    """
    draw = np.random.default_rng(seed)
    subject, context, trial = (axis.ravel() for axis in np.indices((subjects, contexts, per_context)))
    luck = draw.normal(size=(subjects, contexts))[subject, context]
    noise = np.sqrt(alike) * luck + np.sqrt(1 - alike) * draw.normal(size=len(subject))
    expected = context % 2 == 0
    value = noise + np.where(expected, 1.0, 0.0)
    example = context * per_context + trial
    frame = pl.DataFrame(
        {
            "latent": subject, "explainer": "llm", "control": "none", "example": example, "expected": expected,
            "probability": value, "predicted": value > 0.6, "status": "ok",
        }
    )  # fmt: skip
    examples = frame.select("latent", "example", "expected", context=pl.Series(context), decile=None).cast(
        {"latent": pl.UInt32, "example": pl.UInt32, "context": pl.UInt32, "decile": pl.Int8}
    )
    latents = pl.DataFrame({"latent": np.arange(subjects), "windows": 100, "rate": RATE})
    return conform(frame, TRIALS), Population(examples, latents.cast({"latent": pl.UInt32, "windows": pl.UInt32}))


def truths(n1: int, n0: int) -> dict[str, float]:
    """Of the trials of `clustered`: positives normal around 1, negatives around 0, the answer Yes above 0.6."""
    p1, p0 = stats.norm.sf(0.6 - 1), stats.norm.cdf(0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = np.random.default_rng(9).normal(size=200_000)
        expected = np.arange(200_000) % (n1 + n0) < n1
        auprc = metrics.average_precision_score(expected, value + expected)
    return {
        "balanced_accuracy": (p1 + p0) / 2,
        "f1": 2 * p1 * n1 / (p1 * n1 + (1 - p0) * n0 + n1),
        "precision_at_rate": RATE * p1 / (RATE * p1 + (1 - RATE) * (1 - p0)),
        "auroc": stats.norm.cdf(1 / np.sqrt(2)),
        "auprc": float(auprc),
    }


def coverage(table: pl.DataFrame, truth: dict[str, float]) -> dict[str, float]:
    inside = {
        name: table.filter(statistic=name).select(pl.lit(value).is_between("low", "high").mean()).item()
        for name, value in truth.items()
    }
    return inside


def test_intervals_hold_the_truth_of_independent_trials() -> None:
    """50 trials of each kind, as scorers ask by default; of fewer, shares move in steps, and coverage with them."""
    for per_kind, least, most in ((50, 0.93, 0.97), (10, 0.91, 0.985)):
        trials, population = clustered(2000, 2 * per_kind, 1, 0.0)
        for name, covered in coverage(scores(trials, population), truths(per_kind, per_kind)).items():
            assert least <= covered <= most, (name, per_kind, covered)


def test_intervals_hold_the_truth_of_trials_that_share_contexts() -> None:
    """50 contexts of 4 trials each; the control takes every trial as one by itself and misses too often."""
    trials, population = clustered(2000, 50, 4, 0.7)
    truth = truths(1, 1)
    for name, covered in coverage(scores(trials, population), truth).items():
        assert 0.93 <= covered <= 0.97, (name, covered)
    apart = population.examples.with_columns(context=pl.int_range(pl.len()).cast(pl.UInt32))
    for name, covered in coverage(scores(trials, Population(apart, population.latents)), truth).items():
        assert covered < 0.88, (name, covered)
    assert "precision_at_rate" not in set(scores(trials, NOWHERE)["statistic"])


def test_positives_and_negatives_of_one_context_widen_the_interval() -> None:
    """As in fuzzing, where an example's right and wrong trial share their text: being right on both hangs together."""
    draw = np.random.default_rng(2)
    pairs, subjects = 30, 1500
    luck = draw.normal(size=(subjects, pairs, 1))
    right = 0.9 * luck + np.sqrt(1 - 0.81) * draw.normal(size=(subjects, pairs, 2)) > stats.norm.ppf(0.3)
    subject, pair, kind = (axis.ravel() for axis in np.indices(right.shape))
    expected = kind == 1
    frame = pl.DataFrame({"latent": subject, "explainer": "llm", "control": "none", "example": pair, "status": "ok"})
    frame = frame.with_columns(expected=pl.Series(expected), predicted=pl.Series(right.ravel() == expected))
    examples = frame.select("latent", "example", "expected", context=pl.Series(pair), decile=None).cast(
        {"latent": pl.UInt32, "example": pl.UInt32, "context": pl.UInt32, "decile": pl.Int8}
    )
    trials, truth = conform(frame, TRIALS), {"balanced_accuracy": 0.7}
    covered = coverage(scores(trials, Population(examples, NOWHERE.latents)), truth)["balanced_accuracy"]
    without = coverage(scores(trials), truth)["balanced_accuracy"]
    assert without < 0.9 < 0.93 <= covered <= 0.99


DECILES = np.arange(10)
HITS, ABOVE, PASSES, WINDOWS = 0.3 + 0.065 * DECILES, 0.2 + 0.15 * DECILES, 0.8, 995
"A latent whose explanation holds for strong activations better than for weak ones."


def skewed(subjects: int) -> tuple[pl.DataFrame, Population]:
    """50 positives of which most are strong, 50 negatives.

    A positive of decile d is found in a share HITS[d] of cases; its value is normal around ABOVE[d], a negative's around 0.
    """
    draw = np.random.default_rng(3)
    decile = np.repeat(DECILES, [1, 1, 2, 2, 3, 4, 6, 8, 10, 13])
    subject, place = (axis.ravel() for axis in np.indices((subjects, 100)))
    expected = place < 50
    share = np.where(expected, HITS[decile[place % 50]], 1 - PASSES)
    says = draw.random(len(subject)) < share
    value = draw.normal(size=len(subject)) + np.where(expected, ABOVE[decile[place % 50]], 0)
    names = {"explainer": "llm", "control": "none", "status": "ok"}
    frame = pl.DataFrame({"latent": subject, "example": place % 50, "expected": expected, **names})
    frame = frame.with_columns(predicted=pl.Series(says), probability=pl.Series(value))
    positives = pl.when("expected").then(pl.Series(decile[place % 50]))
    examples = frame.select("latent", "example", "expected", context=pl.Series(place), decile=positives).cast(
        {"latent": pl.UInt32, "example": pl.UInt32, "context": pl.UInt32, "decile": pl.Int8}
    )
    latents = pl.DataFrame({"latent": np.arange(subjects), "windows": WINDOWS, "rate": RATE})
    return conform(frame, TRIALS), Population(examples, latents.cast({"latent": pl.UInt32, "windows": pl.UInt32}))


def test_weighted_estimates_are_unbiased_on_a_skewed_latent() -> None:
    trials, population = skewed(2000)
    table = scores(trials, population)
    # Deciles are tenths of the windows but for rounding: 995 of them.
    share = np.diff(np.ceil(WINDOWS * np.arange(11) / 10)) / WINDOWS
    hits = HITS @ share
    truth = {
        "balanced_accuracy_weighted": (hits + PASSES) / 2,
        "auroc_weighted": stats.norm.cdf(ABOVE / np.sqrt(2)) @ share,
    }
    for name, value in truth.items():
        mine = table.filter(statistic=name)
        assert mine["value"].mean() == pytest.approx(value, abs=0.003), name
        # The control: as drawn, strong activations count too much.
        plain = table.filter(statistic=name.removesuffix("_weighted"))
        assert plain["value"].mean() > value + 0.05  # type: ignore[operator]
    truth["precision_at_rate"] = RATE * hits / (RATE * hits + (1 - RATE) * (1 - PASSES))
    for name, covered in coverage(table, truth).items():
        assert 0.93 <= covered <= 0.97, (name, covered)
    assert coverage(table, {"balanced_accuracy": truth["balanced_accuracy_weighted"]})["balanced_accuracy"] < 0.85


def test_a_too_broad_label_is_seen_by_f1_and_auprc_and_not_by_balanced_accuracy() -> None:
    """Of a latent that fires on 10 of 200 windows one label fits those alone, the other also one in ten of the rest."""
    place = np.arange(200)
    narrow, broad = place < 10, (place < 10) | (place % 10 == 0)
    rows = {"latent": 0, "control": "none", "status": "ok"}
    parts = [
        pl.DataFrame(
            {"example": place, "expected": place < 10, "predicted": says, "probability": says.astype(float)}
        ).with_columns(**{name: pl.lit(value) for name, value in rows.items()}, explainer=pl.lit(label))
        for label, says in (("narrow", narrow), ("broad", broad))
    ]
    table = scores(conform(pl.concat(parts), TRIALS)).pivot(on="statistic", index="explainer", values="value")
    loss = {name: table[name][1] - table[name][0] for name in ("balanced_accuracy", "auroc", "f1", "auprc")}
    assert table["explainer"].to_list() == ["broad", "narrow"]
    assert loss["balanced_accuracy"] < 0.06 and loss["auroc"] < 0.06
    assert loss["f1"] > 0.45 and loss["auprc"] > 0.45
