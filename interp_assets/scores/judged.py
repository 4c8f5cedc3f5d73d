"""Methods in which a language model says Yes or No to each trial: what detection and fuzzing have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import polars as pl

from interp_assets.scores.calibration import Calibration, calibrate
from interp_assets.scores.judging import judge, max_tokens_of, requests
from interp_assets.scores.method import AskingMethod, Most
from interp_assets.scores.sequential import anytime, judge_in_rounds
from interp_assets.scores.trials import Subject
from interp_assets.scores.wording import Wording, prompts_read, wording_of
from interp_assets.settings import JudgeScorer
from resources.language_models.protocol import Capability, LanguageModel, Request

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from interp_assets.scores.pending import Pending


class Judged(AskingMethod[JudgeScorer]):
    # Up to 5, there was no share_yes, lists had no auroc, and intervals of few trials were too narrow.
    code_version = "6"

    @property
    def verbs(self) -> tuple[Capability, ...]:
        if self.settings.list_sizes:
            return "choose", "generate"
        return ("choose",) if self.settings.protocol == "single" else ("generate",)

    @property
    def wording(self) -> Wording:
        return wording_of(self.name, self.settings)

    @property
    def exact(self) -> bool:
        # How many are asked in rounds, the answers decide.
        return self.settings.sequential is None

    def prompts(self) -> dict[str, str]:
        return prompts_read(self.name, self.settings)

    def requests(self, subjects: Sequence[Subject]) -> Iterator[Request]:
        return requests([*subjects], self.wording, self.settings, self.rendering, self.seed)

    def ask(self, subjects: list[Subject], model: LanguageModel, advance: Callable[[int], None]) -> None:
        ask = judge_in_rounds if self.settings.sequential else judge
        ask(subjects, self.wording, self.settings, model, self.rendering, self.seed, advance)

    def calibrate(self, subjects: list[Subject], model: LanguageModel, advance: Callable[[int], None]) -> Calibration:
        """How many examples a prompt takes, where the study leaves it to be found."""
        return calibrate(subjects, self.wording, self.settings, model, self.rendering, self.seed, advance)

    def scores(self, inputs: Inputs, todo: Pending, trials: pl.DataFrame) -> pl.DataFrame:
        table = super().scores(inputs, todo, trials)
        return anytime(table, todo.subjects, todo.kept_scores) if self.settings.sequential else table

    def most(self) -> list[Most]:
        trials, sizes = self.settings.activating + self.settings.non_activating, self.settings.list_sizes

        def lists(size: int, subjects: int | None = None) -> Most:
            return Most(-(-trials // size), size, self.settings.max_tokens or max_tokens_of(size), subjects)

        if sizes is not None:
            # Single prompts are the most that can come of trying.
            return [Most(trials, 1, 0), *(lists(size, sizes.latents) for size in sizes.candidates)]
        return [Most(trials, 1, 0) if self.settings.protocol == "single" else lists(self.settings.list_size)]
