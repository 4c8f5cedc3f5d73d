"""What a report is made from, and the tables that stand behind its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl
import polars.selectors as cs

from interp_assets.asset import TRIAL_COLUMNS
from interp_assets.report.chains import Pair
from interp_assets.report.correlations import correlations
from interp_assets.report.costs import TOKENS, costs, outcomes
from interp_assets.report.deciles import by_decile, by_negatives
from interp_assets.report.gaps import Gap, gaps
from interp_assets.report.summary import summarise
from interp_assets.report.verdicts import Difference, against_control, against_layers, corrected
from interp_assets.study import Study
from interp_assets.tables import DIFFERENCES, EFFECTS, EXAMPLES, EXPLANATIONS, SCORES, SHORTFALLS, TRIALS, Schema

OF_TRIALS = (*TRIAL_COLUMNS, "prompt_hash", "prompt_tokens", "cached_tokens", "completion_tokens")
"What the report reads of trials."


@dataclass(frozen=True)
class Evidence:
    name: str
    "of the study"
    layers: Sequence[str]
    scores: pl.DataFrame
    "`tables.SCORES` with layer and method; values are finite or null"
    trials: pl.DataFrame
    "OF_TRIALS with layer and method"
    explanations: dict[str, pl.DataFrame] = field(default_factory=dict)
    "by layer, as far as there are any"
    examples: dict[str, pl.DataFrame] = field(default_factory=dict)
    "by layer, as far as there are any"
    counts: dict[str, dict[str, int | str]] = field(default_factory=dict)
    "for each layer how many latents came how far"
    problems: dict[str, str] = field(default_factory=dict)
    "partitions that are missing or failed, and why"
    score_tables: Sequence[tuple[str, str]] = ()
    "method and layer of every table of scores, of empty ones too"
    calibrations: Sequence[dict[str, Any]] = ()
    "method, layer and rows of `tables.CALIBRATION`, where prompt sizes were tried"
    effects: dict[str, pl.DataFrame] = field(default_factory=dict)
    "EFFECTS_READ of interventions by layer, as far as there are any"
    pairs: Sequence[Pair] = ()
    "pairs of layers that were matched"
    of_pairs: dict[str, pl.DataFrame] = field(default_factory=dict)
    "the tables behind the part about them; none where there are no pairs"
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)
    "what the proof of load measured of each layer, as far as there is one"
    shortfalls: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={**SHORTFALLS, "layer": pl.String}))
    "`tables.SHORTFALLS` with layer"
    same_embedder: Sequence[str] = ()
    "methods that are tested on negatives which their own embedder chose"
    nearest: dict[str, pl.DataFrame] = field(default_factory=dict)
    "by layer what `nearest_tokens` says, where tokens are compared"


class Tables(NamedTuple):
    report: pl.DataFrame
    differences: list[Difference]
    correlations: pl.DataFrame
    costs: pl.DataFrame
    by_decile: pl.DataFrame
    by_negatives: pl.DataFrame
    outcomes: pl.DataFrame
    gaps: list[Gap]

    def frames(self) -> dict[str, pl.DataFrame]:
        """By name."""
        frames = {name: each for name, each in self._asdict().items() if isinstance(each, pl.DataFrame)}
        return frames | {
            "differences": pl.DataFrame(
                [(*each, each.verdict) for each in self.differences], schema=DIFFERENCES, orient="row"
            ).with_columns(cs.float().fill_nan(None))
        }


def tables_of(evidence: Evidence, study: Study) -> Tables:
    scores, trials = evidence.scores, evidence.trials
    examples = by_layer(evidence.examples, EXAMPLES)
    differences = corrected(against_control(scores) + against_layers(scores))
    return Tables(
        summarise(scores),
        differences,
        correlations(scores),
        costs(
            study,
            by_layer(evidence.explanations, EXPLANATIONS),
            trials,
            by_layer(evidence.effects, EFFECTS_READ),
        ),
        by_decile(trials, examples),
        by_negatives(trials, examples),
        outcomes(trials),
        gaps(scores, differences, evidence.score_tables),
    )


def by_layer(parts: dict[str, pl.DataFrame], schema: Schema) -> pl.DataFrame:
    """One table of all layers, with column layer."""
    empty = pl.DataFrame(schema={**schema, "layer": pl.String})
    return pl.concat([empty, *(part.with_columns(layer=pl.lit(layer)) for layer, part in parts.items())])


def of_methods(parts: dict[tuple[str, str], pl.DataFrame], schema: Schema) -> pl.DataFrame:
    """One table of all methods and layers, with columns layer and method.

    Args:
        parts: by method and layer.
    """
    empty = pl.DataFrame(schema={**schema, "layer": pl.String, "method": pl.String})
    named = (
        part.select(list(schema)).with_columns(layer=pl.lit(layer), method=pl.lit(method))
        for (method, layer), part in parts.items()
    )
    return pl.concat([empty, *named])


def scores_of(parts: dict[tuple[str, str], pl.DataFrame]) -> pl.DataFrame:
    """`tables.SCORES` of all methods and layers, as `of_methods`; a number that is not finite is no score: null."""
    numbers = cs.float()
    return of_methods(parts, SCORES).with_columns(pl.when(numbers.is_finite()).then(numbers))


EFFECTS_READ: Schema = {name: EFFECTS[name] for name in ("latent", "condition", "prompt_hash", *TOKENS)}
TRIALS_READ: Schema = {name: TRIALS[name] for name in OF_TRIALS}
NO_TRIALS = of_methods({}, TRIALS_READ)
