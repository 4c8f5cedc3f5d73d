"""Intruder detection (arXiv 2507.08473): is there anything in a latent's examples that a reader could explain?

Some windows on which the latent fires are shown with one on which it is silent, and a language model says which that is.
No explanation is read, so the score bounds from the side what explanations of these examples can tell. Chance is
1 / number of windows, which stands beside it as the statistic `chance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from interp_assets.examples.draws import INTRUDE, INTRUDER_PLACE, keyed
from interp_assets.examples.rendering import SIGNS, is_blank
from interp_assets.scores.judging import asked, record_left_out
from interp_assets.scores.method import EXAMPLES, AskingMethod, Most
from interp_assets.scores.statistics import score_table, share
from interp_assets.scores.trials import KEYS, Key, Subject, Tested, TestExample, Trial, in_parts
from interp_assets.scores.wording_of_others import INTRUDER, INTRUDER_QUESTION
from interp_assets.settings import NO_EXPLAINER, IntruderScorer
from interp_assets.tables import INTRUDER_TRIALS
from resources.language_models.protocol import ChooseRequest, Chosen, LanguageModel, Message
from resources.language_models.reply_text import Unusable
from resources.language_models.structured import choose

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from interp_assets.scores.pending import Pending


@dataclass(frozen=True)
class OddOneOut(Trial):
    """Windows of which one is the intruder; `tokens` are the intruder's."""

    windows: tuple[list[int], ...] = ()
    place: int = 0
    "Of the intruder, from 0."
    blanks: bool = False
    "White space is written out, as what the latent fires on may be some."


class Intruder(AskingMethod[IntruderScorer]):
    name = "intruder"
    description = "Whether an LLM finds, among a latent's examples, the one on which it is silent. No explanation."
    code_version = "3"
    reads = (EXAMPLES,)
    schema = INTRUDER_TRIALS
    verbs = ("choose",)

    def prompts(self) -> dict[str, str]:
        return {"instructions": INTRUDER, "question": INTRUDER_QUESTION}

    def tested(self, inputs: Inputs, examples: pl.DataFrame) -> dict[Key, Tested]:
        latents = examples["latent"].unique(maintain_order=True)
        return {(latent, NO_EXPLAINER, "none"): Tested() for latent in latents}

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        """Each activating window is shown once and each intruder once; places and company are drawn by key."""
        kinds = []
        for kind in (True, False):
            mine = [each for each in examples if each.activating == kind]
            numbers = np.array([each.example for each in mine], dtype=np.int64)
            order = np.argsort(keyed(self.seed, INTRUDE, latent, int(kind), numbers), kind="stable")
            kinds.append([mine[i] for i in order])
        activating, silent = kinds
        shown = self.settings.shown
        count = min(len(activating) // shown, len(silent))
        if not count:
            few = f"{len(activating)} activating and {len(silent)} other test examples; one prompt shows {shown} and 1"
            return [Trial(0, True, [], left_out=few)]
        places = keyed(self.seed, INTRUDER_PLACE, latent, np.arange(count)) % np.uint64(shown + 1)
        blanks = any(self.peaks_on_blank(each) for each in activating)
        found: list[Trial] = []
        for number, (place, intruder) in enumerate(zip(places.tolist(), silent, strict=False)):
            windows = [each.tokens for each in activating[number * shown : (number + 1) * shown]]
            windows.insert(place, intruder.tokens)
            found.append(OddOneOut(number, True, intruder.tokens, windows=tuple(windows), place=place, blanks=blanks))
        return found

    def peaks_on_blank(self, example: TestExample) -> bool:
        """Whether the latent is most active on white space, or on a token that ends a line."""
        token = example.tokens[int(np.argmax(example.activations))]
        word = self.rendering.word(token) if token >= 0 else ""
        return bool(word) and (is_blank(word) or SIGNS.search(word) is not None)

    def requests(self, subjects: Sequence[Subject]) -> Iterator[ChooseRequest]:
        return (self.request(subject, trial) for subject in subjects for trial in asked(subject))

    def request(self, subject: Subject, trial: Trial) -> ChooseRequest:
        assert isinstance(trial, OddOneOut)
        texts = [self.rendering.line(window, blanks=trial.blanks) for window in trial.windows]
        listed = "\n".join(f"Text {number}: {text}" for number, text in enumerate(texts, 1))
        messages = (Message("system", INTRUDER), Message("user", INTRUDER_QUESTION.format(texts=listed)))
        return ChooseRequest(messages, self.choices, subject.group)

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(1, self.settings.shown + 2))

    def ask(self, subjects: list[Subject], model: LanguageModel, advance: Callable[[int], None]) -> None:
        for part in in_parts(subjects):
            record_left_out(part)
            trials = [(subject, trial) for subject in part for trial in asked(subject)]
            answers = choose(model, [*self.requests(part)], lambda _, reply: shares(reply), lambda _: advance(1))
            for (subject, trial), answer in zip(trials, answers, strict=True):
                assert isinstance(trial, OddOneOut)
                record = {"place": trial.place + 1, **answer.record()}
                if answer.value is not None:
                    chosen = int(np.argmax(answer.value))
                    record |= {
                        "probability": answer.value[trial.place],
                        "chosen": chosen + 1,
                        "predicted": chosen == trial.place,
                    }
                subject.record(trial, **record)

    def scores(self, inputs: Inputs, todo: Pending, trials: pl.DataFrame) -> pl.DataFrame:
        def statistics(kept: pl.DataFrame) -> list[pl.DataFrame]:
            accuracy = share(kept, "accuracy")
            chance = accuracy.select(
                *KEYS, statistic=pl.lit("chance"), value=pl.lit(1 / len(self.choices)), low=None, high=None
            )
            return [accuracy, chance] if len(accuracy) else []

        return score_table(trials, statistics, "no answered trial")

    def most(self) -> list[Most]:
        trials = min(self.settings.activating // self.settings.shown, self.settings.non_activating)
        return [Most(trials, self.settings.shown + 1, 0)]


def shares(reply: Chosen) -> list[float]:
    """The probability of each place, among all places.

    Raises:
        Unusable: the engine gives none of them any.
    """
    logs = reply.log_probabilities
    if not any(map(math.isfinite, logs)):
        raise Unusable("the engine gave none of the numbers a probability")
    weights = [math.exp(each - max(logs)) for each in logs]
    return [each / sum(weights) for each in weights]
