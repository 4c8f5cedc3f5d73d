"""Surprisal against a plain forward pass: each text stands behind its own prompt and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import torch

from interp_assets.scores.surprisal import Surprisal, outcome
from interp_assets.scores.trials import Subject, Trial
from interp_assets.scores.wording_of_others import SURPRISAL, UNRELATED
from interp_assets.study import Study, load_study
from resources.language_models.protocol import NOT_ASKED, Likelihood, LikelihoodRequest, Usage
from resources.language_models.transformers_engine import TransformersEngine
from resources.partition_files import Partition
from tests.conftest import make_all
from tests.methods_study import ADDED
from tests.oracle import OracleEngine, OracleModels
from tests.tiny import VOCABULARY, make_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(make_study(tmp_path_factory.mktemp("surprisal"), scorers={"surprisal": ADDED["surprisal"]}))


@pytest.fixture(scope="module")
def engine(study: Study) -> TransformersEngine:
    """The tiny model with weights so large that what stands before a token matters."""
    found = TransformersEngine(study.path("model"), dtype="float32", device="cpu", batch_size=4, identity="tiny")
    with torch.no_grad():
        for name, weight in found.model.named_parameters():
            if "proj" in name or "lm_head" in name:
                weight.mul_(12)
    return found


def subjects(texts: Sequence[list[int]]) -> list[Subject]:
    trials = [Trial(i, i % 2 == 0, tokens) for i, tokens in enumerate(texts)]
    return [Subject(latent, "llm", "none", f"the word {VOCABULARY[latent]}", trials) for latent in (2, 3)]


TEXTS = [[2 + (7 * i + 3 * j) % 40 for j in range(5 + i)] for i in range(6)]


def plainly(engine: TransformersEngine, text: str, continuation: str) -> float:
    """log p(continuation | text) by one forward pass over both."""
    before, after = engine.prompts.of_text(text), engine.prompts.ids(continuation)
    with torch.no_grad():
        logits = engine.model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return float(sum(logits[len(before) - 1 + i, token] for i, token in enumerate(after)))


def values(
    study: Study, engine: TransformersEngine, texts: Sequence[list[int]]
) -> dict[tuple[int, tuple[int, ...]], float]:
    asked = subjects(texts)
    Surprisal(study).ask(asked, engine, lambda count: None)
    return {
        (subject.latent, tuple(texts[row["example"]])): row["probability"] for subject in asked for row in subject.rows
    }


def test_values_are_those_of_plain_forward_passes(study: Study, engine: TransformersEngine) -> None:
    found = values(study, engine, TEXTS)
    method = Surprisal(study)
    assert len(found) == 12
    for (latent, tokens), value in found.items():
        text = method.rendering.text(tokens)
        related = plainly(engine, SURPRISAL.format(explanation=f"the word {VOCABULARY[latent]}"), text)
        unrelated = plainly(engine, SURPRISAL.format(explanation=UNRELATED), text)
        assert value == pytest.approx(related - unrelated, abs=1e-4)
    # Control: the explanation does decide it.
    assert len({round(value, 2) for value in found.values()}) > 8


def test_the_order_of_texts_does_not_matter(study: Study, engine: TransformersEngine) -> None:
    forwards, backwards = values(study, engine, TEXTS), values(study, engine, TEXTS[::-1])
    assert forwards == pytest.approx(backwards, abs=1e-6)
    # Control: a text that stands behind another one has another probability.
    before = SURPRISAL.format(explanation=UNRELATED)
    one, two = Surprisal(study).rendering.texts(TEXTS[:2])
    assert plainly(engine, before, two) != pytest.approx(plainly(engine, f"{before}{one} ", two), abs=1e-3)


def test_the_unrelated_baseline_is_asked_once_of_each_window(study: Study, tmp_path: Path) -> None:
    oracle = OracleEngine()
    own = study.model_copy(update={"storage": str(tmp_path)})
    trials = made(own, oracle).read("trials")
    examples = make_all(own, OracleModels())["examples"].read("examples").filter(purpose="test")
    # As many tokens stand in the table as the engine was asked for.
    asked = [prompt for prompt in oracle.prompts if prompt.startswith(SURPRISAL.partition("{")[0])]
    assert trials["prompt_tokens"].sum() == sum(map(len, asked))
    unrelated = [prompt for prompt in oracle.prompts if UNRELATED in prompt]
    assert len(unrelated) == examples["tokens"].n_unique() < len(trials) / 2
    assert (trials["probability"] - (trials["log_likelihood"] - trials["unrelated_log_likelihood"])).abs().max() < 1e-9


def made(study: Study, oracle: OracleEngine) -> Partition:
    return make_all(study, OracleModels(oracle))["scores/surprisal"]


class Refusing(OracleEngine):
    """Gives every text that holds a certain word no probability."""

    def overlap(self, text: str, continuation: str) -> float:
        return -float("inf") if VOCABULARY[5] in continuation else super().overlap(text, continuation)


def test_texts_without_a_probability_are_failed_rows(study: Study, tmp_path: Path) -> None:
    partition = made(study.model_copy(update={"storage": str(tmp_path)}), Refusing())
    trials, scores = partition.read("trials"), partition.read("scores")
    failed = trials.filter(status="failed")
    assert 0 < len(failed) < len(trials)
    assert set(failed["reason"]) == {"the engine gave the text no probability"}
    assert failed["probability"].null_count() == len(failed)
    assert scores.filter(statistic="auroc")["n_failed"].sum() == len(failed)
    others = scores.filter(pl.col("status") == "ok", control="none", statistic="auroc")
    assert others["value"].min() == pytest.approx(1.0)


def test_what_a_budget_left_out_is_told_as_such() -> None:
    pair = [LikelihoodRequest("a", "b"), LikelihoodRequest("c", "b")]
    replies = [Likelihood(-1.0, 1, Usage(1, 0, 0)), Likelihood(-float("inf"), 0, Usage(0, 0, 0), NOT_ASKED)]
    assert outcome(OracleEngine(), pair, replies)["status"] == "not_asked"
    assert outcome(OracleEngine(), pair, replies[:1] * 2)["status"] == "ok"
