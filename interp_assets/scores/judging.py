"""A language model answers trials: one a prompt by the probability of Yes, or several a prompt as a list of 0 and 1."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import numpy as np

from interp_assets.examples.draws import SHUFFLE, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.scores.trials import Subject, Trial, in_parts
from interp_assets.scores.wording import Wording
from interp_assets.settings import JudgeScorer
from resources.language_models.protocol import (
    ChooseRequest,
    Chosen,
    Constraint,
    Generated,
    GenerateRequest,
    LanguageModel,
    Message,
    Usage,
)
from resources.language_models.reply_text import Unusable, json_object
from resources.language_models.structured import choose, generate, json_form

NOTHING = Usage(0, 0, 0)


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
    for part in in_parts(subjects):
        record_left_out(part)
        ask(part, wording, settings, model, rendering, seed, advance)


def record_left_out(subjects: list[Subject]) -> None:
    for subject in subjects:
        for trial in subject.trials:
            if trial.left_out:
                subject.record(trial, status="left_out", reason=trial.left_out)


NAMES_BLANKS = re.compile(r'\\[nrt]|" +" \(')
"Of an explanation: it quotes white space."


def names_blanks(explanation: str) -> bool:
    """Whether it quotes white space; then the texts that it is tested on have theirs written out."""
    return NAMES_BLANKS.search(explanation) is not None


def shown(trial: Trial, rendering: Rendering, explanation: str = "") -> str:
    """A trial's text on one line; white space is written out for an explanation that quotes some."""
    return rendering.line(trial.tokens, trial.marked, blanks=names_blanks(explanation))


def asked(subject: Subject) -> list[Trial]:
    return [trial for trial in subject.trials if trial.left_out is None]


def single_requests(
    subjects: list[Subject], wording: Wording, rendering: Rendering
) -> Iterator[tuple[Subject, Trial, ChooseRequest]]:
    beginning = wording.beginning()
    for subject in subjects:
        before, after = wording.question.split("{text}")
        before = before.format(explanation=subject.explanation)
        for trial in asked(subject):
            text, marked = shown(trial, rendering, subject.explanation), ""
            if trial.marked is not None:
                marked = ", ".join(rendering.marked_stretches(trial.tokens, trial.marked))
            question = before + text + after.format(explanation=subject.explanation, marked=marked)
            messages = (*beginning, Message("user", question))
            yield subject, trial, ChooseRequest(messages, ("Yes", "No"), subject.group, shared=len(before))


def list_requests(
    subjects: list[Subject], wording: Wording, settings: JudgeScorer, rendering: Rendering, seed: int
) -> Iterator[tuple[Subject, list[Trial], GenerateRequest]]:
    per_prompt = settings.list_size
    limit = settings.max_tokens or max_tokens_of(per_prompt)
    for subject in subjects:
        trials = in_keyed_order(subject, seed)
        for start in range(0, len(trials), per_prompt):
            part = trials[start : start + per_prompt]
            lines = [shown(trial, rendering, subject.explanation) for trial in part]
            texts = "\n".join(f"Text {number}: {line}" for number, line in enumerate(lines, 1))
            question = wording.list_question.format(explanation=subject.explanation, texts=texts, count=len(part))
            messages = (Message("system", wording.list_instructions), Message("user", question))
            yield subject, part, GenerateRequest(messages, limit, constraint=list_form(len(part)))


def max_tokens_of(per_prompt: int) -> int:
    """Each answer with its comma and a space, and the object around them."""
    return 16 + 4 * per_prompt


def requests(
    subjects: list[Subject], wording: Wording, settings: JudgeScorer, rendering: Rendering, seed: int
) -> Iterator[ChooseRequest] | Iterator[GenerateRequest]:
    """What a language model is asked about some subjects, in its order, without asking."""
    if settings.protocol == "single":
        return (request for _, _, request in single_requests(subjects, wording, rendering))
    return (request for _, _, request in list_requests(subjects, wording, settings, rendering, seed))


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
    asked_for = [request for _, _, request in questions]
    answers = choose(model, asked_for, lambda _, reply: probability_of_yes(reply), lambda _: advance(1))
    for (subject, trial, _), answer in zip(questions, answers, strict=True):
        if answer.value is None:
            subject.record(trial, **answer.record())
        else:
            subject.record(trial, probability=answer.value, predicted=answer.value > 0.5, **answer.record())


def probability_of_yes(reply: Chosen) -> float:
    yes, no = reply.log_probabilities
    if not (math.isfinite(yes) or math.isfinite(no)):
        raise Unusable("the engine gave neither Yes nor No a probability")
    return 1 / (1 + math.exp(min(700.0, no - yes)))


def ask_in_lists(
    subjects: list[Subject],
    wording: Wording,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> None:
    questions = list(list_requests(subjects, wording, settings, rendering, seed))
    answers = generate(
        model,
        [request for _, _, request in questions],
        lambda place, reply: read_list(reply, len(questions[place][1])),
        lambda place: advance(len(questions[place][1])),
        f"scorers.{wording.method}.max_tokens",
    )
    for (subject, part, _), answer in zip(questions, answers, strict=True):
        for place, trial in enumerate(part):
            # The prompt's tokens are counted once, on its first trial.
            record = answer.record() if place == 0 else answer._replace(usage=NOTHING).record()
            record["raw_reply"] = answer.raw_reply
            if answer.value is None:
                subject.record(trial, **record)
            else:
                subject.record(trial, predicted=answer.value[place], **record)


def list_form(count: int) -> Constraint:
    """So many answers, each 0 or 1."""
    numbers = {"type": "array", "items": {"type": "integer", "enum": [0, 1]}, "minItems": count, "maxItems": count}
    return json_form({"answers": numbers})


def read_list(reply: Generated, count: int) -> list[bool]:
    """
    Raises:
        Unusable: the reply does not hold exactly so many answers, each 0 or 1.
    """
    answers = json_object(reply, "answers").get("answers")
    if not isinstance(answers, list) or len(answers) != count or not all(each in (0, 1) for each in answers):
        raise Unusable(f"`answers` is not a list of {count} numbers, each 0 or 1")
    return [bool(each) for each in answers]


def in_keyed_order(subject: Subject, seed: int) -> list[Trial]:
    """Right and wrong trials mixed, in an order that only the latent and the seed decide."""
    trials = asked(subject)
    names = np.array([[trial.example, trial.expected] for trial in trials], dtype=np.int64).reshape(-1, 2)
    order = np.argsort(keyed(seed, SHUFFLE, subject.latent, names[:, 0], names[:, 1]), kind="stable")
    return [trials[i] for i in order]
