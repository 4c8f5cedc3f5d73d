"""Which scores still hold, and which explanations are to be tested on what. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from interp_assets.carry_over import inputs_hash, still_hold, windows_by_latent, without
from interp_assets.examples.along import first_drawn
from interp_assets.examples.draws import CALIBRATE, keyed
from interp_assets.scores.method import Method
from interp_assets.scores.trials import KEYS, Key, Subject, Tested, Trial, test_examples
from interp_assets.tables import SCORES

if TYPE_CHECKING:
    from interp_assets.job import Inputs

DECIDES_NO_ROW = (
    "explainers",
    "scorer.explainers",
    "scorer.latents",
    "scorer.shuffled_control",
    "hookpoint",
    "writes",
    "windows_per_context",
)
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


def pending(inputs: Inputs, method: Method[Any]) -> Pending:
    examples = method.examples(inputs)
    shown = windows_by_latent(examples)
    tested = tested_of(inputs, method, examples)
    basis = row_basis(inputs, method)
    rows = [
        (*key, inputs_hash(basis, each.explanation, shown.get(key[0], b""), *each.also)) for key, each in tested.items()
    ]
    schema = {"latent": pl.UInt32, "explainer": pl.String, "control": pl.String, "inputs_hash": pl.UInt64}
    wanted = pl.DataFrame(rows, schema=schema, orient="row")
    earlier = inputs.earlier()
    trials = still_hold(earlier, "trials", wanted, method.schema, inputs.retrying)
    new = without(wanted, trials)
    scores = still_hold(earlier, "scores", wanted, SCORES).join(new, on=KEYS, how="anti", maintain_order="left")
    return Pending(trials, scores, new, subjects_of(method, tested, examples, new.select(KEYS).rows()))


def tested_of(inputs: Inputs, method: Method[Any], examples: pl.DataFrame) -> dict[Key, Tested]:
    """What is put to the test, of as many latents as the study scores with this method."""
    found = method.tested(inputs, examples)
    chosen = set(first_drawn(inputs, sorted({key[0] for key in found}), method.settings.latents))
    return {key: each for key, each in found.items() if key[0] in chosen}


def calibrators(inputs: Inputs, method: Method[Any], count: int) -> list[Subject]:
    """So many explanations, no shuffled ones, of the latents that come first in a keyed order."""
    examples = method.examples(inputs)
    tested = tested_of(inputs, method, examples)
    keys = [key for key in tested if key[2] == "none"]
    places = keyed(method.seed, CALIBRATE, np.array([key[0] for key in keys], dtype=np.int64))
    first = [key for _, key in sorted(zip(places.tolist(), keys, strict=True))[:count]]
    return subjects_of(method, tested, examples, first)


def subjects_of(
    method: Method[Any], tested: Mapping[Key, Tested], examples: pl.DataFrame, keys: Sequence[Any]
) -> list[Subject]:
    """Some of what is tested, with its trials.

    Args:
        examples: rows of the examples table that it is tested on.
    """
    latents = pl.Series([key[0] for key in keys], dtype=pl.UInt32).unique()
    bos = bool(method.study.corpus.bos)
    of_latent = test_examples(examples.filter(pl.col("latent").is_in(latents.implode())), bos)
    made: dict[int, list[Trial]] = {}
    subjects = []
    for latent, explainer, control in keys:
        if latent not in made:
            made[latent] = method.trials(latent, of_latent.get(latent, []))
        each = tested[latent, explainer, control]
        subjects.append(Subject(latent, explainer, control, each.explanation, made[latent], query=each.query))
    return subjects


def row_basis(inputs: Inputs, method: Method[Any]) -> Any:
    """What decides a score beside its latent and explanation."""
    parts = inputs.freshness.fingerprint(inputs.asset, inputs.key).parts
    settings = {name: value for name, value in parts["settings"].items() if name not in DECIDES_NO_ROW}
    scorer = method.settings.identity().items()
    deciding = {name: value for name, value in scorer if f"scorer.{name}" not in DECIDES_NO_ROW}
    return [settings | {"scorer": deciding}, parts["files"]]
