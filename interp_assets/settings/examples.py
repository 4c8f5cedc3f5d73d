"""Which windows of text stand for a latent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from interp_assets.settings.base import Settings, identity

Sampler = Literal["top", "top_pool", "random", "quantiles", "mixture"]
NegativeKind = Literal["random", "neighbour"]
Count = Annotated[int, Field(ge=1)]
LatentNumbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class ExplainExamples(Settings):
    sampler: Sampler = identity("quantiles")
    n: int = identity(40, ge=1)
    pool: int = identity(200, ge=1)
    "top_pool and mixture draw from this many strongest windows."


class TestExamples(Settings):
    __test__ = False  # not a pytest class

    activating: int = identity(100, ge=1)
    "Spread evenly over the ten deciles of peak activation."
    non_activating: int = identity(100, ge=0)
    negatives: NegativeKind = identity("random")
    "random: windows without the latent. neighbour: windows on which a latent with a similar decoder fires."


class Examples(Settings):
    """Which windows of text stand for a latent."""

    window: int = identity(32, ge=4)
    placement: Literal["aligned", "centred"] = identity("aligned")
    "aligned: contexts are cut into windows. centred: the peak stands at three quarters of the window."
    min_windows: int = identity(20, ge=2)
    "Latents with fewer active windows are counted and reported, not interpreted."
    latents: Count | LatentNumbers | Literal["all"] = identity("all")
    "All, a number (drawn by a keyed hash from those with enough windows) or a list of latents."
    explain: ExplainExamples = identity(ExplainExamples())
    test: TestExamples = identity(TestExamples())
    seed: int = identity(0)
