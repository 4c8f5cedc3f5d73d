"""Twelve concepts with known examples: windows of the corpus in which one word is replaced by one of a concept.

Each concept has explanations whose order is known: the right one, a broader and a narrower one, which are half right, and
that of another concept, which is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Concept(NamedTuple):
    right: str
    broader: str
    narrower: str
    words: tuple[str, ...]
    "Ten."


CONCEPTS = [
    Concept(
        "musical instruments",
        "things that make a sound or a noise",
        "brass instruments such as trumpets",
        ("violin", "trumpet", "piano", "cello", "flute", "guitar", "harp", "clarinet", "trombone", "banjo"),
    ),
    Concept(
        "illnesses and infections",
        "matters of health and the human body",
        "rashes and infections of the skin",
        ("measles", "malaria", "pneumonia", "diabetes", "asthma", "cholera", "influenza", "scurvy", "mumps", "typhus"),
    ),
    Concept(
        "kinds of trees",
        "plants of any kind",
        "trees that keep their needles in winter",
        ("oak", "birch", "willow", "maple", "cedar", "spruce", "beech", "elm", "poplar", "chestnut"),
    ),
    Concept(
        "members of a family",
        "people and how they are related to others",
        "parents and grandparents",
        ("uncle", "niece", "grandmother", "cousin", "nephew", "aunt", "stepfather", "brother", "daughter", "widow"),
    ),
    Concept(
        "fruit",
        "food and drink",
        "citrus fruit",
        ("apple", "pear", "cherries", "mango", "banana", "plums", "grapes", "lemon", "peach", "apricot"),
    ),
    Concept(
        "capital cities of Europe",
        "places on a map",
        "capitals of Scandinavia and the Baltic states",
        ("Lisbon", "Madrid", "Vienna", "Prague", "Oslo", "Warsaw", "Athens", "Dublin", "Helsinki", "Budapest"),
    ),
    Concept(
        "vehicles",
        "machines and technical devices",
        "ships and boats",
        ("truck", "bicycle", "tram", "ferry", "motorcycle", "helicopter", "taxi", "canoe", "tractor", "submarine"),
    ),
    Concept(
        "weather",
        "nature out of doors",
        "snow and ice falling in winter",
        ("thunderstorm", "drizzle", "blizzard", "fog", "hail", "sunshine", "frost", "rain", "tornado", "heatwave"),
    ),
    Concept(
        "metals",
        "materials and substances",
        "precious metals used for jewellery",
        ("copper", "iron", "zinc", "silver", "tin", "aluminium", "nickel", "platinum", "lead", "titanium"),
    ),
    Concept(
        "crimes",
        "law and the courts",
        "taking what belongs to others",
        ("burglary", "arson", "fraud", "murder", "smuggling", "perjury", "bribery", "blackmail", "theft", "forgery"),
    ),
    Concept(
        "insects",
        "animals",
        "insects that sting",
        ("beetle", "wasp", "mosquito", "butterfly", "ants", "moth", "cricket", "bee", "locusts", "cockroach"),
    ),
    Concept(
        "feelings and moods",
        "what goes on in people's minds",
        "being afraid of something",
        ("anger", "joy", "jealousy", "fear", "grief", "pride", "shame", "envy", "despair", "delight"),
    ),
]


class Window(NamedTuple):
    text: str
    begin: int
    "Of the concept's word."
    end: int


def windows(texts: Sequence[str]) -> list[Window]:
    """Each concept's windows in order, each of its words several times: a text each, one word in its middle replaced by one of the concept.

    Args:
        texts: at least `NEEDED`, each with words enough; what else they say is left to chance.
    """
    words = [word for concept in CONCEPTS for word in concept.words * TIMES]
    return [planted(text, word) for text, word in zip(texts, words, strict=False)]


def planted(text: str, word: str) -> Window:
    places = list(re.finditer(r"\b[a-z]+\b", text))
    place = places[len(places) // 2]
    return Window(text[: place.start()] + word + text[place.end() :], place.start(), place.start() + len(word))


def partner(concept: int) -> int:
    """The concept whose explanation is this one's control."""
    return (concept + 1) % len(CONCEPTS)


def examples_of(concept: int, made: Sequence[Window]) -> tuple[list[Window], list[Window]]:
    """The windows of a concept, and as many of the ten others that are not its partner.

    Args:
        made: `windows`
    """
    others = [other for other in range(len(CONCEPTS)) if other not in (concept, partner(concept))]
    wrong = [made[others[number % len(others)] * WINDOWS + number] for number in range(WINDOWS)]
    return list(made[concept * WINDOWS : (concept + 1) * WINDOWS]), wrong


TIMES = 4
"How often each word is planted."
WINDOWS = 10 * TIMES
NEEDED = len(CONCEPTS) * WINDOWS
