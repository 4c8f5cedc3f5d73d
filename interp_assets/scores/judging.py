"""A language model answers trials: one a prompt by the probability of Yes, or several a prompt as a list of digits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from types import ModuleType

import numpy as np

from interp_assets.examples.draws import SHUFFLE, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.scores.trials import Subject, Trial
from interp_assets.settings import JudgeScorer
from resources.language_models.logged import request_key
from resources.language_models.protocol import (
    ChooseRequest,
    Chosen,
    Generated,
    GenerateRequest,
    LanguageModel,
    Message,
    require,
)

SUBJECTS_PER_CALL = 64
"How many explanations' trials are handed to the engine at once; bounds memory, changes no answer."


def judge(
    subjects: list[Subject],
    method: ModuleType,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> Counter[str]:
    """Ask every trial of every subject; the answers are recorded on the subjects.

    Args:
        method: `detection` or `fuzzing`, for its texts.

    Returns:
        `calls_made` and `replies_reused`.
    """
    counts = Counter(calls_made=0, replies_reused=0)
    ask = ask_single if settings.protocol == "single" else ask_in_lists
    require(model, "choose" if settings.protocol == "single" else "generate", f"{settings.protocol} protocol")
    for start in range(0, len(subjects), SUBJECTS_PER_CALL):
        part = subjects[start : start + SUBJECTS_PER_CALL]
        for subject in part:
            for trial in subject.trials:
                if trial.left_out:
                    subject.record(trial, status="left_out", reason=trial.left_out)
        replies = ask(part, method, settings, model, rendering, seed, advance)
        counts.update("replies_reused" if reply.usage.reused else "calls_made" for reply in replies)
    return counts


def shown(trial: Trial, rendering: Rendering) -> str:
    text = rendering.text(trial.tokens) if trial.marked is None else rendering.with_marks(trial.tokens, trial.marked)
    return " ".join(text.split())


def asked(subject: Subject) -> list[Trial]:
    return [trial for trial in subject.trials if trial.left_out is None]


def ask_single(
    subjects: list[Subject],
    method: ModuleType,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> list[Chosen]:
    pairs = [(subject, trial) for subject in subjects for trial in asked(subject)]
    requests = []
    for subject, trial in pairs:
        before, after = (part.format(explanation=subject.explanation) for part in method.QUESTION.split("{text}"))
        question = f"{before}{shown(trial, rendering)}{after}"
        messages = (Message("system", method.INSTRUCTIONS), Message("user", question))
        requests.append(ChooseRequest(messages, ("Yes", "No"), subject.group, shared=len(before)))
    replies = model.choose(requests, lambda i, reply: advance(1))
    for (subject, trial), request, reply in zip(pairs, requests, replies, strict=True):
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
            subject.record(trial, status="failed", reason="the engine gave neither Yes nor No a probability", **answer)
    return replies


def ask_in_lists(
    subjects: list[Subject],
    method: ModuleType,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> list[Generated]:
    batches: list[tuple[Subject, list[Trial]]] = []
    requests = []
    for subject in subjects:
        trials = in_keyed_order(subject, seed)
        for start in range(0, len(trials), settings.per_prompt):
            part = trials[start : start + settings.per_prompt]
            texts = "\n".join(f"Text {i}: {shown(trial, rendering)}" for i, trial in enumerate(part, 1))
            question = method.LIST_QUESTION.format(explanation=subject.explanation, texts=texts, count=len(part))
            messages = (Message("system", method.LIST_INSTRUCTIONS), Message("user", question))
            batches.append((subject, part))
            requests.append(GenerateRequest(messages, max_tokens=4 * settings.per_prompt))
    replies = model.generate(requests, lambda i, reply: advance(len(batches[i][1])))
    for (subject, part), request, reply in zip(batches, requests, replies, strict=True):
        digits, key = read_digits(reply.text, len(part)), request_key(model.identity, request)
        for place, trial in enumerate(part):
            # The prompt's tokens are counted once, on its first trial.
            usage = reply.usage if place == 0 else None
            answer = {
                "prompt_hash": key.hex(),
                "prompt_tokens": usage.prompt_tokens if usage else 0,
                "cached_tokens": usage.cached_tokens if usage else 0,
                "completion_tokens": usage.completion_tokens if usage else 0,
                "raw_reply": reply.text,
            }
            if digits is None:
                subject.record(
                    trial, status="failed", reason=f"the reply is not a list of {len(part)} digits", **answer
                )
            else:
                subject.record(trial, predicted=digits[place], status="ok", **answer)
    return replies


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
