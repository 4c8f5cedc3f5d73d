"""How many examples a prompt takes is found per layer: the largest size at which a judge still judges as one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from interp_assets.dagster_assets import shown_metadata
from interp_assets.engine_trial import made_up, requests_of
from interp_assets.forecast import forecast
from interp_assets.freshness import Freshness
from interp_assets.job import Inputs
from interp_assets.scores.calibration import largest_within
from interp_assets.study import Study, StudyError, load_study
from resources.language_models.protocol import ChooseRequest, Message
from resources.partition_files import Partition
from tests.changed_study import LEFT_OUT, changed
from tests.conftest import make_all
from tests.oracle import OracleEngine, OracleModels
from tests.tiny import make_study

SCORER = {
    "engine": "oracle",
    "activating": 10,
    "non_activating": 10,
    "protocol": "list",
    "per_prompt": {"candidates": [2, 5, 10], "latents": 6, "tolerance": 0.02},
}
TRIALS = 20


class Overwhelmed(OracleEngine):
    """Right one by one and in short lists; in longer ones a share of its answers is wrong, always the same ones."""

    def __init__(self, longest: int, wrong: float = 0.4) -> None:
        super().__init__()
        self.longest, self.wrong = longest, wrong

    def answer(self, messages: Sequence[Message], asked: str) -> str:
        reply = json.loads(super().answer(messages, asked))
        if len(reply.get("answers", ())) > self.longest:
            draws = hashlib.sha256(asked.encode()).digest()
            reply["answers"] = [int(a) ^ (d < 256 * self.wrong) for a, d in zip(reply["answers"], draws, strict=False)]
        return json.dumps(reply)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("sizes"), scorers={"detection": SCORER})


def made(study: Study, oracle: OracleEngine) -> dict[str, Partition]:
    return make_all(study, OracleModels(oracle))


def of_scores(prompts: list[str]) -> list[str]:
    return [prompt for prompt in prompts if "Excerpt 1:" not in prompt]


@pytest.mark.parametrize(("longest", "chosen"), [(10, 10), (5, 5), (2, 2), (1, 1)])
def test_the_largest_size_is_taken_at_which_a_judge_judges_as_before(
    file: Path, tmp_path: Path, longest: int, chosen: int
) -> None:
    study = load_study(file).model_copy(update={"storage": str(tmp_path)})
    oracle = Overwhelmed(longest)
    tables = made(study, oracle)
    partition = tables["scores/detection"]
    table = partition.read("calibration")
    assert table["size"].to_list() == [1, 2, 5, 10]
    assert table.filter("chosen")["size"].to_list() == [chosen]
    assert (table["subjects"] == 6).all()
    near = table["mean_difference"] <= 0.02
    assert near.to_list() == [size <= longest for size in (1, 2, 5, 10)]
    assert table["tokens_per_trial"].is_sorted(descending=True)
    shown = partition.metadata["calibration"]["table"]
    assert [row["size"] for row in shown if row["chosen"]] == [chosen]
    # All rows, those of the explanations it was found on too, are as if the study had named the size.
    trials = partition.read("trials")
    assert trials["probability"].null_count() == (0 if chosen == 1 else len(trials))
    assert trials.group_by("latent", "control", "prompt_hash").len()["len"].max() == chosen
    # What was asked to find the size is not asked again.
    prompts = of_scores(oracle.prompts)
    assert len(prompts) == len(set(prompts))
    for size in {2, 5, 10} - {chosen}:
        assert (
            0
            < sum(f"Text {size}:" in prompt and f"Text {size + 1}:" not in prompt for prompt in prompts)
            <= 6 * TRIALS // size
        )
    page = tables["score_report"].files("page")[0].read_text()
    assert "Examples in one prompt, detection on embed_tokens: " in page
    assert f"<b>{chosen}</b>" in page


def test_what_is_found_equals_what_is_named(file: Path, tmp_path: Path) -> None:
    found = made(load_study(file).model_copy(update={"storage": str(tmp_path / "a")}), Overwhelmed(5))
    named = load_study(changed(file, {"scorers.detection.per_prompt": 5}))
    other = made(named.model_copy(update={"storage": str(tmp_path / "b")}), Overwhelmed(5))
    for table in ("trials", "scores"):
        one, two = (each["scores/detection"].read(table).drop("inputs_hash") for each in (found, other))
        assert one.equals(two)


def test_a_forecast_is_an_upper_bound_until_the_size_is_in_the_log(file: Path, tmp_path: Path) -> None:
    one = {"storage": str(tmp_path), "scorers.detection.shuffled_control": False}
    study = load_study(changed(file, one))
    oracle = Overwhelmed(10)
    made_here = make_all(study, OracleModels(oracle))
    subjects = made_here["scores/detection"].read("scores")["latent"].n_unique()
    # The shuffled control is added: the size is found again without a call, and the rest foreseen to the call.
    both = load_study(changed(file, one | {"scorers.detection.shuffled_control": True}, "both.yaml"))
    freshness = Freshness(both)
    state = next(each for each in freshness.states() if each.asset == "scores/detection")
    foreseen = forecast(freshness, state)
    assert foreseen.exact
    assert foreseen.llm_calls == subjects * TRIALS // 10
    again = Overwhelmed(10)
    partition = made(both, again)["scores/detection"]
    assert len(of_scores(again.prompts)) == foreseen.llm_calls
    assert partition.metadata["explanations_carried_over"] == subjects
    # With other instructions nothing is in the log.
    other = load_study(changed(file, one | {"scorers.detection.instructions": "Decide."}, "other.yaml"))
    freshness = Freshness(other)
    state = next(each for each in freshness.states() if each.asset == "scores/detection")
    foreseen = forecast(freshness, state)
    # An engine is tried on what comes first: single prompts.
    asset = freshness.assets[state.asset]
    tried = [
        *requests_of(Inputs(other, asset, state.partition, freshness), "oracle"),
        *made_up(other, "oracle", "judging"),
    ]
    assert {type(request) for request in tried} == {ChooseRequest}
    asked = Overwhelmed(10)
    made(other, asked)
    assert not foreseen.exact
    assert foreseen.llm_calls is not None and foreseen.llm_calls >= len(of_scores(asked.prompts)) > 0


def test_a_layer_without_explanations_has_an_empty_calibration(file: Path, tmp_path: Path) -> None:
    class Speechless(OracleEngine):
        def answer(self, messages: Sequence[Message], asked: str) -> str:
            return ""

    study = load_study(file).model_copy(update={"storage": str(tmp_path)})
    partition = made(study, Speechless())["scores/detection"]
    assert shown_metadata(partition)["calibration"]
    table = partition.read("calibration")
    assert table["mean_difference"].null_count() == len(table) == 4
    assert table.filter(pl.col("chosen"))["size"].to_list() == [1]


def test_the_choice() -> None:
    assert largest_within({1: 0.0, 2: 0.01, 5: 0.03, 10: 0.02}, 0.02) == 10
    assert largest_within({1: 0.0, 2: 0.01, 5: None}, 0.02) == 2
    assert largest_within({1: 0.0, 2: 0.5}, 0.02) == 1
    assert largest_within({1: None, 2: None}, 0.02) == 1


def test_a_size_too_small_is_refused_in_words(file: Path) -> None:
    with pytest.raises(StudyError, match=r"per_prompt: .*a whole number, at least 2, or a mapping with the keys cand"):
        load_study(changed(file, {"scorers.detection.per_prompt": 1}))
    with pytest.raises(StudyError, match=r"scorers.detection.per_prompt"):
        load_study(changed(file, {"scorers.detection.per_prompt.latents": 0}))
    assert load_study(changed(file, {"scorers.detection.per_prompt.latents": LEFT_OUT})).scorers.detection
