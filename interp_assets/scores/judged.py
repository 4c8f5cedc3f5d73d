"""Methods in which a language model says Yes or No to each trial: what detection and fuzzing have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from interp_assets.scores import statistics
from interp_assets.scores.judging import judge, max_tokens_of, requests
from interp_assets.scores.method import AskingMethod, Most
from interp_assets.scores.sequential import anytime, judge_in_rounds
from interp_assets.scores.trials import Subject
from interp_assets.scores.wording import Wording, prompts_read, wording_of
from interp_assets.settings import JudgeScorer
from resources.language_models.protocol import LanguageModel, Request


class Judged(AskingMethod[JudgeScorer]):
    code_version = "2"

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

    def scores(self, trials: pl.DataFrame, subjects: Sequence[Subject]) -> pl.DataFrame:
        table = statistics.scores(trials)
        return anytime(table, [*subjects]) if self.settings.sequential else table

    def most(self) -> Most:
        trials = self.settings.activating + self.settings.non_activating
        if self.settings.protocol == "single":
            return Most(trials, 1, 0)
        per_prompt = self.settings.per_prompt
        return Most(-(-trials // per_prompt), per_prompt, max_tokens_of(per_prompt))
