"""Token embedding: how near the tokens of an explanation lie to those of a latent's examples. No LLM.

Two methods ask it of the trials of detection and of fuzzing: of whole windows, and of what is marked in them. Which
token of a window decided is kept beside each trial.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import polars as pl

from interp_assets.asset import Read
from interp_assets.carry_over import inputs_hash
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.draws import REFERENCE_WINDOW, keyed
from interp_assets.examples.rendering import as_shown
from interp_assets.scores import fuzzing
from interp_assets.scores.comparing import trials_by_text
from interp_assets.scores.method import EXPLANATIONS, PLACED_EXAMPLES, WINDOWS, Method
from interp_assets.scores.token_vectors import Match, TokenSpace, maxsim
from interp_assets.scores.trials import Key, Subject, Tested, TestExample, Trial, whole_texts
from interp_assets.settings import TokenEmbeddingScorer, TokenFuzzingScorer
from interp_assets.tables import TOKEN_TRIALS

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from resources.text_embedder import Role, TextEmbedder

S = TypeVar("S", TokenEmbeddingScorer, TokenFuzzingScorer)


class TokenComparing(Method[S]):
    reads = (EXPLANATIONS, PLACED_EXAMPLES, WINDOWS, Read("corpus", "corpus", ("context", "tokens")))
    schema = TOKEN_TRIALS
    nothing_there: ClassVar[str]
    "Why a trial is left out where there is nothing to compare; to ask it again would not help."

    @property
    def role(self) -> Role:
        return "instructed" if self.settings.instruction else "query"

    def tested(self, inputs: Inputs, examples: pl.DataFrame) -> dict[Key, Tested]:
        reference = inputs_hash(self.reference_windows(inputs))
        return {key: each._replace(also=(reference,)) for key, each in super().tested(inputs, examples).items()}

    def reference_windows(self, inputs: Inputs) -> list[list[int]]:
        """Windows of the corpus as they are shown, whatever fires on them: those of lowest keyed priority."""
        tokens = tokens_matrix(inputs.input("corpus").read("corpus", ["tokens"]))
        window = self.study.examples.window
        places = tokens.shape[1] // window
        context, place = np.divmod(np.arange(len(tokens) * places), places)
        order = np.argsort(keyed(self.seed, REFERENCE_WINDOW, context, place), kind="stable")
        taken = np.sort(order[: self.settings.reference_windows])
        bos = bool(self.study.corpus.bos)
        cut = ((tokens[context[i], place[i] * window :][:window].tolist(), int(place[i]) * window) for i in taken)
        return [as_shown(tokens, start, bos) for tokens, start in cut]

    def said(self, subject: Subject) -> str:
        """An explanation as the embedder reads it."""
        return self.settings.instruction + subject.explanation

    def texts(self, subjects: list[Subject], reference: Sequence[Sequence[int]]) -> list[set[str]]:
        """What is embedded: explanations, reference windows, further test windows."""
        corpus = set(self.rendering.texts(reference))
        windows = trials_by_text(subjects, self.rendering).keys()
        return [{self.said(subject) for subject in subjects}, corpus, windows - corpus]

    def compare(
        self,
        subjects: list[Subject],
        reference: Sequence[Sequence[int]],
        embedder: TextEmbedder,
        advance: Callable[[int], None],
    ) -> None:
        """Record the similarity of each trial as its `probability`; nothing is predicted, AUROC needs no threshold.

        Vectors of tokens are kept of explanations and reference windows alone; of other windows only what came of them.

        Args:
            advance: told how many texts were embedded.
        """
        said, corpus, _ = self.texts(subjects, reference)
        known = dict(embedder.stream_tokens(corpus, advance))
        space = TokenSpace.of(np.concatenate([known[text].vectors for text in sorted(known)]))
        own = len(self.settings.instruction)
        queries, spoken = {}, {}
        for text, tokens in embedder.stream_tokens(said, advance, self.role):
            of_explanation = tokens.spans[:, 0] >= own
            queries[text] = space.units(tokens.vectors[of_explanation])
            spoken[text] = tokens.spans[of_explanation]
        answers: list[dict[int, dict[str, object]]] = [{} for _ in subjects]
        windows = trials_by_text(subjects, self.rendering)
        tested = ((text, known[text]) for text in windows.keys() & known.keys())
        for text, tokens in chain(tested, embedder.stream_tokens(windows.keys() - known.keys(), advance)):
            units = space.units(tokens.vectors)
            for number, place in windows[text]:
                subject = subjects[number]
                match = self.match(queries[self.said(subject)], units, subject.trials[place], tokens.spans)
                if match is None:
                    answers[number][place] = {"status": "left_out", "reason": self.nothing_there}
                    continue
                begin, end = tokens.spans[match.window_token].tolist()
                first, last = spoken[self.said(subject)][match.explanation_token].tolist()
                answers[number][place] = {
                    "probability": match.score,
                    "status": "ok",
                    "window_token": text[begin:end].strip(),
                    "window_character": begin,
                    "explanation_token": self.said(subject)[first:last].strip(),
                }
        for subject, of_subject in zip(subjects, answers, strict=True):
            for place, trial in enumerate(subject.trials):
                left_out = {"status": "left_out", "reason": trial.left_out}
                subject.record(trial, **(of_subject[place] if trial.left_out is None else left_out))

    @abstractmethod
    def match(self, explanation: np.ndarray, window: np.ndarray, trial: Trial, spans: np.ndarray) -> Match | None:
        """How near a window lies to an explanation, and by which tokens.

        Args:
            explanation, window: float32 [tokens, d], of length 1.
            spans: where the window's tokens stand, as `TokenVectors` has it.
        """


class TokenEmbedding(TokenComparing[TokenEmbeddingScorer]):
    name = "token_embedding"
    description = "How near the tokens of an explanation lie to those of a latent's examples. No LLM."
    nothing_there = "the embedder has no token for this text or its explanation"

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return whole_texts(examples)

    def match(self, explanation: np.ndarray, window: np.ndarray, trial: Trial, spans: np.ndarray) -> Match | None:
        return maxsim(explanation, window)


class TokenFuzzing(TokenComparing[TokenFuzzingScorer]):
    """Right and wrong trials are all activating windows. How near these lie is noise, and what is not marked tells it."""

    name = "token_fuzzing"
    description = (
        "Whether an explanation's tokens lie nearer to rightly marked tokens than to wrongly marked ones. No LLM."
    )
    nothing_there = "the embedder has no token for what is marked, for the rest or for the explanation"

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        settings = self.settings
        return fuzzing.trials(latent, examples, settings.non_activating, settings.mark_threshold, self.seed)

    def match(self, explanation: np.ndarray, window: np.ndarray, trial: Trial, spans: np.ndarray) -> Match | None:
        """By how much what is marked lies nearer than the rest."""
        marked = self.marked(trial, spans)
        of_marked, of_rest = maxsim(explanation, window[marked]), maxsim(explanation, window[~marked])
        if of_marked is None or of_rest is None:
            return None
        nearest = int(np.flatnonzero(marked)[of_marked.window_token])
        return Match(of_marked.score - of_rest.score, nearest, of_marked.explanation_token)

    def marked(self, trial: Trial, spans: np.ndarray) -> np.ndarray:
        """Which of a window's tokens stand, in part at least, where it is marked; bool."""
        found = np.zeros(len(spans), dtype=bool)
        for begin, end in self.rendering.marked_characters(trial.tokens, trial.marked or []):
            found |= (spans[:, 0] < end) & (begin < spans[:, 1])
        return found
