"""Latent statistics and score statistics against plain recomputation and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

from interp_assets.activations import cache_file
from interp_assets.activations.statistics import latent_statistics
from interp_assets.scores.statistics import scores
from interp_assets.tables import QUANTILES, TRIALS, conform
from tests.synthetic_cache import CONTEXTS, LENGTH, firings, tokens, write_cache


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_file, "ENTRIES_PER_FILE", 3_000)
        return latent_statistics(write_cache(tmp_path_factory.mktemp("cache"), firings()), tokens(), skip=1)


def test_rates_and_quantiles_equal_numpy(table: pl.DataFrame) -> None:
    dense = firings()
    for row in table.iter_rows(named=True):
        mine = dense[:, 1:, row["latent"]]
        values = mine[mine > 0]
        assert row["dead"] == (len(values) == 0)
        assert row["firing_rate"] == pytest.approx(len(values) / mine.size)
        assert row["context_rate"] == pytest.approx((mine.max(1) > 0).mean())
        if len(values):
            assert row["max_activation"] == values.max()
            assert row["mean_activation"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
            np.testing.assert_allclose(row["quantiles"], np.quantile(values.astype(np.float64), QUANTILES), rtol=1e-6)


def test_position_information_is_the_formula(table: pl.DataFrame) -> None:
    dense = firings()[:, 1:]
    for latent in range(0, 40, 5):
        at = (dense[:, :, latent] > 0).mean(0)
        f = at.mean()
        expected = 0.0
        for share in at:
            expected += share * np.log(share / f) if share > 0 else 0
            expected += (1 - share) * np.log((1 - share) / (1 - f)) if share < 1 else 0
        assert table["position_information"][latent] == pytest.approx(expected / (LENGTH - 1), abs=1e-12)


def test_a_latent_bound_to_one_position_stands_out(tmp_path: Path) -> None:
    dense = np.zeros((CONTEXTS, LENGTH, 2), dtype=np.float32)
    dense[:, 9, 0] = 1.0
    draw = np.random.default_rng(0)
    dense[np.arange(CONTEXTS), draw.integers(1, LENGTH, CONTEXTS), 1] = 1.0
    information = latent_statistics(write_cache(tmp_path, dense), tokens(), skip=1)["position_information"]
    # Fires always at one of T positions and never elsewhere: I = H(1/T).
    share = 1 / (LENGTH - 1)
    assert information[0] == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share))
    assert information[0] > 0.05 > information[1]


def test_distinct_top_tokens(table: pl.DataFrame) -> None:
    dense, ids = firings(), tokens()
    for latent in range(0, 40, 3):
        context, position = np.nonzero(dense[:, :, latent])
        values = dense[context, position, latent]
        if len(values) and len(np.unique(values)) == len(values):
            dropped = int(np.floor(0.2 * len(values) + 1e-9))
            strongest = np.argsort(values)[dropped:]
            assert table["top_tokens"][latent] == len(np.unique(ids[context[strongest], position[strongest]]))


def trials(seed: int = 0) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    rows = []
    for latent in range(30):
        for example in range(14):
            expected = bool(example % 2)
            probability = float(np.round(np.clip(draw.normal(0.5 + 0.15 * expected, 0.2), 0, 1), 1))
            rows.append(
                {
                    "latent": latent,
                    "explainer": "llm",
                    "control": "none",
                    "example": example,
                    "expected": expected,
                    "probability": probability,
                    "predicted": probability > 0.5,
                    "status": "ok",
                }
            )
    return conform(pl.DataFrame(rows), TRIALS)


def test_scores_equal_scikit_learn() -> None:
    table = scores(trials())
    for (latent,), group in trials().group_by("latent"):
        mine = dict(table.filter(pl.col("latent") == latent).select("statistic", "value").iter_rows())
        truth, guess = group["expected"].to_numpy(), group["predicted"].to_numpy()
        assert mine["auroc"] == pytest.approx(metrics.roc_auc_score(truth, group["probability"]))
        assert mine["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, guess))
        assert mine["f1"] == pytest.approx(metrics.f1_score(truth, guess))
        assert mine["share_yes"] == pytest.approx((guess[truth].mean() + guess[~truth].mean()) / 2)


def test_a_list_s_answers_are_ranked_as_0_and_1() -> None:
    table = scores(trials().with_columns(probability=None)).pivot("statistic", index="latent", values="value")
    assert table["auroc"].to_numpy() == pytest.approx(table["balanced_accuracy"].to_numpy())
    # Control: probabilities tell more.
    told = scores(trials()).pivot("statistic", index="latent", values="value")
    assert not np.allclose(told["auroc"].to_numpy(), told["balanced_accuracy"].to_numpy())


def test_a_judge_that_leans_to_yes_loses_accuracy_and_keeps_its_auroc() -> None:
    lenient = trials().with_columns(predicted=pl.col("probability") > 0.2)
    for table, leans in ((trials(), False), (lenient, True)):
        wide = scores(table).pivot("statistic", index="latent", values="value").mean()
        assert (wide["share_yes"][0] > 0.8) == leans
        assert (wide["balanced_accuracy"][0] < 0.6) == leans
        assert wide["auroc"][0] == pytest.approx(scores(trials()).filter(statistic="auroc")["value"].mean())


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Planted shares of right answers; 95 % intervals of many latents must cover them in 90 to 99.5 % of cases."""
    draw = np.random.default_rng(3)
    rows = []
    for latent in range(400):
        for example in range(40):
            expected = example < 20
            right = draw.random() < (0.8 if expected else 0.6)
            rows.append(
                (latent, "llm", "none", example, expected, expected == right, draw.normal(float(expected)), "ok")
            )
    names = ["latent", "explainer", "control", "example", "expected", "predicted", "probability", "status"]
    table = scores(conform(pl.DataFrame(rows, schema=names, orient="row"), TRIALS))
    for statistic, truth in (("balanced_accuracy", 0.7), ("auroc", 0.7602)):
        mine = table.filter(pl.col("statistic") == statistic)
        covered = ((mine["low"] <= truth) & (truth <= mine["high"])).mean()
        assert 0.90 <= covered <= 0.995


def test_failed_trials_are_counted_and_left_out_ones_are_not() -> None:
    table = trials().filter(pl.col("latent") < 2)
    failed = pl.when((pl.col("latent") == 0) & (pl.col("example") < 3)).then(pl.lit("failed"))
    left_out = pl.when((pl.col("latent") == 1) & (pl.col("example") < 4)).then(pl.lit("left_out"))
    table = table.with_columns(status=pl.coalesce(failed, left_out, "status"))
    got = scores(table).filter(pl.col("statistic") == "balanced_accuracy").sort("latent")
    assert got["n_failed"].to_list() == [3, 0]
    assert got["n_trials"].to_list() == [14, 10]


def test_a_latent_whose_trials_all_failed_has_a_row_with_a_reason() -> None:
    table = trials().filter(pl.col("latent") < 2)
    table = table.with_columns(status=pl.when(pl.col("latent") == 0).then(pl.lit("failed")).otherwise("status"))
    got = scores(table)
    row = got.filter(pl.col("latent") == 0).row(0, named=True)
    assert (row["status"], row["value"], row["n_failed"]) == ("failed", None, 14)
    assert "no answered trial" in row["reason"]
    only_positives = scores(trials().filter((pl.col("latent") == 0) & pl.col("expected")))
    assert set(only_positives.filter(pl.col("statistic") != "f1")["status"]) == {"failed"}
