"""What scoring in rounds saves, and how near it comes to asking everything: judges that are right a known share of times.

Accuracies are the same on positives and negatives, but for `says_no`, a judge who says No to everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import polars as pl

from benchmarks.measuring import quick, seconds, show
from interp_assets.examples.rendering import Rendering
from interp_assets.scores.judging import judge
from interp_assets.scores.sequential import anytime, judge_in_rounds
from interp_assets.scores.statistics import scores
from interp_assets.scores.trials import Subject, Trial
from interp_assets.scores.wording import DETECTION
from interp_assets.settings import JudgeScorer, Sequential
from interp_assets.tables import TRIALS, conform
from resources.language_models.protocol import Capability, ChooseRequest, Chosen, Form, Usage, silent

KINDS = {"easy_1.00": (1.0, 1.0), "easy_0.95": (0.95, 0.95), "fair_0.85": (0.85, 0.85), "hard_0.70": (0.7, 0.7)}
KINDS |= {"guesses_0.50": (0.5, 0.5), "says_no_0.50": (0.0, 1.0)}
OF_A_KIND = 50
HALF_WIDTHS = (0.1, 0.15)


class KnownJudge:
    """Right on a share of positives and of negatives; the same question always gets the same answer."""

    name, identity = "known", "known"
    capabilities: frozenset[Capability] = frozenset({"choose"})
    forms: frozenset[Form] = frozenset()
    retries = 0

    def __init__(self, on_positives: float, on_negatives: float) -> None:
        self.accuracy = {True: on_positives, False: on_negatives}
        self.asked = 0

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        replies = []
        for i, request in enumerate(requests):
            latent, example, expected = map(int, request.messages[-1].content.split("Text: ")[1].split()[:3])
            right = np.random.default_rng((latent, example, expected)).random() < self.accuracy[bool(expected)]
            yes = bool(expected) == right
            replies.append(Chosen((-0.1, -3.0) if yes else (-3.0, -0.1), Usage(1, 0, 0)))
            arrived(i, replies[i])
        self.asked += len(requests)
        return replies


class Numbers:
    """Shows the numbers of a window in place of words."""

    def line(self, tokens: Sequence[int], marks: object, blanks: bool) -> str:
        return " ".join(map(str, tokens))


def main() -> None:
    latents = 100 if quick() else 500
    show("latents_of_each_kind", latents)
    show("trials_of_each_latent_at_most", 2 * OF_A_KIND)
    for half_width in HALF_WIDTHS:
        for name, accuracies in KINDS.items():
            compare(f"half_width_{half_width}_{name}", latents, accuracies, half_width)


def compare(name: str, latents: int, accuracies: tuple[float, float], half_width: float) -> None:
    settings = JudgeScorer(engine="known", sequential=Sequential(half_width=half_width))
    truth = sum(accuracies) / 2
    whole, _, _ = judged(judge, latents, accuracies, settings)
    found, asked, took = judged(judge_in_rounds, latents, accuracies, settings)
    both = found.join(whole, on="latent", suffix="_whole")
    value, full = pl.col("value"), pl.col("value_whole")
    differences = both.select(
        mean=(value - full).abs().mean(),
        holds_full=full.is_between("low", "high").mean(),
        holds_truth=pl.lit(truth).is_between("low", "high").mean(),
    ).row(0, named=True)
    show(f"{name}_trials_saved_share", 1 - asked / (latents * 2 * OF_A_KIND))
    show(f"{name}_mean_difference_from_full_accuracy_points", differences["mean"])
    show(f"{name}_interval_holds_full_score_share", differences["holds_full"])
    show(f"{name}_interval_holds_truth_share", differences["holds_truth"])
    show(f"{name}_ms_per_latent_simulated_judge_included", 1000 * took / latents)


def judged(
    ask: Callable[..., None], latents: int, accuracies: tuple[float, float], settings: JudgeScorer
) -> tuple[pl.DataFrame, int, float]:
    """Balanced accuracies, how many trials were asked, and the seconds that it took."""
    model = KnownJudge(*accuracies)
    subjects = [Subject(latent, "known", "none", "known", trials(latent)) for latent in range(latents)]
    arguments: Any = (subjects, DETECTION, settings, model, cast(Rendering, Numbers()), 0, lambda count: None)
    took = seconds(lambda: ask(*arguments))
    rows = conform(pl.DataFrame([row for each in subjects for row in each.rows], infer_schema_length=None), TRIALS)
    table = scores(rows)
    table = anytime(table, subjects) if ask is judge_in_rounds else table
    return table.filter(statistic="balanced_accuracy"), model.asked, took


def trials(latent: int) -> list[Trial]:
    return [Trial(i, kind, [latent, i, int(kind)]) for kind in (True, False) for i in range(OF_A_KIND)]


if __name__ == "__main__":
    main()
