"""What each scoring method declares: graph, plan, stage and the trial of engines derive all that they do from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import polars as pl

from interp_assets.asset import EXAMPLE_COLUMNS, Read
from interp_assets.examples.rendering import Rendering
from interp_assets.scores import statistics
from interp_assets.scores.population import Population
from interp_assets.scores.trials import Key, Subject, Tested, TestExample, Trial, explanations_under_test
from interp_assets.settings import Scorer
from interp_assets.study import Study
from interp_assets.tables import TRIALS, Schema

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from interp_assets.scores.pending import Pending
    from resources.language_models.protocol import Capability, LanguageModel, Request

S = TypeVar("S", bound=Scorer)

EXPLANATIONS = Read("explanations", "explanations", ("latent", "explainer", "explanation", "status"))
EXAMPLES = Read("examples", "examples", EXAMPLE_COLUMNS)
# What trials are weighed by: how often a latent fires, and how strongly on each window.
PLACED_EXAMPLES = Read("examples", "examples", (*EXAMPLE_COLUMNS, "decile"))
WINDOWS = Read("examples", "latents", ("latent", "windows", "repeated"))
SAE = Read("sae_weights", "files", ("sha256",))
"Whoever reads it runs the subject model too."
CONTEXTS = Read("corpus", "corpus", ("context",))


class Most(NamedTuple):
    """What one explanation, or one latent where none is read, takes of an engine at most."""

    calls: int
    windows: int
    "That one prompt shows."
    reply_tokens: int
    subjects: int | None = None
    "Of so many only; of all where None."


class Method(ABC, Generic[S]):
    """One way to score, under a study's settings. It looks at tables and builds requests, and loads no model."""

    name: ClassVar[str]
    description: ClassVar[str]
    code_version: ClassVar[str] = "1"
    reads: ClassVar[tuple[Read, ...]] = (EXPLANATIONS, PLACED_EXAMPLES, WINDOWS, CONTEXTS)
    schema: ClassVar[Schema] = TRIALS
    "Of its table of trials."

    def __init__(self, study: Study, settings: S | None = None) -> None:
        """
        Args:
            settings: what stands in place of the study's own, where calibration has found what the study leaves open.
        """
        self.study = study
        self.settings: S = settings or getattr(study.scorers, self.name)

    @cached_property
    def rendering(self) -> Rendering:
        return Rendering.of(self.study)

    @property
    def seed(self) -> int:
        return self.study.examples.seed

    @property
    def engine(self) -> str | None:
        """The engine that it asks, by name; None where it asks none."""
        return None

    @property
    def explainers(self) -> tuple[str, ...] | None:
        """Whose explanations it tests; None where it reads none."""
        return self.study.explainers_of(self.settings) if EXPLANATIONS in self.reads else None  # type: ignore[arg-type]

    @property
    def exact(self) -> bool:
        """Whether `requests` are those that will be asked, and not only the most that can be."""
        return True

    def prompts(self) -> dict[str, str]:
        """The texts that decide its requests, by name: they enter the fingerprint."""
        return {}

    def examples(self, inputs: Inputs) -> pl.DataFrame:
        """The test windows that it uses, rows of the table `examples`, those of one latent together."""
        settings: Any = self.settings
        table = inputs.input("examples").read("examples")
        activating = pl.col("kind") == "activating"
        wanted = activating | pl.col("kind").is_in(self.study.negatives_of(settings))
        # Kinds of negatives take turns in their numbers; those asked about are counted anew.
        return (
            table.filter((pl.col("purpose") == "test") & wanted)
            .with_columns(activating=activating)
            .sort("latent", "activating", "example", descending=[False, True, False])
            .with_columns(rank=pl.int_range(pl.len()).over("latent", "activating"))
            .filter(pl.col("rank") < pl.when("activating").then(settings.activating).otherwise(settings.non_activating))
            .drop("activating", "rank")
        )

    def tested(self, inputs: Inputs, examples: pl.DataFrame) -> dict[Key, Tested]:
        """What is put to the test: here each explanation, and beside it that of another latent."""
        settings: Any = self.settings
        found = explanations_under_test(inputs, self.explainers or (), settings.shuffled_control, self.seed)
        return {(latent, explainer, control): Tested(text) for latent, explainer, control, text in found}

    @abstractmethod
    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        """What is asked about one latent, whatever is said of it."""

    def requests(self, subjects: Sequence[Subject]) -> Iterator[Request]:
        """What its engine is asked about some subjects, in its order, without asking."""
        return iter(())

    def scores(self, inputs: Inputs, todo: Pending, trials: pl.DataFrame) -> pl.DataFrame:
        """The table `tables.SCORES`.

        Args:
            todo: what was carried over and what was answered now.
            trials: all of them.
        """
        return statistics.scores(trials, Population.of(inputs, self.name))

    def most(self) -> list[Most]:
        """Upper bounds from the settings alone, which add up; none where no engine is asked."""
        return []


class AskingMethod(Method[S]):
    """A method whose trials a language model answers."""

    @property
    def engine(self) -> str:
        settings: Any = self.settings
        return settings.engine

    @property
    @abstractmethod
    def verbs(self) -> tuple[Capability, ...]:
        """What its engine must be able to do."""

    @abstractmethod
    def ask(self, subjects: list[Subject], model: LanguageModel, advance: Callable[[int], None]) -> None:
        """Ask every trial of every subject; the answers are recorded on the subjects.

        Args:
            advance: told of how many trials the answer has arrived.
        """
