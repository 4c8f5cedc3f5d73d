"""Simulation: its correlation is the plain one, both modes find the planted truth, and bad replies are failed rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr

from interp_assets.scores.simulation import correlations, expectation, read_numbers
from interp_assets.study import load_study
from resources.language_models.protocol import Chosen, Generated, Usage
from resources.language_models.structured import Unusable
from tests.changed_study import changed
from tests.conftest import make_all
from tests.methods_study import ADDED
from tests.oracle import OracleEngine, OracleModels
from tests.tiny import make_study

NOTHING = Usage(0, 0, 0)


def windows(noise: float, count: int = 12, seed: int = 0) -> tuple[list[list[float]], list[list[float]]]:
    """Predicted and true activations, each of its own length."""
    draw = np.random.default_rng(seed)
    true = [np.maximum(0, draw.normal(-1, 2, 10 + i)) for i in range(count)]
    return [np.clip(y * 2 + draw.normal(0, noise, len(y)), 0, 10).round().tolist() for y in true], [
        y.tolist() for y in true
    ]


def found(
    predicted: list[list[float]], true: list[list[float]], contexts: list[int] | None = None
) -> dict[str, tuple[float, float, float]]:
    contexts = contexts or [*range(len(true))]
    return {name: rest for name, *rest in correlations(predicted, true, contexts)}  # type: ignore[misc]


def test_pearson_and_ev_are_the_plain_ones() -> None:
    predicted, true = windows(noise=2.0)
    x, y = np.concatenate(predicted), np.concatenate(true)
    mine = found(predicted, true)
    assert mine["pearson"][0] == pytest.approx(pearsonr(x, y).statistic)
    scaled = x / 10 * y.max()
    assert mine["ev"][0] == pytest.approx(1 - ((y - scaled) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    value, low, high = mine["pearson"]
    assert low < value < high
    # Control: predictions in another order foresee nothing.
    backwards = [window[::-1] for window in predicted]
    assert abs(found(backwards, true)["pearson"][0]) < 0.3 < value


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = found(*windows(2.0, 4000, seed=1))["pearson"][0]
    held = [low <= truth <= high for _, low, high in (found(*windows(2.0, 30, seed=s))["pearson"] for s in range(100))]
    assert 0.85 <= np.mean(held) <= 1.0


def test_windows_of_one_context_are_no_new_evidence() -> None:
    predicted, true = windows(2.0, 8)
    alone = found(predicted, true)["pearson"]
    # The same eight contexts, each window seen four times: as sure as before, where windows counted by themselves are surer.
    again = found(4 * predicted, 4 * true, 4 * [*range(8)])["pearson"]
    assert again == pytest.approx(alone, abs=0.02)
    by_window = found(4 * predicted, 4 * true)["pearson"]
    assert by_window[2] - by_window[1] < 0.7 * (alone[2] - alone[1])
    # Of a single context nothing is known of how contexts differ.
    assert all(map(math.isnan, found(predicted, true, [0] * 8)["pearson"][1:]))


def test_one_number_throughout_foresees_nothing() -> None:
    _, true = windows(0.0)
    assert found([[3.0] * len(y) for y in true], true)["pearson"][0] == 0.0
    assert math.isnan(found(true, [[1.0] * len(y) for y in true])["ev"][0])


def test_the_expectation_is_taken_of_normalised_probabilities() -> None:
    logs = [-math.inf] * 11
    logs[2], logs[10] = math.log(0.3), math.log(0.1)
    assert expectation(Chosen(tuple(logs), NOTHING)) == pytest.approx((0.3 * 2 + 0.1 * 10) / 0.4)
    with pytest.raises(Unusable):
        expectation(Chosen((-math.inf,) * 11, NOTHING))


@pytest.mark.parametrize(
    "reply", ["[1, 2]", '{"activations": [1, 2, 11]}', '{"activations": [1, 2]}', '{"activations": [1, 2, true]}']
)
def test_only_a_list_of_so_many_numbers_is_one(reply: str) -> None:
    with pytest.raises(Unusable):
        read_numbers(Generated(reply, True, NOTHING), 3)
    assert read_numbers(Generated('{"activations": [0, 10, 3]}', True, NOTHING), 3) == [0.0, 10.0, 3.0]


class Forgetful(OracleEngine):
    """Leaves out the last number of windows that begin with certain words."""

    def answer(self, messages: object, asked: str) -> str:
        text = super().answer(messages, asked)  # type: ignore[arg-type]
        return text.replace(", 0]", "]") if "activations" in text and '1. " ka' in asked else text


def test_both_modes_and_bad_replies(tmp_path: Path) -> None:
    file = make_study(
        tmp_path,
        examples={
            "window": 16,
            "min_windows": 8,
            "latents": 8,
            "explain": {"n": 10},
            "test": {"activating": 5, "non_activating": 5},
        },
        scorers={"simulation": ADDED["simulation"]},
    )
    tokens = load_study(changed(file, {"scorers.simulation.mode": "token_by_token"}, "tokens.yaml"))
    one = make_all(tokens.model_copy(update={"name": "tiny"}), OracleModels())["scores/simulation"]
    trials = one.read("trials")
    lengths = trials.select(a=pl.col("predicted_activations").list.len(), b=pl.col("activations").list.len())
    assert (lengths["a"] == lengths["b"]).all()
    assert set(trials["prompt_hash"].str.split(" ").list.len()) == set(lengths["a"])
    assert one.read("scores").filter(control="none", statistic="pearson")["value"].min() > 0.95
    forgetful = load_study(changed(file, {"storage": "other"}, "other.yaml"))
    two = make_all(forgetful, OracleModels(Forgetful()))["scores/simulation"]
    failed = two.read("trials").filter(status="failed")
    assert len(failed) and failed["reason"].str.contains("not a list of 1. whole numbers").all()
    assert failed["predicted_activations"].null_count() == len(failed)
    assert two.read("scores").filter(control="none", statistic="pearson")["value"].min() > 0.95
    assert two.read("scores").filter(statistic="pearson")["n_failed"].sum() == len(failed)
