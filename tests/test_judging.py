"""Judges and explainers that answer badly: nothing is lost, nothing is made up, the raw reply is kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import polars as pl
import pytest

from interp_assets.dagster_assets import shown_metadata
from interp_assets.examples.rendering import HIDDEN
from interp_assets.scores.fuzzing import trials
from interp_assets.scores.judging import read_list
from interp_assets.scores.marks import dealt_marks
from interp_assets.scores.trials import TestExample, shuffled
from interp_assets.study import Study, load_study
from resources.language_models.protocol import ChooseRequest, Chosen, Generated, GenerateRequest, Message, Usage, silent
from resources.language_models.structured import Unusable
from resources.partition_files import Partition
from resources.reply_log import ReplyLog
from tests.conftest import make_all
from tests.oracle import COMPLAINT, OracleEngine, OracleModels
from tests.tiny import make_study


@pytest.fixture(scope="module")
def list_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    scorer = {"engine": "oracle", "activating": 10, "non_activating": 10, "protocol": "list", "per_prompt": 5}
    file = make_study(tmp_path_factory.mktemp("list"), scorers={"detection": scorer, "fuzzing": scorer})
    return load_study(file)


def mean(partition: Partition, control: str) -> float:
    wanted = (pl.col("control") == control) & (pl.col("statistic") == "balanced_accuracy")
    return partition.read("scores").filter(wanted)["value"].mean()


def test_the_list_protocol_finds_the_planted_truth(list_study: Study) -> None:
    oracle = OracleEngine()
    made = make_all(list_study, OracleModels(oracle))
    for method in ("scores/detection", "scores/fuzzing"):
        assert mean(made[method], "none") == 1.0
        assert mean(made[method], "shuffled") == pytest.approx(0.5, abs=0.03)
    lists = [prompt for prompt in oracle.prompts if "Text 5:" in prompt]
    assert lists
    assert all("Text 6:" not in prompt for prompt in lists)


class Careless(OracleEngine):
    """Forgets the last answer of every third list, explains every third latent with nothing, and is lost for every
    fifth choice; `sorry` where it does right when it is asked again."""

    def __init__(self, sorry: bool = False) -> None:
        super().__init__()
        self.sorry = sorry
        self.complaints: list[str] = []

    def careless(self, request: GenerateRequest | ChooseRequest, one_in: int) -> bool:
        said = [message.content for message in request.messages if message.role == "user"]
        asked = next(each for each in reversed(said) if not each.startswith(COMPLAINT))
        first = asked.split("\n\nYour answer must begin with")[0]
        again = said[-1] != asked or first != asked
        if again:
            self.complaints.append(request.messages[-1].content)
        return crc32(first.encode()) % one_in == 0 and not (again and self.sorry)

    def generate(self, requests: Sequence[GenerateRequest], arrived: Any = silent) -> list[Generated]:
        replies = []
        for i, (request, reply) in enumerate(zip(requests, super().generate(requests), strict=True)):
            text = reply.text
            if self.careless(request, 3):
                text = text.replace(", 0]", "]").replace(", 1]", "]") if "answers" in text else ""
            replies.append(Generated(text, True, Usage(1, 0, 1)))
            arrived(i, replies[i])
        return replies

    def choose(self, requests: Sequence[ChooseRequest], arrived: Any = silent) -> list[Chosen]:
        lost = Chosen((-math.inf, -math.inf), Usage(1, 0, 0))
        replies = []
        for i, (request, reply) in enumerate(zip(requests, super().choose(requests), strict=True)):
            replies.append(lost if self.careless(request, 5) else reply)
            arrived(i, replies[i])
        return replies


def test_bad_lists_are_failed_rows_with_the_raw_reply(list_study: Study, tmp_path: Path) -> None:
    study = list_study.model_copy(update={"storage": str(tmp_path)})
    made = make_all(study, OracleModels(Careless()))
    table = made["scores/detection"].read("trials")
    failed = table.filter(pl.col("status") == "failed")
    assert 0.2 < len(failed) / len(table) < 0.5
    assert failed["predicted"].null_count() == failed["probability"].null_count() == len(failed)
    assert failed["reason"].str.contains("not a list of 5 numbers").all()
    # Each was asked for twice, and both calls can be found in the log.
    calls = failed["prompt_hash"].str.split(" ")
    assert set(calls.list.len()) == {2}
    log = ReplyLog(tmp_path / "replies.sqlite")
    assert set(log.look_up([bytes.fromhex(key) for key in calls.explode().unique()]).keys()) == {
        bytes.fromhex(key) for key in calls.explode().unique()
    }
    answered = table.filter(pl.col("status") == "ok")
    assert set(answered["prompt_hash"].str.split(" ").list.len()) == {1}
    assert failed["raw_reply"].null_count() == 0
    scores = made["scores/detection"].read("scores").unique(["latent", "explainer", "control"])
    assert scores["n_failed"].sum() == len(failed)
    # What was answered is still right: a missing answer is not counted as a No.
    assert mean(made["scores/detection"], "none") == 1.0


def test_what_is_wrong_is_asked_once_more_with_the_error(list_study: Study, tiny: Study, tmp_path: Path) -> None:
    study = list_study.model_copy(update={"storage": str(tmp_path / "list")})
    careless = Careless(sorry=True)
    made = make_all(study, OracleModels(careless))
    for table in (made["explanations"].read("explanations"), made["scores/detection"].read("trials")):
        assert not len(table.filter(pl.col("status") == "failed"))
        asked = set(table.filter(pl.col("status") == "ok")["prompt_hash"].drop_nulls().str.split(" ").list.len())
        assert asked == {1, 2}
    assert any("the reply is empty" in complaint for complaint in careless.complaints)
    assert any("`answers` is not a list of 5 numbers" in complaint for complaint in careless.complaints)
    assert mean(made["scores/detection"], "none") == 1.0
    # Made anew from the log alone: neither first nor second asks are made again.
    told = len(careless.prompts)
    shutil.rmtree(tmp_path / "list" / "scores")
    again = make_all(study, OracleModels(careless))
    assert len(careless.prompts) == told
    assert again["scores/detection"].content_hash == made["scores/detection"].content_hash
    study = tiny.model_copy(update={"storage": str(tmp_path / "single")})
    made = make_all(study, OracleModels(Careless(sorry=True)))
    assert not len(made["scores/detection"].read("trials").filter(pl.col("status") == "failed"))


def test_explanations_that_failed_are_rows_and_are_not_scored(list_study: Study, tmp_path: Path) -> None:
    study = list_study.model_copy(update={"storage": str(tmp_path)})
    made = make_all(study, OracleModels(Careless()))
    table = made["explanations"].read("explanations")
    failed = table.filter(pl.col("status") == "failed")
    assert len(failed) > 5
    assert set(failed["reason"]) == {"the reply is empty"}
    assert set(failed["raw_reply"]) == {""}
    assert not set(failed["latent"]) & set(made["scores/detection"].read("scores")["latent"])


class Speechless(OracleEngine):
    """Explains nothing at all."""

    def answer(self, messages: Sequence[Message], asked: str) -> str:
        return ""


def test_a_layer_without_a_single_explanation_has_empty_scores(tiny: Study, tmp_path: Path) -> None:
    """Its tables are there and empty, and the UI and the report can show them."""
    study = tiny.model_copy(update={"storage": str(tmp_path)})
    made = make_all(study, OracleModels(Speechless()))
    assert set(made["explanations"].read("explanations")["status"]) == {"failed", "dead"}
    for partition in made.values():
        assert shown_metadata(partition)["fingerprint"] == partition.fingerprint
    assert made["scores/fuzzing"].read("scores").is_empty()
    assert shown_metadata(made["scores/fuzzing"])["means"] == "none"
    assert "No scores yet" in made["score_report"].files("page")[0].read_text()


def test_choices_without_a_probability_are_failed_trials(tiny: Study, tmp_path: Path) -> None:
    study = tiny.model_copy(update={"storage": str(tmp_path)})
    made = make_all(study, OracleModels(Careless()))
    table = made["scores/detection"].read("trials")
    failed = table.filter(pl.col("status") == "failed")
    assert len(failed) / len(table) == pytest.approx(0.2, abs=0.05)
    assert failed["predicted"].null_count() == len(failed)
    assert mean(made["scores/detection"], "none") == 1.0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"answers": [1, 0, 1]}', [True, False, True]),
        ('```json\n{"answers": [0,0,0]}\n```', [False, False, False]),
        ('{"answers": [1, 0]}', None),
        ('{"answers": [1, 0, 1, 1]}', None),
        ('{"answers": [1, 0, 2]}', None),
        ('{"answers": [1, 0, "1"]}', None),
        ('{"answers": {"1": 0}}', None),
        ('{"answers": [[1], 0, 1]}', None),
        ('{"labels": [1, 0, 1]}', None),
        ("[1, 0, 1]", None),
        ("The answer is 1, 0, 1", None),
        ("", None),
    ],
)
def test_only_a_list_of_so_many_answers_is_one(reply: str, expected: list[bool] | None) -> None:
    told = Generated(reply, True, Usage(0, 0, 0))
    if expected is None:
        with pytest.raises(Unusable):
            read_list(told, 3)
    else:
        assert read_list(told, 3) == expected


def example(number: int, *fires: int, length: int = 8) -> TestExample:
    activations = [1.0 if i in fires else 0.0 for i in range(length)]
    return TestExample(number, list(range(10, 10 + length)), activations, True)


def test_marks_that_fit_nowhere_are_left_out_with_their_right_trial() -> None:
    """Three texts share position 1; the fourth fires elsewhere. Only pairs that do not clash are asked."""
    examples = [example(0, 1), example(1, 1), example(2, 1), example(3, 5)]
    found = trials(0, examples, 4, 0.3, seed=0)
    asked = [trial for trial in found if trial.left_out is None]
    right = sorted(tuple(trial.marked) for trial in asked if trial.expected)
    wrong = sorted(tuple(trial.marked) for trial in asked if not trial.expected)
    assert right == wrong
    assert len(right) == 2
    left_out = [trial for trial in found if trial.left_out]
    assert len(found) == 8
    assert {trial.expected for trial in left_out} == {True, False}


def test_no_mark_falls_on_a_hidden_token() -> None:
    examples = [example(0, 0), example(1, 3)]
    assert len(dealt_marks(0, examples, [[i == 0 for i in range(8)], [i == 3 for i in range(8)]], 0)) == 2
    # Position 0 of the second text holds a token that is not shown: the first pattern cannot go there.
    examples[1].tokens[0] = HIDDEN
    assert 1 not in dealt_marks(0, examples, [[i == 0 for i in range(8)], [i == 3 for i in range(8)]], 0)


def test_shuffled_partners_are_others_and_change_little() -> None:
    before = shuffled(list(range(200)), seed=0)
    assert all(partner != latent for latent, partner in before.items())
    assert len(set(before.values())) > 60
    after = shuffled([latent for latent in range(200) if latent != 17], seed=0)
    moved = [latent for latent in after if after[latent] != before[latent]]
    assert all(before[latent] == 17 for latent in moved)
    assert shuffled([3], seed=0) == {}
