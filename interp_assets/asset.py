"""What an asset is to this project: what it reads, which settings decide it, what of the machine it occupies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Read:
    """One input: a table of an earlier asset, and the columns that are read (all when left out)."""

    asset: str
    table: str
    columns: tuple[str, ...] | None = None
    optional: bool = False
    "Where it cannot be made (it failed, or something behind it did), what reads it is made without it."


@dataclass(frozen=True)
class Asset:
    name: str
    "Also its folder in storage and, behind the study's name, its Dagster key."
    group: str
    "The stage; the folder under interp_assets."
    code_version: str
    "Raise it when the same inputs give another result."
    description: str
    reads: tuple[Read, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    "The identity settings that it reads."
    files: Mapping[str, Path | list[Path]] = field(default_factory=dict)
    "Files and folders outside the store that it reads; they enter by content. `sae` is filled in by layer."
    scope: Literal["layer", "pair", "corpus", "study"] = "layer"
    "layer: one partition per layer. pair: one per pair of layers, reading both. corpus: one for all. study: one, reading all layers, never blocked by any."
    kinds: tuple[str, ...] = ("polars", "parquet")
    pool: str | None = None
    harvests: bool = False
    "One run may commit other requested layers too."
    engines: tuple[str, ...] = ()
    "The study's engines that it asks, by name."
    interprets: bool = False
    "It decides which latents are interpreted; of a control they may be fewer."
    in_process: bool = False
    "It loads a model into its own process."

    @property
    def slots(self) -> tuple[str, ...]:
        """What of the machine it occupies: its pool, and the device where a model runs in its process."""
        names = {self.pool, "gpu" if self.in_process else None}
        return tuple(sorted(name for name in names if name))

    @property
    def per_layer(self) -> bool:
        return self.scope == "layer"

    @property
    def partitioned(self) -> bool:
        return self.scope in ("layer", "pair")


EXAMPLE_COLUMNS = (
    "latent",
    "example",
    "purpose",
    "kind",
    "context",
    "start",
    "tokens",
    "activations",
    "peak_activation",
    "status",
    "reason",
)
"What reads examples, reads of them."

ORDER_OF_DRAWS = Read("examples", "draws", ("latent",))
"""What reads examples and takes only some of their latents, reads of them where latents are drawn along an alignment: the
order in which they are taken."""

TRIAL_COLUMNS = ("latent", "explainer", "control", "example", "expected", "probability", "predicted", "status")
"What reads trials, reads of them as content."

TOKEN_COLUMNS = ("latent", "explainer", "control", "expected", "window_token")
"What tells of them which tokens lie nearest to an explanation."
