"""Surprisal: how much more probable a text is behind the explanation than behind one that says nothing.

value(x) = log p(x | explanation) - log p(x | UNRELATED), in nats, of a model that continues plain text. The second is
asked once of each distinct text, whatever it is compared with. Each text is continued from the prompt alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from interp_assets.scores.judging import asked, record_left_out, shown
from interp_assets.scores.method import AskingMethod, Most
from interp_assets.scores.trials import Subject, TestExample, Trial, in_parts, whole_texts
from interp_assets.scores.wording_of_others import SURPRISAL, UNRELATED
from interp_assets.settings import SurprisalScorer
from interp_assets.tables import SURPRISAL_TRIALS
from resources.language_models.logged import request_key
from resources.language_models.protocol import NOT_ASKED, LanguageModel, Likelihood, LikelihoodRequest

BLANK = "the text is nothing but white space"


class Surprisal(AskingMethod[SurprisalScorer]):
    name = "surprisal"
    description = "How much an explanation raises the probability of a latent's examples. For base models."
    code_version = "4"
    schema = SURPRISAL_TRIALS
    verbs = ("log_likelihood",)

    def prompts(self) -> dict[str, str]:
        return {"text": SURPRISAL, "unrelated": UNRELATED}

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        found = []
        for trial in whole_texts(examples):
            blank = None if shown(trial, self.rendering) else BLANK
            found.append(Trial(trial.example, trial.expected, trial.tokens, left_out=blank))
        return found

    def requests(self, subjects: Sequence[Subject]) -> Iterator[LikelihoodRequest]:
        return (request for _, _, *pair in self.pairs(subjects) for request in pair)

    def pairs(
        self, subjects: Sequence[Subject]
    ) -> Iterator[tuple[Subject, Trial, LikelihoodRequest, LikelihoodRequest]]:
        """Each trial with its text behind the explanation, and behind none."""
        unrelated = SURPRISAL.format(explanation=UNRELATED)
        for subject in subjects:
            before = SURPRISAL.format(explanation=subject.explanation)
            for trial in asked(subject):
                text = shown(trial, self.rendering, subject.explanation)
                yield (
                    subject,
                    trial,
                    LikelihoodRequest(before, text, subject.group, len(before)),
                    LikelihoodRequest(unrelated, text, "unrelated", len(unrelated)),
                )

    def ask(self, subjects: list[Subject], model: LanguageModel, advance: Callable[[int], None]) -> None:
        told: set[str] = set()
        for part in in_parts(subjects):
            record_left_out(part)
            pairs = list(self.pairs(part))
            requests = [request for _, _, *pair in pairs for request in pair]
            replies = model.log_likelihood(requests, lambda place, _: advance(place % 2))
            for place, (subject, trial, *pair) in enumerate(pairs):
                record = outcome(model, pair, replies[2 * place : 2 * place + 2])
                # What a call took is told once, on the first trial that shares it.
                calls = zip(record["prompt_hash"].split(" "), replies[2 * place : 2 * place + 2], strict=True)
                paid = {key: reply.usage for key, reply in calls if key not in told}
                told |= paid.keys()
                for name in ("prompt_tokens", "cached_tokens"):
                    record[name] = sum(getattr(usage, name) for usage in paid.values())
                subject.record(trial, **record)

    def most(self) -> list[Most]:
        return [Most(2 * (self.settings.activating + self.settings.non_activating), 1, 0)]


def outcome(model: LanguageModel, pair: Sequence[LikelihoodRequest], replies: Sequence[Likelihood]) -> dict[str, Any]:
    """The columns of a trial but for the tokens of its prompts, from the replies behind the explanation and behind none."""
    related, unrelated = replies
    value = related.log_probability - unrelated.log_probability
    reason = related.refused or unrelated.refused
    if reason is None and not math.isfinite(value):
        reason = "the engine gave the text no probability"
    found: dict[str, Any] = {
        "status": "ok" if reason is None else "not_asked" if reason == NOT_ASKED else "failed",
        "reason": reason,
        "prompt_hash": " ".join(request_key(model.identity, request).hex() for request in pair),
        "completion_tokens": 0,
    }
    if reason is None:
        found |= {
            "probability": value,
            "log_likelihood": related.log_probability,
            "unrelated_log_likelihood": unrelated.log_probability,
        }
    return found
