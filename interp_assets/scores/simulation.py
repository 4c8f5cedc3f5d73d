"""Simulation (Bills et al. 2023): a language model that reads the explanation foresees the activation on every token.

all_at_once asks for one list of whole numbers a window. token_by_token asks for the probabilities of the numbers, token
after token, each behind the text up to it, and takes their expectation.

pearson: correlation of predicted and true activations over all tokens of the latent's test windows; 0 where all that is
predicted is one number, which foresees nothing. ev: share of the variance of the true activations that is explained by
the predicted ones, 10 standing for the strongest activation in these windows. Tokens of one context hang together, so
the intervals leave out one whole context at a time (the jackknife, Efron 1982), on a scale without bounds: arctanh of
pearson, as Fisher; -log(1 - ev). Student's t has as many degrees of freedom as contexts on which the latent fires, less
one: the others hold little of the variance. There is no interval of fewer than FEWEST_ACTIVE of them. (Quantiles over
resampled contexts, which stood here before, missed the truth too often; `benchmarks.few_contexts` shows both.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from interp_assets.examples.characters import REPLACED
from interp_assets.examples.rendering import HIDDEN
from interp_assets.scores.judging import max_tokens_of, names_blanks
from interp_assets.scores.method import EXAMPLES, EXPLANATIONS, AskingMethod, Most
from interp_assets.scores.statistics import score_table
from interp_assets.scores.trials import KEYS, Subject, TestExample, Trial, in_parts
from interp_assets.scores.wording_of_others import (
    SIMULATION_LAST,
    SIMULATION_LAST_QUESTION,
    SIMULATION_LIST,
    SIMULATION_LIST_QUESTION,
)
from interp_assets.settings import SimulationScorer
from interp_assets.tables import SIMULATION_TRIALS
from resources.language_models.protocol import (
    Capability,
    ChooseRequest,
    Chosen,
    Constraint,
    Generated,
    GenerateRequest,
    LanguageModel,
    Message,
)
from resources.language_models.reply_text import Unusable, json_object
from resources.language_models.structured import Answer, choose, generate, json_form

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from interp_assets.scores.pending import Pending

STRONGEST = 10
# Of two digits each, so that none is the beginning of another.
NUMBERS = tuple(f"{number:02d}" for number in range(STRONGEST + 1))
FEWEST_ACTIVE = 3
Request = ChooseRequest | GenerateRequest


@dataclass(frozen=True)
class Simulated(Trial):
    """A window whose every token is asked about; tokens that are not shown are left out."""

    activations: tuple[float, ...] = ()


class Simulation(AskingMethod[SimulationScorer]):
    name = "simulation"
    description = "Whether an LLM that reads the explanation foresees how active each token is. The costly classic."
    reads = (EXPLANATIONS, EXAMPLES)
    schema = SIMULATION_TRIALS
    code_version = "4"

    @property
    def at_once(self) -> bool:
        return self.settings.mode == "all_at_once"

    @property
    def verbs(self) -> tuple[Capability, ...]:
        return ("generate",) if self.at_once else ("choose",)

    def limit(self, count: int) -> int:
        """Tokens of a reply that tells of so many tokens at once."""
        return self.settings.max_tokens or max_tokens_of(count)

    def prompts(self) -> dict[str, str]:
        if self.at_once:
            return {"instructions": SIMULATION_LIST, "question": SIMULATION_LIST_QUESTION}
        return {"instructions": SIMULATION_LAST, "question": SIMULATION_LAST_QUESTION}

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        found: list[Trial] = []
        for each in examples:
            pairs = zip(each.tokens, each.activations, strict=True)
            tokens, activations = zip(*(p for p in pairs if p[0] != HIDDEN), strict=True)
            found.append(Simulated(each.example, each.activating, list(tokens), activations=activations))
        return found

    def requests(self, subjects: Sequence[Subject]) -> Iterator[Request]:
        return (
            request for subject in subjects for trial in subject.trials for request in self.of_trial(subject, trial)
        )

    def of_trial(self, subject: Subject, trial: Trial) -> Iterator[Request]:
        """One request for a window, or one for each of its tokens."""
        if self.at_once:
            words = self.quoted(trial.tokens)
            tokens = "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1))
            question = SIMULATION_LIST_QUESTION.format(explanation=subject.explanation, tokens=tokens, count=len(words))
            messages = (Message("system", SIMULATION_LIST), Message("user", question))
            yield GenerateRequest(messages, self.limit(len(words)), constraint=list_form(len(words)))
            return
        before, _ = SIMULATION_LAST_QUESTION.split("{text}")
        shared, blanks = len(before.format(explanation=subject.explanation)), names_blanks(subject.explanation)
        for place in range(1, len(trial.tokens) + 1):
            read = trial.tokens[:place]
            text, last = self.rendering.line(read, blanks=blanks), self.quoted(read)[-1]
            question = SIMULATION_LAST_QUESTION.format(explanation=subject.explanation, text=text, token=last)
            messages = (Message("system", SIMULATION_LAST), Message("user", question))
            yield ChooseRequest(messages, NUMBERS, subject.group, shared)

    def quoted(self, tokens: Sequence[int]) -> list[str]:
        """Each token in quotes; one that is no whole character by the character that it is a part of, or by its bytes."""
        words, names = map(self.rendering.word, tokens), self.rendering.token_names(tokens)
        return [
            name if REPLACED in word and name != word.strip() else json.dumps(word, ensure_ascii=False)
            for word, name in zip(words, names, strict=True)
        ]

    def ask(self, subjects: list[Subject], model: LanguageModel, advance: Callable[[int], None]) -> None:
        for part in in_parts(subjects):
            windows = [(subject, trial) for subject in part for trial in subject.trials]
            requests = [[*self.of_trial(subject, trial)] for subject, trial in windows]
            answers = self.answered(requests, [len(trial.tokens) for _, trial in windows], model, advance)
            for (subject, trial), mine in zip(windows, answers, strict=True):
                assert isinstance(trial, Simulated)
                subject.record(trial, activations=trial.activations, **together(mine))

    def answered(
        self, requests: Sequence[Any], lengths: Sequence[int], model: LanguageModel, advance: Callable[[int], None]
    ) -> Iterator[list[Answer[list[float]]]]:
        """The answers to the requests of each window, whose tokens they tell of together."""
        flat = [request for each in requests for request in each]
        if self.at_once:
            read = partial(read_window, lengths)
            return (
                [answer]
                for answer in generate(model, flat, read, lambda _: advance(1), f"scorers.{self.name}.max_tokens")
            )
        lasts = {*np.cumsum(lengths) - 1}
        answers = iter(choose(model, flat, lambda _, reply: [expectation(reply)], lambda i: advance(int(i in lasts))))
        return ([next(answers) for _ in range(length)] for length in lengths)

    def scores(self, inputs: Inputs, todo: Pending, trials: pl.DataFrame) -> pl.DataFrame:
        examples = inputs.input("examples").read("examples", ["latent", "example", "purpose", "kind", "context"])
        tests = examples.filter(pl.col("purpose") == "test")
        tests = tests.select("latent", "example", "context", expected=pl.col("kind") == "activating")
        placed = trials.join(tests, on=["latent", "example", "expected"], how="left", maintain_order="left")
        return score_table(placed, simulated, "no answered trial on which the latent fires")

    def most(self) -> list[Most]:
        windows = self.settings.activating + self.settings.non_activating
        length = self.study.examples.window
        # A line for each token takes about as much as three tokens of a text.
        return [Most(windows, 3, self.limit(length)) if self.at_once else Most(windows * length, 1, 0)]


def list_form(count: int) -> Constraint:
    number = {"type": "integer", "enum": [*range(STRONGEST + 1)]}
    return json_form({"activations": {"type": "array", "items": number, "minItems": count, "maxItems": count}})


def read_numbers(reply: Generated, count: int) -> list[float]:
    """
    Raises:
        Unusable: the reply does not hold exactly so many whole numbers from 0 to 10.
    """
    found = json_object(reply, "activations").get("activations")
    numbers = range(STRONGEST + 1)
    if not isinstance(found, list) or len(found) != count or not all(type(x) is int and x in numbers for x in found):
        raise Unusable(f"`activations` is not a list of {count} whole numbers from 0 to {STRONGEST}")
    return [float(x) for x in found]


def read_window(lengths: Sequence[int], place: int, reply: Generated) -> list[float]:
    return read_numbers(reply, lengths[place])


def expectation(reply: Chosen) -> float:
    """Of the number, 0 to 10, under the probabilities that the engine gives to NUMBERS.

    Raises:
        Unusable: it gives none of them any.
    """
    logs = np.array(reply.log_probabilities)
    if not np.isfinite(logs).any():
        raise Unusable("the engine gave none of the numbers a probability")
    weights = np.exp(logs - logs.max())
    return float(weights @ np.arange(STRONGEST + 1) / weights.sum())


def together(answers: Sequence[Answer[list[float]]]) -> dict[str, Any]:
    """The columns of a trial from the answers to all of its requests; it fails where one of them does."""
    records = [answer.record() for answer in answers]
    first = next((each for each in records if each["status"] != "ok"), None)
    waiting = next((each for each in records if each["status"] == "not_asked"), None)
    worst = waiting or first
    found: dict[str, Any] = {
        "status": worst["status"] if worst else "ok",
        "reason": worst["reason"] if worst else None,
        "prompt_hash": " ".join(each["prompt_hash"] for each in records),
        "raw_reply": answers[0].raw_reply or None,
    }
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        found[name] = sum(each[name] for each in records)
    if worst is None:
        found["predicted_activations"] = [number for answer in answers for number in answer.value or []]
    return found


def simulated(kept: pl.DataFrame) -> list[pl.DataFrame]:
    """pearson and ev of each latent, from answered trials with column context."""
    rows = []
    for key, group in kept.group_by(KEYS, maintain_order=True):
        predicted, true = group["predicted_activations"].to_list(), group["activations"].to_list()
        for statistic, value, low, high in correlations(predicted, true, group["context"].to_list()):
            rows.append((*key, statistic, value, low, high))
    names = [*KEYS, "statistic", "value", "low", "high"]
    return [pl.DataFrame(rows, schema=names, orient="row").cast({"latent": pl.UInt32})] if rows else []


def correlations(
    predicted: Sequence[Sequence[float]], true: Sequence[Sequence[float]], contexts: Sequence[int]
) -> Iterator[tuple[str, float, float, float]]:
    """statistic, value, low, high of pearson and ev.

    Args:
        predicted, true: for each window the numbers of its tokens.
        contexts: for each window where it comes from.
    """
    from scipy.special import stdtrit  # loading it takes longer than what else a plan imports

    strongest = max(map(max, true))
    sums: dict[int, np.ndarray] = {}
    for x, y, context in zip(predicted, true, contexts, strict=True):
        a, b = np.array(x, dtype=np.float64) / STRONGEST * strongest, np.array(y, dtype=np.float64)
        own = np.array([len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b])
        sums[context] = sums.get(context, np.zeros(6)) + own
    parts = np.array([*sums.values()])
    whole, count = parts.sum(0), len(parts)
    active = int((parts[:, 2] > 0).sum())
    for statistic, of, scale, back in (("pearson", pearson, arctanh, np.tanh), ("ev", explained_variance, gain, lost)):
        value = of(whole[None])
        with np.errstate(invalid="ignore", over="ignore"):
            without = scale(of(whole - parts)) if active >= FEWEST_ACTIVE else np.full(count, math.nan)
            error = math.sqrt((count - 1) * np.var(without))
            # Where nothing differs, nothing is known of how contexts differ.
            half = stdtrit(active - 1, 0.975) * error if error > 0 else math.nan
            low, high = back(scale(value)[0] + np.array([-half, half]))
        yield statistic, float(value[0]), float(low), float(high)


def arctanh(r: np.ndarray) -> np.ndarray:
    """Fisher's z; finite where r is 1 or -1."""
    return np.arctanh(np.clip(r, -1 + 1e-9, 1 - 1e-9))


def gain(ev: np.ndarray) -> np.ndarray:
    """-log of the share of variance that is left; finite where none is."""
    return -np.log(np.maximum(1 - ev, 1e-9))


def lost(gain: np.ndarray) -> np.ndarray:
    """The ev of a `gain`."""
    return 1 - np.exp(-gain)


def pearson(sums: np.ndarray) -> np.ndarray:
    """Correlations float64 [samples], from float64 [samples, 6]: n and the sums of a, b, a a, b b, a b."""
    n, a, b, aa, bb, ab = sums.T
    both = np.maximum(aa - a * a / n, 0) * np.maximum(bb - b * b / n, 0)
    # What is left of equal numbers after subtraction is rounding.
    flat = (aa - a * a / n <= 1e-9 * aa) | (bb - b * b / n <= 1e-9 * bb)
    return np.where(flat, 0.0, (ab - a * b / n) / np.sqrt(np.where(flat, 1.0, both)))


def explained_variance(sums: np.ndarray) -> np.ndarray:
    """1 - sum (b - a)^2 / sum (b - mean b)^2, float64 [samples]; NaN where b is one number throughout."""
    n, _, b, aa, bb, ab = sums.T
    spread = bb - b * b / n
    return np.where(spread > 1e-9 * bb, 1 - (aa + bb - 2 * ab) / np.where(spread > 0, spread, 1.0), math.nan)
