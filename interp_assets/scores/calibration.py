"""How many examples one prompt takes: as many as a judge can be shown at once without judging otherwise.

Some subjects are judged with one example a prompt and with lists of each candidate size. The largest size whose balanced
accuracies lie near enough to those of single prompts is taken for the layer; where none does, single prompts are. The
calls for it are kept in the reply log, where these subjects' rows find their answers again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from interp_assets.examples.rendering import Rendering
from interp_assets.scores.judging import judge
from interp_assets.scores.statistics import scores
from interp_assets.scores.trials import KEYS, Subject
from interp_assets.scores.wording import Wording
from interp_assets.settings import JudgeScorer
from interp_assets.tables import CALIBRATION, TRIALS, conform
from resources.language_models.protocol import LanguageModel

SINGLE = 1
"The size of a prompt that holds one example and is answered by the probability of Yes."


class Calibration(NamedTuple):
    table: pl.DataFrame
    "`tables.CALIBRATION`."
    settings: JudgeScorer
    "The scorer as if the study had named what was found."
    complete: bool
    "False where a budget left something unasked; what was found then is of no use to anyone."


def calibrate(
    subjects: list[Subject],
    wording: Wording,
    settings: JudgeScorer,
    model: LanguageModel,
    rendering: Rendering,
    seed: int,
    advance: Callable[[int], None],
) -> Calibration:
    sizes = settings.list_sizes
    assert sizes is not None
    rows = {}
    for size in sizes_tried(settings):
        own = [replace(subject, rows=[]) for subject in subjects]
        judge(own, wording, of_size(settings, size), model, rendering, seed, advance)
        found = [row for subject in own for row in subject.rows]
        table = pl.DataFrame(found, schema=None if found else TRIALS, infer_schema_length=None)
        rows[size] = conform(table, TRIALS)
    accuracies = {size: balanced_accuracies(table) for size, table in rows.items()}
    differences = {size: mean_difference(each, accuracies[SINGLE]) for size, each in accuracies.items()}
    chosen = largest_within(differences, sizes.tolerance)
    told = [(size, len(subjects), differences[size], tokens_per_trial(rows[size]), size == chosen) for size in rows]
    complete = all("not_asked" not in table["status"] for table in rows.values())
    return Calibration(pl.DataFrame(told, schema=CALIBRATION, orient="row"), of_size(settings, chosen), complete)


def sizes_tried(settings: JudgeScorer) -> list[int]:
    """Single prompts, and the candidates from the smallest on."""
    return [SINGLE, *sorted(set(settings.list_sizes.candidates if settings.list_sizes else ()))]


def largest_within(differences: Mapping[int, float | None], tolerance: float) -> int:
    """
    Args:
        differences: for each size the mean absolute difference of balanced accuracy from single prompts; None where a
            subject has no score to compare.
    """
    near = [size for size, each in differences.items() if each is not None and each <= tolerance]
    return max(near, default=SINGLE)


def of_size(settings: JudgeScorer, size: int) -> JudgeScorer:
    """The scorer as if the study had named this size."""
    if size == SINGLE:
        usual = type(settings).model_fields["per_prompt"].default
        return settings.model_copy(update={"protocol": "single", "per_prompt": usual})
    return settings.model_copy(update={"per_prompt": size})


def balanced_accuracies(trials: pl.DataFrame) -> pl.DataFrame:
    """One row for each subject: KEYS, value, which is null where it has no score."""
    found = scores(trials).filter(statistic="balanced_accuracy").select(*KEYS, "value")
    return trials.select(KEYS).unique(maintain_order=True).join(found, on=KEYS, how="left")


def mean_difference(mine: pl.DataFrame, single: pl.DataFrame) -> float | None:
    """Mean over subjects of the absolute difference; None where there is none, or a subject lacks a score."""
    both = mine.join(single, on=KEYS, suffix="_single")
    differences = (both["value"] - both["value_single"]).abs()
    return None if differences.null_count() or both.is_empty() else float(differences.mean())  # type: ignore[arg-type]


def tokens_per_trial(trials: pl.DataFrame) -> float | None:
    """Prompt and reply; None where nothing was asked."""
    asked = trials.filter(pl.col("status") != "left_out")
    total = sum(asked.select(pl.sum("prompt_tokens", "completion_tokens")).row(0))
    return total / len(asked) if len(asked) else None
