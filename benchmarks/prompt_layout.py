"""Of the judges' prompts, the share of tokens that a prefix cache can serve; beside it the same with the text first.

Real windows of the demo's corpus, 50 + 50 a latent, under an explanation of typical length, in the demo's chat format.
A latent is stood in for by a token of the text: it is active where that token stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import polars as pl

from benchmarks.measuring import quick, show
from interp_assets.examples.rendering import Rendering
from interp_assets.scores import fuzzing
from interp_assets.scores.judging import requests
from interp_assets.scores.trials import Subject, TestExample, whole_texts
from interp_assets.scores.wording import Wording, wording_of
from interp_assets.settings import JudgeScorer
from interp_assets.study import PROJECT
from interp_assets.worked_examples import as_text
from resources.language_models.prefix_share import PrefixShare, prefix_share
from resources.tokenizers import do_without_torch, load_tokenizer, prompt_texts, token_ids

WINDOW, TRIALS_OF_A_KIND, REQUIRED = 32, 50, 0.8
SCORER = JudgeScorer(engine="judge")


def main() -> None:
    do_without_torch()
    latents = 10 if quick() else 100
    show("latents", latents)
    show("examples_per_latent", 2 * TRIALS_OF_A_KIND)
    show("explanation_tokens_mean", float(np.mean([len(text().ids(each.explanation)) for each in subjects(latents)])))
    shares = {}
    for method in ("detection", "fuzzing"):
        wording = wording_of(method, SCORER)
        for name, layout in ((method, wording), (f"{method}_text_first", text_first(wording))):
            found = share(method, latents, layout)
            show(f"{name}_prompt_tokens_mean", found.tokens / found.prompts)
            show(f"{name}_computed_tokens_per_prompt", (found.tokens - found.cacheable) / found.prompts)
            show(f"{name}_repeated_share_ratio", found.repeated_share)
            show(f"{name}_cacheable_share_ratio", found.cacheable_share)
            shares[name] = found.cacheable_share
    assert min(shares["detection"], shares["fuzzing"]) >= REQUIRED, shares


def share(method: str, latents: int, wording: Wording) -> PrefixShare:
    asked = requests(subjects(latents, method), wording, SCORER, text().rendering, seed=0)
    tokenizer = text().rendering.tokenizer
    return prefix_share(token_ids(tokenizer, prompt_texts(tokenizer, [request.messages for request in asked])))


def text_first(wording: Wording) -> Wording:
    """The layout that a cache serves badly: what differs from prompt to prompt stands before what does not."""
    question = "Text: {text}\n\n" + as_text(wording.beginning()) + "\n\n{explanation}"
    return wording._replace(instructions="", examples=(), question=question)


class Text(NamedTuple):
    rendering: Rendering
    windows: np.ndarray
    "Token ids, uint32 [windows, WINDOW]."

    def ids(self, words: str) -> list[int]:
        return token_ids(self.rendering.tokenizer, [words])[0]


@cache
def text() -> Text:
    rendering = Rendering(load_tokenizer(PROJECT / "demo" / "weights" / "SmolLM2-135M-Instruct"))
    documents = pl.read_parquet(PROJECT / "demo" / "corpus.parquet")["text"].head(600).to_list()
    ids = np.concatenate([np.array(each) for each in token_ids(rendering.tokenizer, documents)]).astype(np.uint32)
    return Text(rendering, ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW))


def subjects(latents: int, method: str = "detection") -> list[Subject]:
    found = []
    for latent, token in zip(range(latents), words_of_the_text(), strict=False):
        examples = examples_of(latent, token)
        trials = whole_texts(examples)
        if method == "fuzzing":
            trials = fuzzing.trials(latent, examples, TRIALS_OF_A_KIND, 0.3, seed=0)
        around = [text().rendering.text(each.tokens[:16]) for each in examples[:1]]
        explanation = f"the word{text().rendering.word(token)}; {around[0].strip()}"
        found.append(Subject(latent, "extractive", "none", explanation, trials))
    return found


def words_of_the_text() -> Iterator[int]:
    """Tokens that begin a word and stand in enough windows, the rarest first."""
    windows = text().windows
    often = np.bincount(np.unique(windows + np.arange(len(windows))[:, None] * 2**17).astype(np.int64) % 2**17)
    for token in np.argsort(often, kind="stable"):
        piece = text().rendering.word(int(token)) if often[token] >= TRIALS_OF_A_KIND else ""
        if piece.startswith(" ") and piece[1:].isalpha():
            yield int(token)


def examples_of(latent: int, token: int) -> list[TestExample]:
    windows = text().windows[np.random.default_rng(latent).permutation(len(text().windows))]
    active = (windows == token).any(1)
    found = []
    for wanted in (True, False):
        for number, window in enumerate(windows[active == wanted][:TRIALS_OF_A_KIND].tolist()):
            found.append(TestExample(number, window, [float(each == token) for each in window], wanted))
    return found


if __name__ == "__main__":
    main()
