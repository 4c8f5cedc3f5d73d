"""Concepts whose places in texts are known: `concepts.yaml`. What a judge says of them shows what the judge is worth."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from interp_assets.examples.rendering import CLOSE, HIDDEN, OPEN, Rendering
from interp_assets.scores.trials import TestExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILE = Path(__file__).with_name("concepts.yaml")
WORDS = r" ?\w+| ?[^\w\s]+|\s+"
"What counts as one token of a text: a word or signs, with the space before."
MARKED = re.compile(f"{OPEN}(.+?){CLOSE}")


class Text(NamedTuple):
    tokens: tuple[str, ...]
    "They make up the text."
    carries: tuple[bool, ...]
    "Of each token, whether the concept stands there."


class Concept(NamedTuple):
    explanation: str
    texts: tuple[Text, ...]


@cache
def concepts() -> tuple[Concept, ...]:
    listed = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(Concept(each["explanation"], tuple(map(cut, each["texts"]))) for each in listed)


def cut(marked: str) -> Text:
    """A text whose marked stretches begin and end with words."""
    tokens: list[str] = []
    carries: list[bool] = []
    for place, part in enumerate(MARKED.split(marked)):
        words = re.findall(WORDS, part)
        # A space that stands before a mark belongs to the word in it.
        if tokens and tokens[-1].isspace():
            words[0] = tokens.pop() + words[0]
            carries.pop()
        tokens += words
        carries += [place % 2 == 1] * len(words)
    return Text(tuple(tokens), tuple(carries))


@cache
def rendering() -> Rendering:
    """Shows texts of these concepts, each word of which is a token; needs no model's tokenizer."""
    return Rendering(word_tokenizer(), bos=False)


def vocabulary() -> dict[str, int]:
    """Every token of the texts, by its number."""
    words = dict.fromkeys(token for concept in concepts() for text in concept.texts for token in text.tokens)
    return {word: number for number, word in enumerate(words)}


def word_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=next(iter(vocabulary()))))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def examples_of(number: int, count: int) -> list[TestExample]:
    """Test examples of one concept: `count` texts that carry it, and as many that carry another.

    A text is a positive of its own concept and a negative of one other, so no property of texts alone tells the two
    apart. The negatives of a concept come from `count` others.

    Args:
        number: of the concept, from 0.
        count: at most `most_texts()`.
    """
    known, numbers = concepts(), vocabulary()
    width = max(len(text.tokens) for concept in known for text in concept.texts)
    found = []
    for own in (True, False):
        for place in range(count):
            text = known[number if own else (number - 1 - place) % len(known)].texts[place]
            # All windows of a latent are of one length; what fills them up is not shown.
            fill = width - len(text.tokens)
            tokens = [*(numbers[token] for token in text.tokens), *[HIDDEN] * fill]
            carries = [float(own and carried) for carried in text.carries] + [0.0] * fill
            found.append(TestExample(place if own else count + place, tokens, carries, own))
    return found


def most_texts() -> int:
    return min(len(concept.texts) for concept in concepts())
