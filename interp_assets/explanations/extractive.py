"""Explains by quoting: the words a latent fires on, and a few short contexts. No language model."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from interp_assets.examples.rendering import Rendering, is_blank
from interp_assets.settings import ExtractiveExplainer

WORDS_BEFORE, WORDS_AFTER = 8, 4
MIN_PRECISION = 0.3
"Words on which the latent fires more rarely than this are quoted only where there is no other."


class Word(NamedTuple):
    text: str
    activation: float
    "Strongest activation of its tokens; 0 where the latent is silent."
    blank: str = ""
    "Of white space, which stands in quotes, its name. It is told of only where the latent fires on it."


def words_of(tokens: Sequence[int], activations: Sequence[float], rendering: Rendering) -> list[Word]:
    """Tokens joined to words: a token that begins with a space or is not a letter or digit begins a new one.

    Args:
        tokens: as they are shown.
    """
    words: list[Word] = []
    open_word = False
    for each in rendering.named(tokens):
        activation = max(activations[each.first : each.last + 1])
        if open_word and each.text[:1].isalnum():
            words[-1] = Word(words[-1].text + each.text.strip(), max(words[-1].activation, activation))
        elif is_blank(each.text) and each.text:
            words.append(Word(json.dumps(each.text), activation, each.name))
        elif each.text:
            words.append(Word(each.name, activation))
        open_word = each.text[-1:].isalnum()
    return words


def explain(windows: Sequence[Sequence[Word]], settings: ExtractiveExplainer) -> str | None:
    """The explanation of one latent from the words of its explain windows, strongest window first.

    A word's weight is the activation that falls on it times the share of its occurrences, in these windows, on which
    the latent fires: what it fires on often, strongly, and hardly ever passes over. Upper and lower case count as one.

    Returns:
        None where the latent fires on no word at all.
    """
    activation: dict[str, float] = defaultdict(float)
    fired: dict[str, int] = defaultdict(int)
    seen: dict[str, int] = defaultdict(int)
    for window in windows:
        for word in window:
            key = (word.blank or word.text).lower()
            seen[key] += 1
            if word.activation > 0:
                activation[key] += word.activation
                fired[key] += 1
    weight = {word: activation[word] * fired[word] / seen[word] for word in activation}
    if not weight:
        return None
    precise = [word for word in weight if fired[word] >= MIN_PRECISION * seen[word]] or list(weight)
    best = sorted(precise, key=lambda word: (-weight[word], word))[: settings.words]
    phrases: list[str] = []
    for window in windows:
        if len(phrases) == settings.phrases:
            break
        phrase = around_peak(window)
        if phrase and phrase not in phrases:
            phrases.append(phrase)
    text = ", ".join(best)
    return text + "".join(f"; {phrase}" for phrase in phrases)


def around_peak(window: Sequence[Word]) -> str:
    """A few words around the strongest one."""
    window = [word for word in window if word.activation > 0 or not word.blank]
    if not window:
        return ""
    peak = max(range(len(window)), key=lambda i: window[i].activation)
    return " ".join(word.text for word in window[max(0, peak - WORDS_BEFORE) : peak + WORDS_AFTER + 1])
