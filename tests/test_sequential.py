"""Scoring that stops early: its interval holds whenever one looks, and only replies and the seed decide what is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from interp_assets.cli import main
from interp_assets.freshness import Freshness
from interp_assets.scores.confidence_sequence import confidence_sequence, interval
from interp_assets.study import Study, StudyError, load_study
from resources.language_models.protocol import ChooseRequest, Chosen, silent
from resources.partition_files import Partition
from tests.changed_study import LEFT_OUT, changed
from tests.conftest import make_all
from tests.oracle import OracleEngine, OracleModels
from tests.tiny import make_study

EARLY = {"engine": "oracle", "activating": 30, "non_activating": 30, "sequential": {"half_width": 0.15}}


def observations(accuracy: float, runs: int, pairs: int, seed: int = 0) -> np.ndarray:
    """(right on a positive + right on a negative) / 2 of a judge that is right so often, float64 [runs, pairs]."""
    return (np.random.default_rng(seed).random((runs, pairs, 2)) < accuracy).mean(2)


@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.9, 1.0])
def test_the_truth_is_hardly_ever_outside_at_any_time(accuracy: float) -> None:
    runs = 300
    missed = 0
    for x in observations(accuracy, runs, 60):
        low, high = confidence_sequence(x)
        missed += bool(((accuracy < low) | (accuracy > high)).any())
    # Two standard errors of noise above the promised 5 %.
    assert missed / runs <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)


def test_control_a_fixed_size_interval_misses_when_it_is_looked_at_again_and_again() -> None:
    right = np.random.default_rng(1).random((300, 120)) < 0.7
    n = np.arange(1, 121)
    p = right.cumsum(1) / n
    middle = (p + 1.96**2 / (2 * n)) / (1 + 1.96**2 / n)
    half = 1.96 / (1 + 1.96**2 / n) * np.sqrt(p * (1 - p) / n + 1.96**2 / (4 * n**2))
    missed = (np.abs(middle - 0.7) > half).any(1).mean()
    assert missed > 0.15


def test_the_interval_narrows_and_is_the_formula() -> None:
    x = observations(0.8, 1, 40)[0]
    low, high = confidence_sequence(x)
    assert (high - low)[-1] < 0.35 < (high - low)[5]
    assert interval(x) == (low[-1], high[-1])
    assert interval(x[:0]) == (0.0, 1.0)
    # Plainly, at some candidates: inside means that no capital has reached 2 / 0.05.
    for m in (0.3, 0.55, 0.7, 0.9):
        up = down = 1.0
        total, squares, variance = 0.5, 0.25, 0.25
        for t, value in enumerate(x, 1):
            bet = np.sqrt(2 * np.log(2 / 0.05) / (variance * t * np.log(1 + t)))
            up *= 1 + min(bet, 0.75 / m) * (value - m)
            down *= 1 - min(bet, 0.75 / (1 - m)) * (value - m)
            total += value
            squares += (value - total / (t + 1)) ** 2
            variance = squares / (t + 1)
        assert (low[-1] <= m <= high[-1]) == (max(up, down) < 2 / 0.05), m


@pytest.fixture(scope="module")
def early_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = {"window": 16, "min_windows": 60, "explain": {"n": 10}, "test": {"activating": 30, "non_activating": 30}}
    scorers = {"detection": EARLY, "fuzzing": deepcopy(EARLY)}
    corpus = {"path": "corpus.parquet", "tokens": 16384, "context_length": 64, "separator": " "}
    return make_study(tmp_path_factory.mktemp("early"), examples=examples, scorers=scorers, corpus=corpus)


class Unsure(OracleEngine):
    """Wrong on some questions, always the same ones; may break off after some questions."""

    def __init__(self, wrong: float = 0.2, breaks_after: int | None = None) -> None:
        super().__init__()
        self.wrong = wrong
        self.breaks_after = breaks_after

    def choose(self, requests: Sequence[ChooseRequest], arrived: Any = silent) -> list[Chosen]:
        replies = []
        for i, reply in enumerate(super().choose(requests)):
            if self.breaks_after is not None and len(self.prompts) - len(requests) + i >= self.breaks_after:
                raise KeyboardInterrupt
            draw = hashlib.sha256(requests[i].messages[-1].content.encode()).digest()[0] / 256
            yes, no = reply.log_probabilities
            replies.append(Chosen((no, yes), reply.usage) if draw < self.wrong else reply)
            arrived(i, replies[i])
        return replies


def judged(partition: Partition) -> pl.DataFrame:
    return partition.read("trials").filter(pl.col("prompt_hash").is_not_null())


def without_calls(partition: Partition) -> list[pl.DataFrame]:
    calls = ["prompt_hash", "prompt_tokens", "cached_tokens", "completion_tokens", "raw_reply", "inputs_hash"]
    return [partition.read(name).drop(calls, strict=False) for name in ("trials", "scores")]


def elsewhere(file: Path, folder: Path, changes: dict[str, Any] | None = None) -> Study:
    return load_study(changed(file, changes or {})).model_copy(update={"storage": str(folder)})


def test_easy_subjects_stop_early_and_say_so(early_file: Path, tmp_path: Path) -> None:
    made = make_all(elsewhere(early_file, tmp_path), OracleModels(OracleEngine()))["scores/detection"]
    trials, scores = made.read("trials"), made.read("scores")
    left = trials.filter(status="left_out")
    assert set(left["reason"]) >= {"the interval was narrow enough after 30 trials"}
    real = scores.filter(control="none", statistic="balanced_accuracy")
    assert set(real["n_trials"]) == {30}
    assert set(scores["condition"]) == {"sequential"}
    # Whoever was not asked everything is known well enough.
    early = scores.filter(pl.col("n_trials") < 60, statistic="balanced_accuracy")
    assert ((early["high"] - early["low"]) / 2).max() <= 0.15
    assert real["low"].min() >= 0.7 and real["high"].max() == 1.0
    assert scores.filter(statistic="auroc")["low"].null_count() == scores.filter(statistic="auroc").height
    # Rounds are balanced: positives and negatives were asked equally often.
    asked = trials.filter(status="ok").group_by("latent", "control").agg(positives=pl.col("expected").sum(), n=pl.len())
    assert (asked["positives"] * 2 == asked["n"]).all()
    assert made.metadata["trials_left_out"] == len(left)


def test_a_tiny_half_width_asks_all_that_full_scoring_asks(early_file: Path, tmp_path: Path) -> None:
    for method in ("detection", "fuzzing"):
        never = elsewhere(early_file, tmp_path / "never", {f"scorers.{method}.sequential.half_width": 0.0001})
        full = elsewhere(early_file, tmp_path / "full", {f"scorers.{method}.sequential": None})
        name = f"scores/{method}"
        mine, whole = (make_all(each, OracleModels(Unsure()))[name] for each in (never, full))
        (my_trials, my_scores), (all_trials, all_scores) = without_calls(mine), without_calls(whole)
        assert my_trials.equals(all_trials)
        intervals = ["low", "high", "condition"]
        assert my_scores.drop(intervals).equals(all_scores.drop(intervals))


def test_a_rerun_and_a_run_that_was_cut_off_come_to_the_same(early_file: Path, tmp_path: Path) -> None:
    one = {"scorers.fuzzing": LEFT_OUT}
    whole = make_all(elsewhere(early_file, tmp_path / "whole", one), OracleModels(Unsure()))["scores/detection"]
    study = elsewhere(early_file, tmp_path / "cut", one)
    cut, then, again = Unsure(breaks_after=700), Unsure(), Unsure()
    with pytest.raises(KeyboardInterrupt):
        make_all(study, OracleModels(cut))
    made = make_all(study, OracleModels(then))["scores/detection"]
    for mine, theirs in zip(without_calls(made), without_calls(whole), strict=True):
        assert mine.equals(theirs)
    assert not set(cut.prompts[:690]) & set(then.prompts)
    # Without its tables but with its log, nothing is asked, and the same trials are left out.
    for file in (tmp_path / "cut" / "scores").rglob("manifest.json"):
        file.unlink()
    remade = make_all(study, OracleModels(again))["scores/detection"]
    assert again.prompts == []
    assert remade.content_hash == made.content_hash


def test_rows_are_carried_over_with_their_intervals(early_file: Path, tmp_path: Path) -> None:
    one = {"scorers.fuzzing": LEFT_OUT}
    make_all(elsewhere(early_file, tmp_path, one), OracleModels(Unsure()))
    more = one | {"explainers.brief": {"kind": "llm", "engine": "oracle", "n_examples": 3}}
    added, anew = (elsewhere(early_file, folder, more) for folder in (tmp_path, tmp_path / "anew"))
    made, fresh = (make_all(study, OracleModels(Unsure()))["scores/detection"] for study in (added, anew))
    assert made.metadata["explanations_carried_over"] == made.metadata["explanations_tested"] > 0
    for mine, theirs in zip(without_calls(made), without_calls(fresh), strict=True):
        assert mine.equals(theirs)


def test_the_plan_says_at_most(early_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"scorers.fuzzing": LEFT_OUT}
    study = elsewhere(early_file, tmp_path, one)
    make_all(study, OracleModels(Unsure()))
    file = changed(early_file, one | {"storage": str(tmp_path), "scorers.detection.instructions": "Decide."})
    assert main(["plan", str(file)]) == 0
    told = capsys.readouterr().out
    asked = len(judged(Freshness(study).current("scores/detection", "embed_tokens")))  # type: ignore[arg-type]
    assert "at most" in told and asked > 0


def test_lists_are_not_sequential(early_file: Path) -> None:
    with pytest.raises(StudyError, match=r"scorers.fuzzing.sequential: it needs protocol single"):
        load_study(changed(early_file, {"scorers.fuzzing.protocol": "list"}))
