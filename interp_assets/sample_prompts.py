"""Prompts of a study's form and length, made up where its own cannot be built yet. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from interp_assets.examples.rendering import Rendering
from interp_assets.explanations.prompts import form_of, prompt
from interp_assets.settings import LlmExplainer
from interp_assets.study import Study
from resources.language_models.protocol import GenerateRequest, Request

if TYPE_CHECKING:
    from interp_assets.scores.method import Method

SAMPLE = 20
"Prompts."
NEW_TOKENS = 8
SENTENCE = "the river ran past the mill and on to the sea, "


def made_up_window(study: Study, rendering: Rendering, draw: Random) -> Callable[[], list[int]]:
    """Gives windows, each a sentence behind a few words that differ."""
    length = study.examples.window
    sentence = rendering.tokenizer(SENTENCE * length, add_special_tokens=False)["input_ids"]

    def window() -> list[int]:
        new = [draw.randrange(len(rendering.tokenizer)) for _ in range(NEW_TOKENS)]
        return [*new, *sentence][:length]

    return window


def of_explainer(study: Study, explainer: LlmExplainer, rendering: Rendering, draw: Random) -> list[Request]:
    window, length = made_up_window(study, rendering, draw), study.examples.window
    found: list[Request] = []
    for _ in range(SAMPLE):
        windows = [(window(), [float(place % 8 == 0) for place in range(length)]) for _ in range(explainer.n_examples)]
        messages = prompt(windows, None, explainer, rendering)
        found.append(GenerateRequest(messages, explainer.max_tokens, constraint=form_of(explainer)))
    return found


def of_method(study: Study, method: Method[Any], rendering: Rendering, draw: Random) -> list[Request]:
    from interp_assets.scores.calibration import SINGLE, of_size
    from interp_assets.scores.judged import Judged
    from interp_assets.scores.trials import Subject, TestExample

    window, length = made_up_window(study, rendering, draw), study.examples.window
    if isinstance(method, Judged) and method.settings.list_sizes:
        # Single prompts are asked first.
        method = type(method)(study, of_size(method.settings, SINGLE))

    def examples() -> Iterator[TestExample]:
        for number in range(SAMPLE):
            # Every second one is active, each at another place.
            active = [float(number % 2 == 0 and place == number % length) for place in range(length)]
            yield TestExample(number, window(), active, number % 2 == 0)

    subjects = (
        Subject(latent, "sample", "none", SENTENCE + rendering.text(window()), method.trials(latent, [*examples()]))
        for latent in range(SAMPLE * SAMPLE)
    )
    return [*islice((request for subject in subjects for request in method.requests([subject])), SAMPLE)]
