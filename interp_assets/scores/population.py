"""Where trials come from: the context and decile of each one's window, and how often its latent fires at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from interp_assets.study import Study
from interp_assets.tables import DECILES

if TYPE_CHECKING:
    from interp_assets.job import Inputs

NEGATIVES_ACTIVATE = ("fuzzing", "token_fuzzing")
"Methods whose negatives are activating windows too, changed in some way."
PLACED = {"context": pl.UInt32, "decile": pl.Int8, "windows": pl.UInt32, "rate": pl.Float64}
EXAMPLE = {"latent": pl.UInt32, "example": pl.UInt32, "expected": pl.Boolean}


def windows_per_context(study: Study) -> int:
    """How many windows a context is cut into; a centred window stands for its whole context."""
    examples = study.examples
    return study.corpus.context_length // examples.window if examples.placement == "aligned" else 1


@dataclass(frozen=True)
class Population:
    examples: pl.DataFrame
    "latent, example, expected (of the trials made from it), context u32, decile i8 (null where it does not activate)"
    latents: pl.DataFrame
    "latent, windows u32 of different text on which it fires, and rate f64 of all; null where negatives activate too"

    @classmethod
    def of(cls, inputs: Inputs, method: str) -> Population:
        """Of the test examples of a layer.

        A latent's rate is the share of windows on which it fires where windows are aligned; where they are centred,
        the share of contexts.
        """
        contexts = len(inputs.input("corpus").read("corpus", ["context"]))
        partition = inputs.input("examples")
        examples = (
            partition.read("examples", ["latent", "example", "purpose", "kind", "context", "decile"])
            .filter(pl.col("purpose") == "test")
            .select("latent", "example", "context", "decile", expected=pl.col("kind") == "activating")
        )
        activating = examples.filter("expected")
        # Windows whose text another has are drawn once, but the latent fires on them too.
        rate = (pl.col("windows") + pl.col("repeated")) / (contexts * windows_per_context(inputs.study))
        if method in NEGATIVES_ACTIVATE:
            rate = pl.lit(None, dtype=pl.Float64)
            examples = pl.concat([activating, activating.with_columns(expected=False)])
        counted = partition.read("latents", ["latent", "windows", "repeated"])
        return cls(examples, counted.select("latent", "windows", rate=rate))

    @property
    def known(self) -> bool:
        return not self.examples.is_empty()

    def place(self, trials: pl.DataFrame) -> pl.DataFrame:
        """The trials with the columns `PLACED`, null where nothing is known."""
        placed = trials.join(self.examples, on=list(EXAMPLE), how="left", maintain_order="left")
        return placed.join(self.latents, on="latent", how="left", maintain_order="left")


NOWHERE = Population(
    pl.DataFrame(schema={**EXAMPLE, "context": pl.UInt32, "decile": pl.Int8}),
    pl.DataFrame(schema={"latent": pl.UInt32, "windows": pl.UInt32, "rate": pl.Float64}),
)
"Nothing is known of the trials' examples."


def weights(placed: pl.DataFrame, subject: np.ndarray) -> np.ndarray:
    """What makes each subject's trials a sample of its latent's windows, float64 [trials].

    Decile d of n windows holds those of rank ceil(n d / 10) to ceil(n (d + 1) / 10); a trial weighs its decile's
    share of the windows over its share of the trials of its kind. Trials without a decile weigh 1, and so does the
    mean trial of a kind.
    """
    kind = ("subject", "expected")
    d, n = pl.col("decile").cast(pl.Float64), pl.col("windows").cast(pl.Float64)
    share = ((n * (d + 1) / DECILES).ceil() - (n * d / DECILES).ceil()) / n
    placed = placed.with_columns(subject=subject, share=share)
    weight = (pl.col("share") / pl.len().over(*kind, "decile")).fill_null(1.0)
    return (
        placed.with_columns(weight=weight)
        .select(pl.col("weight") / pl.col("weight").mean().over(*kind))
        .to_series()
        .to_numpy()
    )
