"""Methods that need no language model: the cosine of each test window with something that stands for the latent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from interp_assets.examples.rendering import Rendering
from interp_assets.scores.method import Method
from interp_assets.scores.trials import Subject, TestExample, Trial, whole_texts
from interp_assets.settings import EmbeddingScorer, ExampleEmbeddingScorer

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from resources.text_embedder import Role, TextEmbedder

SAME_EMBEDDER = (
    "negatives of the kind similar_text were chosen by the same embedder: windows that it finds alike, harder for it than "
    "for other methods"
)
"Said of a method where it holds."

S = TypeVar("S", EmbeddingScorer, ExampleEmbeddingScorer)


class Comparing(Method[S]):
    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return whole_texts(examples)

    @abstractmethod
    def standing_for(self, subject: Subject) -> list[str]:
        """The texts whose mean embedding the windows are compared with."""

    @property
    @abstractmethod
    def role(self) -> Role:
        """What these texts are to an embedder; windows are documents."""

    def texts(self, subjects: list[Subject]) -> dict[Role, set[str]]:
        """What has to be embedded: each distinct text, once."""
        windows = list({tuple(trial.tokens) for subject in subjects for trial in subject.trials})
        found: dict[Role, set[str]] = {"document": set(self.rendering.texts(windows))}
        found.setdefault(self.role, set()).update(text for each in subjects for text in self.standing_for(each))
        return found

    def compare(self, subjects: list[Subject], embedder: TextEmbedder, advance: Callable[[int], None]) -> None:
        """Record the cosine of each trial as its `probability`; nothing is predicted, AUROC needs no threshold.

        Args:
            advance: told how many texts were embedded.
        """
        standing = [self.standing_for(subject) for subject in subjects]
        texts = list(dict.fromkeys(chain.from_iterable(standing)))
        place = {text: number for number, text in enumerate(texts)}
        vectors = embedder.embed(texts, advance, self.role)
        queries = [direction(vectors[[place[text] for text in each]]) for each in standing]
        windows = trials_by_text(subjects, self.rendering)
        # What stands for one latent may be a test window of another, and is not embedded twice either.
        same = embedder.treatments[self.role] == embedder.treatments["document"]
        both = [text for text in texts if same and text in windows]
        known = (both, vectors[[place[text] for text in both]])
        cosines = [np.zeros(len(subject.trials)) for subject in subjects]
        for part, of_part in chain([known], embedder.stream(windows.keys() - set(both), advance)):
            for text, vector in zip(part, of_part, strict=True):
                for number, trial_number in windows[text]:
                    cosines[number][trial_number] = vector @ queries[number]
        for subject, values in zip(subjects, cosines, strict=True):
            for trial, cosine in zip(subject.trials, values.tolist(), strict=True):
                subject.record(trial, probability=cosine, status="ok")


def trials_by_text(subjects: list[Subject], rendering: Rendering) -> dict[str, list[tuple[int, int]]]:
    """Each distinct text that is shown, with the trials it is shown in: the number of the subject and of its trial."""
    numbers: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for number, subject in enumerate(subjects):
        for place, trial in enumerate(subject.trials):
            if trial.left_out is None:
                numbers.setdefault(tuple(trial.tokens), []).append((number, place))
    found: dict[str, list[tuple[int, int]]] = {}
    # Different tokens may be the same text.
    for text, trials in zip(rendering.texts(list(numbers)), numbers.values(), strict=True):
        found.setdefault(text, []).extend(trials)
    return found


def chosen_by_its_embedder(inputs: Inputs, method: Comparing[Any]) -> bool:
    """Whether some of the negatives that a method asks about were looked up in an index made by its own embedder."""
    if "similar_text" not in method.study.negatives_of(method.settings):
        return False

    def embedder_of(asset: str, key: str | None) -> Any:
        parts = inputs.freshness.fingerprint(inputs.freshness.assets[asset], key).parts
        return parts["files"].get("embedder"), parts["settings"]["embedder"]

    return embedder_of("text_index", None) == embedder_of(inputs.asset.name, inputs.key)


def direction(vectors: np.ndarray) -> np.ndarray:
    """The mean of unit vectors float32 [n, d] as a unit vector [d]; of one alone that one itself."""
    if len(vectors) == 1:
        return vectors[0]
    mean = vectors.mean(0)
    return mean / (np.linalg.norm(mean) or 1.0)
