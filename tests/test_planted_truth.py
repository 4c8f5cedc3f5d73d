"""A world whose rules are known, an engine that is always right: the scores must say exactly that."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from interp_assets.examples.rendering import marks_of
from interp_assets.study import Study
from resources.partition_files import Partition
from tests.tiny import VOCABULARY


def mean_score(partition: Partition, control: str, statistic: str = "balanced_accuracy") -> float:
    wanted = (pl.col("control") == control) & (pl.col("statistic") == statistic)
    return partition.read("scores").filter(wanted)["value"].mean()


@pytest.mark.parametrize("method", ["detection", "fuzzing"])
def test_right_explanations_score_one_and_shuffled_ones_half(tiny_tables: dict[str, Partition], method: str) -> None:
    scores = tiny_tables[f"scores/{method}"]
    assert mean_score(scores, "none") == 1.0
    assert mean_score(scores, "shuffled") == pytest.approx(0.5, abs=0.03)
    assert scores.read("scores").filter(pl.col("control") == "none")["latent"].n_unique() >= 40


def test_the_oracle_sees_the_latents_word(tiny_tables: dict[str, Partition]) -> None:
    explanations = tiny_tables["explanations"].read("explanations").filter(pl.col("status") == "ok")
    for latent, text in explanations.select("latent", "explanation").iter_rows():
        assert text == f"the word {VOCABULARY[latent]}"


def test_a_rule_that_sees_only_marks_is_at_chance(tiny_tables: dict[str, Partition]) -> None:
    trials = tiny_tables["scores/fuzzing"].read("trials").filter(pl.col("control") == "none")
    assert accuracy_from_marks(trials) == pytest.approx(0.5, abs=0.05)


def test_control_a_fixed_mark_gives_wrong_trials_away(tiny_tables: dict[str, Partition]) -> None:
    trials = tiny_tables["scores/fuzzing"].read("trials").filter(pl.col("control") == "none")
    fixed = pl.lit([i == 3 for i in range(16)])
    leaking = trials.with_columns(marked=pl.when("expected").then("marked").otherwise(fixed))
    assert accuracy_from_marks(leaking) > 0.9


def accuracy_from_marks(trials: pl.DataFrame) -> float:
    """Balanced accuracy, on latents not trained on, of a classifier that sees where the marks stand and nothing else."""
    asked = trials.filter(pl.col("status") == "ok")
    marks, expected = np.array(asked["marked"].to_list()), asked["expected"].to_numpy()
    train = asked["latent"].to_numpy() % 2 == 0
    model = GradientBoostingClassifier(random_state=0).fit(marks[train], expected[train])
    guessed, truth = model.predict(marks[~train]), expected[~train]
    return float((guessed[truth].mean() + 1 - guessed[~truth].mean()) / 2)


def test_wrong_trials_carry_the_marks_of_right_ones(tiny_tables: dict[str, Partition]) -> None:
    """The same patterns, equally often, within each latent; and no wrong mark on a token that fires."""
    trials = (
        tiny_tables["scores/fuzzing"].read("trials").filter((pl.col("control") == "none") & (pl.col("status") == "ok"))
    )
    for _, group in trials.group_by("latent"):
        right, wrong = (
            sorted(map(tuple, group.filter(pl.col("expected") == side)["marked"])) for side in (True, False)
        )
        assert right == wrong
    examples = tiny_tables["examples"].read("examples").filter(pl.col("purpose") == "test")
    fires = {
        (row[0], row[1]): row[2]
        for row in examples.filter(pl.col("kind") == "activating")
        .select("latent", "example", "activations")
        .iter_rows()
    }
    for latent, example, expected, marked in trials.select("latent", "example", "expected", "marked").iter_rows():
        activations = np.array(fires[latent, example])
        if expected:
            assert marked == marks_of(activations, 0.3)
        else:
            assert not (activations[marked] > 0).any()


def test_explain_and_test_examples_never_share_a_context(tiny_tables: dict[str, Partition]) -> None:
    examples = tiny_tables["examples"].read("examples").filter(pl.col("status") == "ok")
    sides = examples.group_by("latent", "context").agg(pl.col("purpose").n_unique())
    assert sides["purpose"].max() == 1
    assert set(examples["purpose"]) == {"explain", "test"}


def test_every_latent_has_a_row(tiny: Study, tiny_tables: dict[str, Partition]) -> None:
    """The special tokens' latents are dead; the rarest words may have too few examples. All are listed, with reasons."""
    examples = tiny_tables["examples"].read("examples")
    assert set(examples["latent"]) == set(range(len(VOCABULARY)))
    statuses = dict(examples.unique("latent").select("latent", "status").iter_rows())
    assert statuses[0] == statuses[1] == "dead"
    reasons = examples.filter(pl.col("status") != "ok")["reason"]
    assert reasons.null_count() == 0
