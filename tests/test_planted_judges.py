"""Judges are examined on concepts whose places are known: the concepts, what is reckoned of answers, `interp doctor --judge`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from sklearn import metrics

from interp_assets import cli
from interp_assets.doctor_judge import TEXTS, examine_judge, planted, verdict_on
from interp_assets.freshness import Freshness
from interp_assets.planted.concepts import CLOSE, OPEN, Concept, Text, concepts, examples_of, most_texts, rendering
from interp_assets.planted.exam import graded, subjects
from interp_assets.scores import fuzzing
from interp_assets.scores.judged import Judged
from interp_assets.scores.methods import methods_of
from interp_assets.scores.trials import Subject, whole_texts
from interp_assets.study import Study, load_study
from resources.language_models.protocol import ChooseRequest, Chosen, Generated, GenerateRequest, Usage, silent
from tests.changed_study import changed
from tests.oracle import OracleEngine, OracleModels

FORMS = {5: r"\w+ness\b", 6: r"\?", 7: r"[$£€]"}
"Of concepts that are told by a form: what no text of another concept may hold."


def intruders(known: Sequence[Concept]) -> list[str]:
    """Texts of one concept that hold what carries another."""
    found = []
    for number, concept in enumerate(known):
        carried = {stretch.strip().lower() for text in concept.texts for stretch in stretches(text)}
        signs = [rf"\b{re.escape(each)}\b" for each in carried if each[0].isalpha()] + [FORMS.get(number, r"(?!)")]
        for other, strange in enumerate(known):
            for text in map("".join, (text.tokens for text in strange.texts if other != number)):
                if any(re.search(sign, text.lower()) for sign in signs):
                    found.append(f"{concept.explanation}: {text}")
    return found


def stretches(text: Text) -> list[str]:
    """The marked stretches."""
    pairs = zip(text.tokens, text.carries, strict=True)
    return ["".join(t for t, _ in run) for marked, run in groupby(pairs, key=lambda pair: pair[1]) if marked]


def test_no_text_carries_the_concept_of_another() -> None:
    assert len(concepts()) == 12
    assert most_texts() == 10
    assert all(any(text.carries) for concept in concepts() for text in concept.texts)
    assert intruders(concepts()) == []
    # Control: one concept's text among another's.
    mixed = concepts()[1]._replace(texts=(*concepts()[1].texts, concepts()[6].texts[0]))
    assert len(intruders([concepts()[0], mixed, *concepts()[2:]])) == 1


@pytest.mark.parametrize("texts", [TEXTS, 10])
def test_each_text_is_once_a_positive_and_once_a_negative(texts: int) -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    for number in range(len(concepts())):
        examples = examples_of(number, texts)
        assert len({len(each.tokens) for each in examples}) == 1
        seen.update((rendering().line(each.tokens), each.activating) for each in examples)
        for each in examples:
            assert any(each.activations) == each.activating
    assert set(seen.values()) == {1}
    assert {text for text, kind in seen if kind} == {text for text, kind in seen if not kind}


def test_marks_are_shown_where_they_were_written() -> None:
    for number, concept in enumerate(concepts()):
        for each, text in zip(examples_of(number, most_texts()), concept.texts, strict=False):
            shown = rendering().line(each.tokens, [value > 0 for value in each.activations])
            assert shown.replace(OPEN, "").replace(CLOSE, "") == "".join(text.tokens)
            marked = " ".join(re.findall(f"{OPEN}(.+?){CLOSE}", shown))
            assert marked == "".join(t for t, c in zip(text.tokens, text.carries, strict=True) if c).strip()


TRUE = {(concept.explanation, "".join(text.tokens)) for concept in concepts() for text in concept.texts}
"What a detection judge that knows everything says Yes to."


class KnowingJudge(OracleEngine):
    """Knows which text carries which concept; errs on a share of questions, and leans to Yes by some nats."""

    def __init__(self, errs: float = 0.0, lean: float = 0.0) -> None:
        super().__init__()
        self.errs, self.lean = errs, lean

    def right(self, explanation: str, text: str) -> bool:
        plain = text.replace(OPEN, "").replace(CLOSE, "")
        known = (explanation, plain) in TRUE
        if OPEN in text:
            (concept,) = [each for each in concepts() if each.explanation == explanation]
            (own,) = [each for each in concept.texts if "".join(each.tokens) == plain]
            carried = "".join(t for t, c in zip(own.tokens, own.carries, strict=True) if c).split()
            known = " ".join(re.findall(f"{OPEN}(.+?){CLOSE}", text)).split() == carried
        return known != (crc32(f"{explanation} {text}".encode()) % 1000 < 1000 * self.errs)

    def choose(self, requests: Sequence[ChooseRequest], arrived: Any = silent) -> list[Chosen]:
        replies = []
        for i, request in enumerate(requests):
            asked = request.messages[-1].content
            self.prompts.append(asked)
            explanation, text = re.findall(r"^(?:Description|Text): (.*)$", asked, flags=re.MULTILINE)
            yes = (1.0 if self.right(explanation, text) else -1.0) + self.lean
            replies.append(Chosen((float(-np.logaddexp(0, -yes)), float(-np.logaddexp(0, yes))), Usage(100, 80, 0)))
            arrived(i, replies[i])
        return replies

    def generate(self, requests: Sequence[GenerateRequest], arrived: Any = silent) -> list[Generated]:
        replies = []
        for i, request in enumerate(requests):
            asked = request.messages[-1].content
            self.prompts.append(asked)
            (explanation,) = re.findall(r"^Description: (.*)$", asked, flags=re.MULTILINE)
            texts = re.findall(r"^Text \d+: (.*)$", asked, flags=re.MULTILINE)
            answers = [int(self.right(explanation, text)) for text in texts]
            replies.append(Generated(f'{{"answers": {answers}}}', True, Usage(100, 80, 10)))
            arrived(i, replies[i])
        return replies


def recorded(trials: Callable[..., Any], said: Callable[[int, bool], float]) -> list[Subject]:
    """Planted subjects with answers that a rule gives."""
    asked = subjects(trials, 10)
    for subject in asked:
        for place, trial in enumerate(subject.trials):
            p = said(subject.latent * 100 + place, trial.expected)
            subject.record(trial, probability=p, predicted=p > 0.5, status="ok")
    return asked


def test_exams_equal_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    noise = draw.uniform(-0.4, 0.4, 2000)
    asked = recorded(lambda _, e: whole_texts(e), lambda i, y: float(np.clip(0.5 + 0.1 * y + noise[i], 0, 1)))
    exam = graded(asked)
    rows = [row for subject in asked for row in subject.rows]
    p, y = np.array([row["probability"] for row in rows]), np.array([row["expected"] for row in rows])
    of_concept = np.array([row["latent"] for row in rows])
    areas = [metrics.roc_auc_score(y[of_concept == number], p[of_concept == number]) for number in range(12)]
    assert exam.per_concept == pytest.approx(areas)
    assert exam.auroc.value == pytest.approx(np.mean(areas))
    assert exam.auroc.low < np.mean(areas) < exam.auroc.high
    assert exam.brier == pytest.approx(metrics.brier_score_loss(y, p))
    assert exam.share_yes == pytest.approx((p > 0.5).mean())
    bins = [(p >= low) & (p < low + 0.2) for low in (0, 0.2, 0.4, 0.6)] + [p >= 0.8]
    gaps = [each.sum() * abs(p[each].mean() - y[each].mean()) for each in bins if each.any()]
    assert exam.calibration_error == pytest.approx(sum(gaps) / len(p))
    assert sum(each.trials for each in exam.bins) == exam.trials == 240


def test_words_of_a_verdict_follow_the_judge() -> None:
    def verdict(said: Callable[[int, bool], float]) -> tuple[bool, str]:
        return verdict_on(graded(recorded(lambda _, e: whole_texts(e), said)))

    draw = np.random.default_rng(2).normal(size=2000)
    assert verdict(lambda i, y: 0.9 if y else 0.1) == (False, "good: scores of single latents mean something")
    bad, said = verdict(lambda i, y: 0.95 if y else 0.6)
    assert not bad and said.startswith("good") and "leans to Yes: read AUROC" in said
    bad, said = verdict(lambda i, y: 1 / (1 + np.exp(-draw[i])))
    assert bad and said.startswith("no judge: not shown to be better than chance")
    assert verdict(lambda i, y: 1 / (1 + np.exp(-draw[i] - 1.2 * y)))[1].startswith("usable")


@pytest.fixture
def study(tiny: Study, tmp_path: Path) -> Study:
    return tiny.model_copy(update={"storage": str(tmp_path)})


def method_of(study: Study, name: str = "detection", **settings: Any) -> Judged:
    method = methods_of(study)[name]
    assert isinstance(method, Judged)
    return type(method)(study, method.settings.model_copy(update=settings))


def examined(study: Study, judge: OracleEngine, method: Judged) -> bool:
    return examine_judge(Freshness(study), OracleModels(judge), planted(method))


@pytest.mark.parametrize("name", ["detection", "fuzzing"])
def test_a_judge_that_knows_is_good_and_a_coin_is_none(
    study: Study, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert examined(study, KnowingJudge(), method_of(study, name))
    said = capsys.readouterr().out
    assert re.search(rf"judge oracle +{name}: 12 planted concepts, \d+ calls; [\d,]+ prompt tokens for the rest", said)
    assert f"{name}: AUROC 1.00 (95 % interval 1.00 to 1.00" in said
    assert f"{name}: good: " in said
    # Control.
    coin = study.model_copy(update={"storage": f"{study.storage}/coin"})
    assert not examined(coin, KnowingJudge(errs=0.5), method_of(coin, name))
    assert f"{name}: no judge: " in capsys.readouterr().out


def test_what_was_asked_is_not_asked_again(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    judge = KnowingJudge(lean=2.0)
    assert examined(study, judge, method_of(study))
    assert len(judge.prompts) == 12 * 2 * TEXTS
    first = capsys.readouterr().out
    assert "s a trial" in first
    assert "leans to Yes" in first
    assert examined(study, judge, method_of(study))
    assert len(judge.prompts) == 12 * 2 * TEXTS
    again = capsys.readouterr().out
    assert "120 calls, 120 of them answered in the log already\n" in again
    assert "s a trial" not in again


def test_lists_are_examined_as_lists(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    judge = KnowingJudge(errs=0.2)
    assert examined(study, judge, method_of(study, protocol="list", per_prompt=5))
    assert len(judge.prompts) == 12 * 2 * TEXTS / 5
    assert all("Text 5: " in prompt for prompt in judge.prompts)
    said = capsys.readouterr().out
    (auroc,) = re.findall(r"AUROC (\d\.\d\d)", said)
    assert f"balanced accuracy {auroc}" in said
    assert "calibration" not in said


def test_every_trial_is_asked_of_a_study_that_would_stop_early(study: Study) -> None:
    judge, file = KnowingJudge(), changed(study.file, {"scorers.detection.sequential": {}}, "early.yaml")
    early = load_study(file).model_copy(update={"storage": study.storage})
    assert examined(early, judge, method_of(early))
    assert len(judge.prompts) == 12 * 2 * TEXTS


def test_wrong_marks_are_dealt_among_the_texts_of_a_concept() -> None:
    asked = subjects(lambda number, examples: fuzzing.trials(number, examples, TEXTS, 0.3, 0), TEXTS)
    left_out = [trial for subject in asked for trial in subject.trials if trial.left_out]
    assert len(left_out) < 8
    for subject in asked:
        kinds = Counter(trial.expected for trial in subject.trials if trial.left_out is None)
        assert kinds[True] == kinds[False] >= 3


def test_the_command_says_what_to_do(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--judge"]) == 2
    assert "name one: interp doctor STUDY --judge" in capsys.readouterr().err
    none = changed(study.file, {"scorers": {"generation": {"engine": "oracle"}}}, "none.yaml")
    assert cli.main(["doctor", str(none), "--judge"]) == 0
    assert "neither detection nor fuzzing" in capsys.readouterr().out


def test_the_price_is_told_before_anything_is_asked(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    price = {"input": 1000.0, "output": 1000.0}
    file = changed(study.file, {"engines.oracle.price": price, "budget": {"tokens": 0}}, "priced.yaml")
    priced = load_study(file).model_copy(update={"storage": study.storage})
    judge = KnowingJudge()
    assert not examined(priced, judge, method_of(priced))
    assert not judge.prompts, "the budget holds"
    said = capsys.readouterr().out
    ((tokens, cost),) = re.findall(
        r"; ([\d,]+) prompt tokens for the rest, at most ([\d.,]+) at the study's prices", said
    )
    assert float(cost.replace(",", "")) == pytest.approx(int(tokens.replace(",", "")) / 1000, abs=0.01)
    assert "no judge: it answered nothing" in said
