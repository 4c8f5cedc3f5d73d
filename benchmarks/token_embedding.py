"""Scores from vectors of tokens beside the embedding score: planted concepts, graded explanations, and the demo's latents.

    python -m benchmarks.token_embedding [--quick] [--latents=N] [STUDY]

All ways to compare that were tried are shown; SHIPPED is the one that is used. Fuzzing asks the same of marked tokens.
`shuffled` is another latent's explanation. Intervals are 95 %, by Student's t over concepts or latents. Latents are N of
each layer of the demo's study, or of another one that is named, as far as their examples and explanations are made.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.measuring import quick, show
from benchmarks.planted_concepts import CONCEPTS, NEEDED, Window, examples_of, partner, windows
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.freshness import Freshness
from interp_assets.job import Inputs
from interp_assets.scores.embedding import Embedding
from interp_assets.scores.pending import subjects_of, tested_of
from interp_assets.scores.token_embedding import TokenComparing, TokenEmbedding, TokenFuzzing
from interp_assets.scores.token_vectors import NEAREST, TokenSpace, maxsim, scaled
from interp_assets.scores.trials import Subject, TestExample
from interp_assets.settings import EmbeddingScorer, TokenEmbeddingScorer, TokenFuzzingScorer
from interp_assets.study import PROJECT, Study, load_study
from resources.text_embedder import TextEmbedder, TokenVectors

EMBEDDER = PROJECT / "demo" / "weights" / "all-MiniLM-L6-v2"
NAMED = [int(each.removeprefix("--latents=")) for each in sys.argv[1:] if each.startswith("--latents=")]
LATENTS = NAMED[0] if NAMED else 10 if quick() else None
ALL = 10**6
SHIPPED = f"maxsim_direction_away_nearest_{NEAREST}"
"What `scores/token_embedding` does; `scores/token_fuzzing` takes the rest of the window's away."
Score = Callable[["Text", "Text", np.ndarray], float]
"Of an explanation, a window, and the numbers of the window's tokens that are looked at."


class Text(NamedTuple):
    tokens: TokenVectors
    pooled: np.ndarray
    "float32 [d], of length 1"


class Reference(NamedTuple):
    """What the vectors of windows of the corpus have in common."""

    spaces: dict[int, TokenSpace]
    "By how many directions are taken away."
    pooled: np.ndarray


class Read:
    """Every text of some subjects, embedded once."""

    def __init__(self, embedder: TextEmbedder, texts: Iterable[str]) -> None:
        found = dict(embedder.stream_tokens(set(texts)))
        names = list(found)
        vectors = embedder.embed(names)
        self.texts = {name: Text(found[name], vector) for name, vector in zip(names, vectors, strict=True)}


def variants(reference: Reference) -> dict[str, Score]:
    plain, one = reference.spaces[0], reference.spaces[1]
    as_they_are = TokenSpace(np.zeros_like(plain.mean), np.zeros((0, len(plain.mean)), np.float32))

    def pooled_centred(said: Text, seen: Text, at: np.ndarray) -> float:
        one, other = (scaled((each.pooled - reference.pooled)[None])[0] for each in (said, seen))
        return float(one @ other)

    def largest_of_pooled(said: Text, seen: Text, at: np.ndarray) -> float:
        mean = scaled(said.tokens.vectors.mean(0)[None] - plain.mean)[0]
        return float((plain.units(seen.tokens.vectors[at]) @ mean).max())

    def late(space: TokenSpace, nearest: int) -> Score:
        explanations: dict[int, np.ndarray] = {}

        def score(said: Text, seen: Text, at: np.ndarray) -> float:
            if id(said) not in explanations:
                explanations[id(said)] = space.units(said.tokens.vectors)
            match = maxsim(explanations[id(said)], space.units(seen.tokens.vectors[at]), nearest)
            return match.score if match else np.nan

        return score

    def less_the_rest(score: Score) -> Score:
        def difference(said: Text, seen: Text, at: np.ndarray) -> float:
            rest = np.setdiff1d(np.arange(len(seen.tokens.spans)), at)
            return score(said, seen, at) - score(said, seen, rest) if len(rest) else np.nan

        return difference

    return {
        "pooled": lambda said, seen, at: float(said.pooled @ seen.pooled),
        "pooled_centred": pooled_centred,
        "largest_of_pooled_centred": largest_of_pooled,
        "maxsim": late(as_they_are, ALL),
        "maxsim_centred": late(plain, ALL),
        "maxsim_centred_nearest_10": late(plain, 10),
        "maxsim_direction_away": late(one, ALL),
        "maxsim_direction_away_nearest_1": late(one, 1),
        "maxsim_direction_away_nearest_5": late(one, 5),
        "maxsim_directions_away_nearest_10": late(reference.spaces[3], 10),
        "maxsim_direction_away_nearest_10": late(one, 10),
        "maxsim_direction_away_nearest_10_less_the_rest": less_the_rest(late(one, 10)),
    }


def main() -> None:
    files = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    study = load_study(Path(files[0]) if files else PROJECT / "studies" / "smollm2_demo.yaml")
    model = {"model": str(EMBEDDER)}
    whole, marked = TokenEmbeddingScorer(**model), TokenFuzzingScorer(**model)
    methods: list[TokenComparing[Any]] = [TokenEmbedding(study, whole), TokenFuzzing(study, marked)]
    embedder = TextEmbedder(EMBEDDER, device="cpu")
    corpus = reference_of(study, methods[0], embedder)
    for method in methods:
        name = "detection" if method.name == "token_embedding" else "fuzzing"
        planted = planted_subjects(method)
        table(f"planted_{name}", method, planted, corpus, embedder)
        if name == "detection":
            graded(method, corpus, embedder)
        if real := real_subjects(study, method):
            table(f"demo_{name}", method, real, corpus, embedder)
    if real := real_subjects(study, methods[0]):
        times(study, methods[0], real)
    else:
        print("The demo's examples are not made: make demo, then again.", file=sys.stderr)


def reference_of(study: Study, method: TokenComparing[Any], embedder: TextEmbedder) -> Reference:
    texts = set(method.rendering.texts(method.reference_windows(inputs_of(study, None))))
    read = Read(embedder, texts).texts.values()
    vectors = np.concatenate([text.tokens.vectors for text in read])
    spaces = {taken_away: TokenSpace.of(vectors, taken_away) for taken_away in (0, 1, 3)}
    return Reference(spaces, np.mean([text.pooled for text in read], axis=0))


def inputs_of(study: Study, layer: str | None) -> Inputs:
    freshness = Freshness(study)
    return Inputs(study, freshness.assets["examples"], layer, freshness)


def planted_subjects(method: TokenComparing[Any], explanations: str = "right") -> list[Subject]:
    found = []
    made = windows(texts_to_plant_in(method))
    for number, concept in enumerate(CONCEPTS):
        right, wrong = examples_of(number, made)
        examples = [example(method, place, each, True) for place, each in enumerate(right)]
        examples += [example(method, place, each, False) for place, each in enumerate(wrong)]
        trials = method.trials(number, examples)
        other = CONCEPTS[partner(number)].right
        text = other if explanations == "wrong" else getattr(concept, explanations)
        found.append(Subject(number, "planted", "none", text, trials))
        found.append(Subject(number, "planted", "shuffled", other, trials))
    return found


def texts_to_plant_in(method: TokenComparing[Any]) -> list[str]:
    """Windows of the demo's corpus with words enough."""
    tokens = tokens_matrix(inputs_of(method.study, None).input("corpus").read("corpus", ["tokens"]))
    drawn = np.random.default_rng(0).permutation(len(tokens))
    texts = (method.rendering.text(tokens[context, 64:96].tolist()) for context in drawn)
    return list(islice((text for text in texts if len(re.findall(r"\b[a-z]{3,}\b", text)) >= 12), NEEDED))


def example(method: TokenComparing[Any], number: int, shown: Window, activating: bool) -> TestExample:
    ids = method.rendering.tokenizer(shown.text, return_offsets_mapping=True, add_special_tokens=False)
    spans = ids["offset_mapping"]
    activations = [float(begin < shown.end and shown.begin < end) * activating for begin, end in spans]
    # Windows are of one length.
    missing = 64 - len(spans)
    return TestExample(number, [*ids["input_ids"], *[-1] * missing], [*activations, *[0.0] * missing], activating)


def real_subjects(study: Study, method: Any) -> list[Subject]:
    found = []
    for layer in (each.key for each in study.layers if each.control is None):
        inputs = inputs_of(study, layer)
        if any(inputs.freshness.current(asset, layer) is None for asset in ("examples", "explanations")):
            continue
        examples = method.examples(inputs)
        tested = {key: each for key, each in tested_of(inputs, method, examples).items() if key[1] == "extractive"}
        chosen = sorted({key[0] for key in tested})[:LATENTS]
        found += subjects_of(method, tested, examples, [key for key in tested if key[0] in chosen])
    return found


def table(
    title: str, method: TokenComparing[Any], subjects: list[Subject], reference: Reference, embedder: TextEmbedder
) -> None:
    said, _, shown = method.texts(subjects, [])
    read = Read(embedder, said | shown).texts
    base: np.ndarray | None = None
    own = [subject for subject in subjects if subject.control == "none"]
    shuffled = [subject for subject in subjects if subject.control == "shuffled"]
    show(f"{title}_explanations", len(own))
    for name, score in variants(reference).items():
        whole = method.name == "token_embedding"
        if (name.startswith("pooled") and not whole) or (name.endswith("less_the_rest") and whole):
            continue
        values = np.array([auroc(method, subject, read, score) for subject in own])
        base = values if base is None else base
        interval(f"{title}_{name}", values)
        interval(f"{title}_{name}_shuffled", np.array([auroc(method, each, read, score) for each in shuffled]))
        if name == SHIPPED:
            interval(f"{title}_{name}_above_{'pooled' if whole else 'largest_of_pooled'}", values - base)


def auroc(method: TokenComparing[Any], subject: Subject, read: dict[str, Text], score: Score) -> float:
    trials = [trial for trial in subject.trials if trial.left_out is None]
    texts = method.rendering.texts([trial.tokens for trial in trials])
    said, pairs = read[subject.explanation], []
    for trial, text in zip(trials, texts, strict=True):
        spans = read[text].tokens.spans
        at = np.arange(len(spans))
        if isinstance(method, TokenFuzzing):
            at = np.flatnonzero(method.marked(trial, spans))
        if len(at):
            pairs.append((trial.expected, score(said, read[text], at)))
    expected, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return float(roc_auc_score(expected, values)) if len(set(expected)) == 2 else np.nan


def interval(name: str, values: np.ndarray) -> None:
    values = values[~np.isnan(values)]
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    show(f"{name}_auroc", float(values.mean()))
    show(f"{name}_auroc_low", float(values.mean() - half))
    show(f"{name}_auroc_high", float(values.mean() + half))


def graded(method: TokenComparing[Any], reference: Reference, embedder: TextEmbedder) -> None:
    """Explanations whose order is known, on the same windows."""
    for name in ("pooled", SHIPPED):
        score, of_grade = variants(reference)[name], {}
        for grade in ("right", "broader", "narrower", "wrong"):
            subjects = [each for each in planted_subjects(method, grade) if each.control == "none"]
            said, _, shown = method.texts(subjects, [])
            read = Read(embedder, said | shown).texts
            of_grade[grade] = np.array([auroc(method, subject, read, score) for subject in subjects])
            interval(f"graded_{name}_{grade}", of_grade[grade])
        half = (of_grade["broader"] + of_grade["narrower"]) / 2
        show(f"graded_{name}_right_above_half_right_share", float((of_grade["right"] > half).mean()))
        show(f"graded_{name}_half_right_above_wrong_share", float((half > of_grade["wrong"]).mean()))


def times(study: Study, method: TokenComparing[Any], subjects: list[Subject]) -> None:
    """Both scores of the same explanations, each with an embedder that knows nothing yet; seconds of one processor."""
    embedding = Embedding(study, EmbeddingScorer(model=str(EMBEDDER)))
    corpus = method.reference_windows(inputs_of(study, None))
    torch.set_num_threads(1)

    def pooled(embedder: TextEmbedder) -> None:
        embedding.compare(subjects, embedder, lambda n: None)

    def tokens(embedder: TextEmbedder) -> None:
        method.compare(subjects, corpus, embedder, lambda n: None)

    alone, late = TextEmbedder(EMBEDDER, device="cpu"), TextEmbedder(EMBEDDER, device="cpu")
    steps = {
        "embedding": lambda: pooled(alone),
        "token_embedding": lambda: tokens(late),
        "embedding_after_token_embedding": lambda: pooled(late),
    }
    found = {}
    for name, step in steps.items():
        start = time.process_time()
        step()
        found[name] = time.process_time() - start
        show(f"{name}_processor_seconds", found[name])
    show("token_embedding_over_embedding_seconds_ratio", found["token_embedding"] / found["embedding"])


if __name__ == "__main__":
    main()
