"""Which windows of text stand for a latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from interp_assets.settings.base import Dtype, Settings, device, identity, operational

Sampler = Literal["top", "top_pool", "random", "quantiles", "mixture"]
NegativeKind = Literal["random", "neighbour", "similar_text"]
NegativeKinds = NegativeKind | Annotated[tuple[NegativeKind, ...], Field(min_length=1)]
"One kind, or several."
Count = Annotated[int, Field(ge=1)]
LatentNumbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class LatentsAlong(Settings):
    """So many latents of each layer, drawn so that latents which `alignment` matches are drawn together."""

    count: Count = identity()
    "Of each layer; fewer where fewer have enough windows."
    along: Literal["alignment"] = identity()
    "Matched latents share one random number, and each layer takes those with the lowest (`examples/along.py`)."


def kinds_in(negatives: NegativeKinds) -> tuple[NegativeKind, ...]:
    return (negatives,) if isinstance(negatives, str) else tuple(dict.fromkeys(negatives))


class ExplainExamples(Settings):
    sampler: Sampler = identity("quantiles")
    """Of the windows on which the latent fires. top: the strongest. top_pool: drawn from the `pool` strongest. random: drawn
    from all. quantiles: equally many from each range of strength. mixture: half from the pool, half from all quantiles."""
    n: int = identity(40, ge=1)
    "Windows to explain from."
    pool: int = identity(200, ge=1)
    "top_pool and mixture draw from this many strongest windows."


class TestExamples(Settings):
    __test__ = False  # not a pytest class

    activating: int = identity(100, ge=1)
    "Spread evenly over the ten deciles of peak activation."
    non_activating: int = identity(100, ge=0)
    negatives: NegativeKinds = identity("random")
    """random: windows without the latent. neighbour: windows on which a similar latent fires. similar_text: for each activating
    test window the one that reads most like it. The latent is silent on all of them; several kinds are dealt out evenly. All
    begin at the same positions of their contexts as the latent's activating test windows. docs/negatives.md says which
    shortcuts each kind excludes."""
    neighbour_by: Literal["decoder", "encoder", "cooccurrence"] = identity("decoder")
    "Similar by cosine of decoder or encoder directions, or by the share of positions at which both fire."

    @property
    def kinds(self) -> tuple[NegativeKind, ...]:
        return kinds_in(self.negatives)

    def drawn_of(self, kinds: Sequence[NegativeKind]) -> int:
        """How many windows of some kinds are drawn for a latent, where it has that many."""
        return sum(len(self.numbers(kind)) for kind in kinds)

    def numbers(self, kind: NegativeKind) -> range:
        """The example numbers that windows of a kind get: kinds take turns."""
        return range(self.kinds.index(kind), self.non_activating, len(self.kinds))


class SimilarText(Settings):
    """An index of windows of the corpus by what they say, for negatives of the kind similar_text."""

    model: str = operational()
    "A sentence-transformers folder or hub name."
    dtype: Dtype = identity("float32")
    device: str = device()
    windows: int = identity(20_000, ge=1)
    "How many windows of the corpus are embedded, at most; a keyed draw decides which."
    batch_size: int = operational(64, ge=1)


class Examples(Settings):
    """Which windows of text stand for a latent."""

    window: int = identity(32, ge=4)
    "Tokens in one."
    placement: Literal["aligned", "centred"] = identity("aligned")
    "aligned: contexts are cut into windows. centred: the peak stands at three quarters of the window."
    min_windows: int = identity(20, ge=2)
    "Latents with fewer active windows of different text are counted and reported, not interpreted."
    latents: Count | LatentNumbers | Literal["all"] | LatentsAlong = identity(
        "all",
        allowed="a whole number, at least 1, or a list of whole numbers, at least 0, not empty, or 'all', "
        "or a mapping such as {count: 200, along: alignment}",
    )
    """All, a number (drawn by a keyed hash from those with enough windows), a list of latents, or a number drawn along the
    alignment: then matched latents are explained on both sides, and semantic_overlap is about as many pairs as it can be."""
    explain: ExplainExamples = identity(ExplainExamples())
    test: TestExamples = identity(TestExamples())
    similar_text: SimilarText | None = identity(None, where_set=True)
    "Needed where a test negative is of the kind similar_text."
    seed: int = identity(0)
    "Of every draw: which latents, which windows, which negatives."

    @property
    def along_alignment(self) -> bool:
        return isinstance(self.latents, LatentsAlong)

    @property
    def most_latents(self) -> int | None:
        """The most latents that are interpreted of a layer; None where all are."""
        if self.latents == "all":
            return None
        if isinstance(self.latents, LatentsAlong):
            return self.latents.count
        return self.latents if isinstance(self.latents, int) else len(self.latents)

    def at_most(self, count: int) -> Examples:
        """The same with fewer latents, for a control; those of a list are the SAE's, so the control's are drawn."""
        wanted = self.latents
        if isinstance(wanted, LatentsAlong):
            fewer: Any = wanted.model_copy(update={"count": min(count, wanted.count)})
        else:
            fewer = min(count, wanted) if isinstance(wanted, int) else count
        return self.model_copy(update={"latents": fewer})
