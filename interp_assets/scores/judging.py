"""A language model answers trials: one a prompt by the probability of Yes, or several a prompt as a list of digits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import numpy as np

from interp_assets.examples.draws import SHUFFLE, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.scores.trials import Subject, Trial
from interp_assets.scores.wording import Wording
from interp_assets.settings import JudgeScorer
from resources.language_models.logged import request_key
from resources.language_models.protocol import (
    ChooseRequest,
    GenerateRequest,
    LanguageModel,
    Message,
    require,
)

SUBJECTS_PER_CALL = 64
"How many explanations' trials are handed to the engine at once; bounds memory, changes no answer."


def judge(
    subjects: list[Subject],
    wording: Wording,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> None:
    """Ask every trial of every subject; the answers are recorded on the subjects.

    Args:
        wording: what is asked.
    """
    ask = ask_single if settings.protocol == "single" else ask_in_lists
    require(model, "choose" if settings.protocol == "single" else "generate", f"{settings.protocol} protocol")
    for start in range(0, len(subjects), SUBJECTS_PER_CALL):
        part = subjects[start : start + SUBJECTS_PER_CALL]
        for subject in part:
            for trial in subject.trials:
                if trial.left_out:
                    subject.record(trial, status="left_out", reason=trial.left_out)
        ask(part, wording, settings, model, rendering, seed, advance)


def shown(trial: Trial, rendering: Rendering) -> str:
    text = rendering.text(trial.tokens) if trial.marked is None else rendering.with_marks(trial.tokens, trial.marked)
    return " ".join(text.split())


def asked(subject: Subject) -> list[Trial]:
    return [trial for trial in subject.trials if trial.left_out is None]


def single_requests(
    subjects: list[Subject], wording: Wording, rendering: Rendering
) -> Iterator[tuple[Subject, Trial, ChooseRequest]]:
    for subject in subjects:
        before, after = (part.format(explanation=subject.explanation) for part in wording.question.split("{text}"))
        for trial in asked(subject):
            question = f"{before}{shown(trial, rendering)}{after}"
            messages = (Message("system", wording.instructions), Message("user", question))
            yield subject, trial, ChooseRequest(messages, ("Yes", "No"), subject.group, shared=len(before))


def list_requests(
    subjects: list[Subject], wording: Wording, per_prompt: int, rendering: Rendering, seed: int
) -> Iterator[tuple[Subject, list[Trial], GenerateRequest]]:
    for subject in subjects:
        trials = in_keyed_order(subject, seed)
        for start in range(0, len(trials), per_prompt):
            part = trials[start : start + per_prompt]
            texts = "\n".join(f"Text {i}: {shown(trial, rendering)}" for i, trial in enumerate(part, 1))
            question = wording.list_question.format(explanation=subject.explanation, texts=texts, count=len(part))
            messages = (Message("system", wording.list_instructions), Message("user", question))
            yield subject, part, GenerateRequest(messages, max_tokens=4 * per_prompt)


def requests(
    subjects: list[Subject], wording: Wording, settings: JudgeScorer, rendering: Rendering, seed: int
) -> Iterator[ChooseRequest] | Iterator[GenerateRequest]:
    """What a language model is asked about some subjects, in its order, without asking."""
    if settings.protocol == "single":
        return (request for _, _, request in single_requests(subjects, wording, rendering))
    return (request for _, _, request in list_requests(subjects, wording, settings.per_prompt, rendering, seed))


def ask_single(
    subjects: list[Subject],
    wording: Wording,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> None:
    questions = list(single_requests(subjects, wording, rendering))
    replies = model.choose([request for _, _, request in questions], lambda i, reply: advance(1))
    for (subject, trial, request), reply in zip(questions, replies, strict=True):
        yes, no = reply.log_probabilities
        answer = {
            "prompt_hash": request_key(model.identity, request).hex(),
            "prompt_tokens": reply.usage.prompt_tokens,
            "cached_tokens": reply.usage.cached_tokens,
            "completion_tokens": reply.usage.completion_tokens,
        }
        if math.isfinite(yes) or math.isfinite(no):
            probability = 1 / (1 + math.exp(min(700.0, no - yes)))
            subject.record(trial, probability=probability, predicted=probability > 0.5, status="ok", **answer)
        else:
            reason = reply.refused or "the engine gave neither Yes nor No a probability"
            subject.record(trial, status="failed", reason=reason, **answer)


def ask_in_lists(
    subjects: list[Subject],
    wording: Wording,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> None:
    questions = list(list_requests(subjects, wording, settings.per_prompt, rendering, seed))
    asked_for = [request for _, _, request in questions]
    replies = model.generate(asked_for, lambda i, reply: advance(len(questions[i][1])))
    for (subject, part, request), reply in zip(questions, replies, strict=True):
        digits = read_digits(reply.text, len(part))
        for place, trial in enumerate(part):
            # The prompt's tokens are counted once, on its first trial.
            usage = reply.usage if place == 0 else None
            answer = {
                "prompt_hash": request_key(model.identity, request).hex(),
                "prompt_tokens": usage.prompt_tokens if usage else 0,
                "cached_tokens": usage.cached_tokens if usage else 0,
                "completion_tokens": usage.completion_tokens if usage else 0,
                "raw_reply": reply.text,
            }
            if digits is None:
                reason = reply.refused or f"the reply is not a list of {len(part)} digits"
                subject.record(trial, status="failed", reason=reason, **answer)
            else:
                subject.record(trial, predicted=digits[place], status="ok", **answer)


def in_keyed_order(subject: Subject, seed: int) -> list[Trial]:
    """Right and wrong trials mixed, in an order that only the latent and the seed decide."""
    trials = asked(subject)
    names = np.array([[trial.example, trial.expected] for trial in trials], dtype=np.int64).reshape(-1, 2)
    order = np.argsort(keyed(seed, SHUFFLE, subject.latent, names[:, 0], names[:, 1]), kind="stable")
    return [trials[i] for i in order]


def read_digits(reply: str, count: int) -> list[bool] | None:
    """A list of exactly `count` digits 0 or 1, in brackets or not; None for anything else."""
    found = re.fullmatch(r"\[?\s*([01](?:\s*,\s*[01])*)\s*,?\s*\]?\.?", reply.strip())
    digits = re.findall("[01]", found[1]) if found else []
    return [digit == "1" for digit in digits] if len(digits) == count else None
