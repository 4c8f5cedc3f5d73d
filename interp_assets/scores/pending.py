"""Which scores still hold, and which explanations are to be tested on what. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from interp_assets.carry_over import inputs_hash, still_hold, windows_by_latent, without
from interp_assets.examples.draws import CALIBRATE, keyed
from interp_assets.examples.rendering import Rendering
from interp_assets.job import Inputs
from interp_assets.scores import detection, fuzzing
from interp_assets.scores.trials import Subject, TestExample, Trial, explanations_under_test, test_examples
from interp_assets.settings import EmbeddingScorer, InterventionScorer, JudgeScorer
from interp_assets.tables import SCORES, TRIALS

KEYS = ["latent", "explainer", "control"]
Key = tuple[int, str, str]
Scorer = EmbeddingScorer | JudgeScorer
DECIDES_NO_ROW = ("explainers", "scorer.explainers", "scorer.shuffled_control", "hookpoint", "windows_per_context")
"Settings that decide which rows there are, not what stands in them."


@dataclass(frozen=True)
class Pending:
    kept_trials: pl.DataFrame
    kept_scores: pl.DataFrame
    "Rows of an earlier generation that still hold."
    new: pl.DataFrame
    "KEYS and inputs_hash of the explanations to be tested."
    subjects: list[Subject]
    "The explanations to be tested, with their trials."


class UnderTest(NamedTuple):
    """All explanations that a method tests."""

    texts: dict[Key, str]
    tests: pl.DataFrame
    "Rows of the examples table that it tests them on."


def under_test(inputs: Inputs, method: str) -> UnderTest:
    study = inputs.study
    scorer = study.scorers.chosen()[method]
    assert not isinstance(scorer, InterventionScorer)  # it has a pending of its own
    table = inputs.input("examples").read("examples")
    activating = pl.col("kind") == "activating"
    # Kinds of negatives take turns in their numbers; those asked about are counted anew.
    tests = (
        table.filter((pl.col("purpose") == "test") & (activating | pl.col("kind").is_in(study.negatives_of(scorer))))
        .with_columns(activating=activating)
        .sort("latent", "activating", "example", descending=[False, True, False])
        .with_columns(rank=pl.int_range(pl.len()).over("latent", "activating"))
        .filter(pl.col("rank") < pl.when("activating").then(scorer.activating).otherwise(scorer.non_activating))
        .drop("activating", "rank")
    )
    texts = {
        (latent, explainer, control): text
        for latent, explainer, control, text in explanations_under_test(
            inputs, study.explainers_of(scorer), scorer.shuffled_control, study.examples.seed
        )
    }
    return UnderTest(texts, tests)


def pending(inputs: Inputs, method: str, scorer: Scorer | None = None) -> Pending:
    """
    Args:
        scorer: what stands in place of the study's own, where calibration has found what the study leaves open.
    """
    own = inputs.study.scorers.chosen()[method]
    assert not isinstance(own, InterventionScorer)  # it has a pending of its own
    scorer = scorer or own
    texts, tests = found = under_test(inputs, method)
    shown = windows_by_latent(tests)
    basis = row_basis(inputs, scorer)
    rows = [(*key, inputs_hash(basis, text, shown.get(key[0], b""))) for key, text in texts.items()]
    schema = {"latent": pl.UInt32, "explainer": pl.String, "control": pl.String, "inputs_hash": pl.UInt64}
    wanted = pl.DataFrame(rows, schema=schema, orient="row")
    earlier = inputs.earlier()
    trials = still_hold(earlier, "trials", wanted, TRIALS, inputs.retrying)
    new = without(wanted, trials)
    scores = still_hold(earlier, "scores", wanted, SCORES).join(new, on=KEYS, how="anti", maintain_order="left")
    return Pending(trials, scores, new, subjects_of(inputs, method, found, new.select(KEYS).rows()))


def calibrators(inputs: Inputs, method: str, count: int) -> list[Subject]:
    """So many explanations, no shuffled ones, of the latents that come first in a keyed order."""
    found = under_test(inputs, method)
    keys = [key for key in found.texts if key[2] == "none"]
    places = keyed(inputs.study.examples.seed, CALIBRATE, np.array([key[0] for key in keys], dtype=np.int64))
    first = [key for _, key in sorted(zip(places.tolist(), keys, strict=True))[:count]]
    return subjects_of(inputs, method, found, first)


def subjects_of(inputs: Inputs, method: str, found: UnderTest, keys: list[Any]) -> list[Subject]:
    """Some of the explanations, with their trials."""
    latents = pl.Series([key[0] for key in keys], dtype=pl.UInt32).unique()
    examples = test_examples(found.tests.filter(pl.col("latent").is_in(latents.implode())))
    trials_of = maker_of_trials(inputs, method)
    made: dict[int, list[Trial]] = {}
    subjects = []
    for latent, explainer, control in keys:
        if latent not in made:
            made[latent] = trials_of(latent, examples.get(latent, []))
        subjects.append(Subject(latent, explainer, control, found.texts[latent, explainer, control], made[latent]))
    return subjects


def row_basis(inputs: Inputs, scorer: Scorer) -> Any:
    """What decides a score beside its latent and explanation."""
    parts = inputs.freshness.fingerprint(inputs.asset, inputs.key).parts
    settings = {name: value for name, value in parts["settings"].items() if name not in DECIDES_NO_ROW}
    deciding = {name: value for name, value in scorer.identity().items() if f"scorer.{name}" not in DECIDES_NO_ROW}
    return [settings | {"scorer": deciding}, parts["files"]]


def maker_of_trials(inputs: Inputs, method: str) -> Callable[[int, list[TestExample]], list[Trial]]:
    """What makes the trials of a latent from its test examples."""
    scorer = inputs.study.scorers.chosen()[method]
    if method == "fuzzing" and isinstance(scorer, JudgeScorer):
        hidden, seed = Rendering.of(inputs.study).hidden, inputs.study.examples.seed
        return lambda latent, examples: fuzzing.trials(
            latent, examples, scorer.non_activating, scorer.mark_threshold, hidden, seed
        )
    return lambda latent, examples: detection.trials(examples)
