"""Generation: a language model writes texts that the explanation fits; on how many of them does the latent fire?

It tests whether an explanation is enough to make the latent fire, where the other scores ask whether it tells apart
texts that are there. Each explanation is asked for once, and all its texts come in one reply.

generation_rate: share of the texts on which the latent fires. strength: mean over the texts of its strongest activation
on each, as a share of its strongest on the corpus; its interval, as for all means, in `interp_assets.means`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from interp_assets.asset import Read
from interp_assets.means import Moments, interval, moments_of
from interp_assets.scores.judging import NOTHING
from interp_assets.scores.method import EXPLANATIONS, SAE, AskingMethod, Most
from interp_assets.scores.statistics import score_table, share
from interp_assets.scores.trials import KEYS, Key, Subject, Tested, TestExample, Trial, in_parts
from interp_assets.scores.wording_of_others import GENERATION, GENERATION_QUESTION
from interp_assets.settings import GenerationScorer
from interp_assets.tables import EXAMPLES, GENERATION_TRIALS
from resources.language_models.protocol import Constraint, Generated, GenerateRequest, LanguageModel, Message
from resources.language_models.reply_text import Unusable, json_object
from resources.language_models.structured import generate, json_form

if TYPE_CHECKING:
    from interp_assets.job import Inputs
    from interp_assets.scores.pending import Pending

Row = dict[str, Any]


class Generation(AskingMethod[GenerationScorer]):
    name = "generation"
    code_version = "4"
    description = "On how many of the texts that an LLM writes from the explanation the latent fires, and how strongly."
    reads = (EXPLANATIONS, SAE, Read("latent_statistics", "statistics", ("latent", "max_activation")))
    schema = GENERATION_TRIALS
    verbs = ("generate",)

    def prompts(self) -> dict[str, str]:
        return {"instructions": GENERATION, "question": GENERATION_QUESTION}

    def examples(self, inputs: Inputs) -> pl.DataFrame:
        """None: it makes its own."""
        return pl.DataFrame(schema=EXAMPLES)

    def tested(self, inputs: Inputs, examples: pl.DataFrame) -> dict[Key, Tested]:
        strongest = strongest_of(inputs)
        found = super().tested(inputs, examples)
        return {key: each._replace(also=(strongest[key[0]],)) for key, each in found.items()}

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return [Trial(number, True, []) for number in range(self.settings.texts)]

    def requests(self, subjects: Sequence[Subject]) -> Iterator[GenerateRequest]:
        count = self.settings.texts
        for subject in subjects:
            question = GENERATION_QUESTION.format(explanation=subject.explanation, count=count)
            messages = (Message("system", GENERATION), Message("user", question))
            yield GenerateRequest(messages, self.settings.max_tokens, constraint=texts_form(count))

    def ask(self, subjects: list[Subject], model: LanguageModel, advance: Callable[[int], None]) -> None:
        """Record the texts; what the latents do on them is added by `add_activations`."""
        count = self.settings.texts
        for part in in_parts(subjects):
            answers = generate(
                model,
                [*self.requests(part)],
                lambda _, reply: read_texts(reply, count),
                lambda _: advance(count),
                f"scorers.{self.name}.max_tokens",
            )
            for subject, answer in zip(part, answers, strict=True):
                for place, trial in enumerate(subject.trials):
                    # What was said and what it cost is told once, on the first text.
                    record = answer.record() if place == 0 else answer._replace(usage=NOTHING).record()
                    text = None if answer.value is None else answer.value[place]
                    subject.record(trial, text=text, raw_reply=answer.raw_reply if place == 0 else None, **record)

    def scores(self, inputs: Inputs, todo: Pending, trials: pl.DataFrame) -> pl.DataFrame:
        def statistics(kept: pl.DataFrame) -> list[pl.DataFrame]:
            strength = kept.group_by(KEYS, maintain_order=True).agg(
                **moments_of(pl.col("share_of_maximum").cast(pl.Float64))
            )
            low, high = map(pl.Series, interval(Moments.read(strength), (0, math.inf)))
            strength = strength.select(*KEYS, statistic=pl.lit("strength"), value="mean", low=low, high=high)
            return [share(kept, "generation_rate"), strength] if len(kept) else []

        return score_table(trials, statistics, "no text was written")

    def most(self) -> list[Most]:
        return [Most(1, 0, self.settings.max_tokens)]


def strongest_of(inputs: Inputs) -> dict[int, float]:
    """The strongest activation of each latent on the corpus."""
    table = inputs.input("latent_statistics").read("statistics", ["latent", "max_activation"])
    return dict(table.with_columns(pl.col("max_activation").fill_null(0)).iter_rows())


def texts_of(subjects: Sequence[Subject]) -> dict[str, list[int]]:
    """Each text that was written, with the latents that are looked at on it."""
    found: dict[str, list[int]] = {}
    for row in written_rows(subjects):
        found.setdefault(row["text"], []).append(row["latent"])
    return found


def add_activations(
    subjects: Sequence[Subject], activations: dict[tuple[str, int], float], strongest: dict[int, float]
) -> None:
    """Complete the rows of texts.

    Args:
        activations: of each text and latent, the strongest.
        strongest: of each latent, on the corpus.
    """
    for row in written_rows(subjects):
        value, most = activations[row["text"], row["latent"]], strongest[row["latent"]]
        row |= {"max_activation": value, "share_of_maximum": value / most if most else None, "predicted": value > 0}


def written_rows(subjects: Sequence[Subject]) -> Iterator[Row]:
    return (row for subject in subjects for row in subject.rows if row["text"] is not None)


def texts_form(count: int) -> Constraint:
    return json_form({"texts": {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count}})


def read_texts(reply: Generated, count: int) -> list[str]:
    """
    Raises:
        Unusable: the reply does not hold exactly so many texts.
    """
    texts = json_object(reply, "texts").get("texts")
    if not isinstance(texts, list) or len(texts) != count or not all(isinstance(x, str) and x.strip() for x in texts):
        cut = "" if reply.finished else " before it was cut off; write shorter texts"
        raise Unusable(f"`texts` is not a list of {count} texts{cut}")
    return texts
