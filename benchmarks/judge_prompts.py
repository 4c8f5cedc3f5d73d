"""How prompts are laid out for a judge and an explainer: worked examples as turns, or inside the system message.

    python -m benchmarks.judge_prompts [--quick] --path FOLDER | --base-url URL --model NAME

Planted concepts, whose places are known (`interp_assets/planted`), are judged under each layout by detection and by
fuzzing, and explained from marked texts; for a concept `explained` prints what was said, for a reader to judge. Figures are
means over concepts with their 95 % intervals; differences are paired by concept. Where nothing is named, the demo's SmolLM2.
Beside judges stands MiniLM, which compares the vectors of explanation and text and is asked nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.measuring import show
from interp_assets.explanations.prompts import form_of, prompt, read_reply
from interp_assets.planted.concepts import concepts, examples_of, most_texts, rendering
from interp_assets.planted.exam import Exam, auroc, graded, mean_of, subjects
from interp_assets.scores import fuzzing
from interp_assets.scores.judging import judge
from interp_assets.scores.trials import TestExample, Trial, whole_texts
from interp_assets.scores.wording import wording_of
from interp_assets.settings import JudgeScorer, Layout, LlmExplainer
from interp_assets.study import PROJECT
from resources.language_models.logged import LoggedEngine
from resources.language_models.protocol import GenerateRequest, LanguageModel
from resources.language_models.structured import generate
from resources.reply_log import ReplyLog

SEED, QUICK_TEXTS = 0, 2
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
METHODS = ("detection", "fuzzing")


def main() -> None:
    asked = options()
    model = engine(asked)
    show("concepts", len(concepts()))
    show("texts_of_a_kind_per_concept", asked.texts)
    for method in asked.methods:
        exams = {layout: judged(method, layout, model, asked.texts) for layout in asked.layouts}
        if len(exams) > 1:
            apart = mean_of(exams["turns"].per_concept - exams["system"].per_concept)
            for name, value in apart._asdict().items():
                show(f"{method}_turns_minus_system_auroc_{name}", value)
    if "detection" in asked.methods:
        embedded(asked.texts)
    for layout in asked.layouts if asked.explain else ():
        explained(layout, model, asked.texts)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--path", type=Path, default=PROJECT / "demo" / "weights" / "SmolLM2-135M-Instruct")
    parser.add_argument("--base-url")
    parser.add_argument("--model", default="judge")
    parser.add_argument("--texts", type=int, help=f"of each kind and concept, at most {most_texts()}")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--explain", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log", type=Path, help="keeps replies, so that a run that ended early goes on")
    asked = parser.parse_args()
    asked.texts = asked.texts or (QUICK_TEXTS if asked.quick else most_texts())
    asked.explain = asked.explain and not asked.quick
    return asked


def engine(asked: argparse.Namespace) -> LanguageModel:
    if asked.base_url:
        from resources.language_models.openai_engine import OpenAIEngine

        model: Any = OpenAIEngine(asked.base_url, asked.model, concurrency=1)
    else:
        from resources.language_models.transformers_engine import TransformersEngine

        model = TransformersEngine(asked.path, dtype="float32", device="cpu", identity=str(asked.path))
    if asked.log is None:
        return model
    return LoggedEngine(lambda: model, model.identity, ReplyLog(asked.log), "benchmark")


def judged(method: str, layout: Layout, model: LanguageModel, texts: int) -> Exam:
    settings = JudgeScorer(engine="judge", activating=texts, non_activating=texts, layout=layout)

    def trials_of(number: int, examples: list[TestExample]) -> list[Trial]:
        if method == "detection":
            return whole_texts(examples)
        return fuzzing.trials(number, examples, texts, settings.mark_threshold, SEED)

    asked = subjects(trials_of, texts)
    began = time.monotonic()
    judge(asked, wording_of(method, settings), settings, model, rendering(), SEED, lambda count: None)
    took, exam, name = time.monotonic() - began, graded(asked), f"{method}_{layout}"
    show(f"{name}_trials", exam.trials)
    show(f"{name}_failed_trials", exam.failed)
    for part, value in exam.auroc._asdict().items():
        show(f"{name}_auroc_{part}", value)
    show(f"{name}_share_yes", exam.share_yes)
    show(f"{name}_balanced_accuracy", exam.balanced_accuracy)
    show(f"{name}_brier_score", exam.brier)
    show(f"{name}_calibration_error", exam.calibration_error)
    prompts = [row for each in asked for row in each.rows if row["status"] == "ok"]
    show(f"{name}_prompt_tokens_mean", float(np.mean([row["prompt_tokens"] for row in prompts])))
    show(
        f"{name}_computed_tokens_mean", float(np.mean([row["prompt_tokens"] - row["cached_tokens"] for row in prompts]))
    )
    show(f"{name}_seconds_per_trial", took / exam.trials)
    return exam


def embedded(texts: int) -> None:
    """The same texts by the cosine of sentence vectors, as the score `embedding` has it."""
    from resources.text_embedder import TextEmbedder

    model, vectors = TextEmbedder(PROJECT / "demo" / "weights" / "all-MiniLM-L6-v2", device="cpu"), []
    asked, began = subjects(lambda _, examples: whole_texts(examples), texts), time.monotonic()
    for subject in asked:
        query = model.embed([subject.explanation], role="query")[0]
        cosines = model.embed(rendering().texts([trial.tokens for trial in subject.trials])) @ query
        expected = np.array([trial.expected for trial in subject.trials])
        vectors.append(auroc(cosines[expected], cosines[~expected]))
    for part, value in mean_of(np.array(vectors), (0, 1))._asdict().items():
        show(f"minilm_cosine_auroc_{part}", value)
    show("minilm_cosine_seconds_per_trial", (time.monotonic() - began) / sum(len(each.trials) for each in asked))


def explained(layout: Layout, model: LanguageModel, texts: int) -> None:
    settings = LlmExplainer(engine="judge", layout=layout, max_tokens=60)
    requests = []
    for number in range(len(concepts())):
        windows = [(each.tokens, each.activations) for each in examples_of(number, texts) if each.activating]
        messages = prompt(windows, None, settings, rendering())
        requests.append(GenerateRequest(messages, settings.max_tokens, constraint=form_of(settings)))
    began = time.monotonic()
    answers = generate(model, requests, lambda _, reply: read_reply(reply), lambda _: None, "max_tokens")
    for concept, answer in zip(concepts(), answers, strict=True):
        print(f"explained_{layout}: {concept.explanation!r} as {answer.value or answer.reason!r}", flush=True)
    show(f"explained_{layout}_distinct_share", len({answer.value for answer in answers}) / len(answers))
    show(f"explained_{layout}_seconds_per_concept", (time.monotonic() - began) / len(answers))


if __name__ == "__main__":
    main()
