"""How well right fuzzing marks can be told from wrong ones without knowing the latent, by kinds of tokens and by position, with
`marks: pattern` and with `marks: matched`; on the activating examples of one layer of a study.

    python -m benchmarks.marks [--quick] [--study FILE] [--layer KEY]

Where the study's examples have been drawn they are read. --quick draws those of a small part of the demo's text in float32.
A classifier is trained on some latents and tested on the others; .5 is chance. Intervals are 95 %, clustered by latent.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.blind_classifier import ToldApart, told_apart
from benchmarks.measuring import show
from interp_assets.examples.rendering import Rendering
from interp_assets.examples.token_kinds import KINDS, TokenKinds, log_rank
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.scores.fuzzing import trials
from interp_assets.scores.trials import TestExample, Trial, test_examples
from interp_assets.study import PROJECT, Study, load_study
from resources.loaded_models import LoadedModels

DEMO = PROJECT / "studies" / "smollm2_demo.yaml"
THRESHOLD = 0.3
RANK_BINS = np.arange(0, 20, 2)
Trials = dict[int, list[Trial]]
"Of each latent, those that are asked."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.marks")
    parser.add_argument("--quick", action="store_true", help="a small part of the demo's text")
    parser.add_argument("--study", type=Path, default=DEMO)
    parser.add_argument("--layer", help="the study's second where left out, or its only one")
    asked = parser.parse_args()
    study = load_study(asked.study)
    layer = asked.layer or [each.key for each in study.layers][:2][-1]
    with tempfile.TemporaryDirectory() as folder:
        examples = examples_of(small(study, folder) if asked.quick else study, layer)
    print(f"layer: {layer}")
    show("latents", len(examples))
    kinds = TokenKinds(Rendering.of(study).word)
    for name, by in (("pattern", None), ("matched", kinds)):
        made = {
            latent: trials(latent, each, len(each), THRESHOLD, study.examples.seed, by)
            for latent, each in examples.items()
        }
        show_audit(name, made, kinds)


def small(study: Study, folder: str) -> Study:
    corpus = study.corpus.model_copy(update={"tokens": 64 * study.corpus.context_length})
    examples = study.examples.model_copy(update={"min_windows": 30, "latents": 120})
    subject = study.subject_model.model_copy(update={"dtype": "float32"})
    changes = {"storage": folder, "subject_model": subject, "corpus": corpus, "examples": examples}
    return study.model_copy(update=changes)


def examples_of(study: Study, layer: str) -> dict[int, list[TestExample]]:
    """The activating examples of each latent that is interpreted, those to explain from among them; drawn where they are not."""
    one = study.model_copy(update={"layers": (study.layer(layer),)})
    partition = Freshness(study).current("examples", layer)
    if partition is None:
        models = LoadedModels()
        for asset in ("sae_weights", "corpus", "activation_cache", "examples"):
            partition = make_partition(one, asset, "all" if asset == "corpus" else layer, models).partition
    assert partition is not None
    table = partition.read("examples").filter(kind="activating").sort("latent", "purpose", "example")
    # Numbers start anew with each purpose.
    table = table.with_columns(example=pl.int_range(pl.len()).over("latent"))
    return test_examples(table, bool(study.corpus.bos))


def show_audit(name: str, made: Trials, kinds: TokenKinds) -> None:
    every = [trial for each in made.values() for trial in each]
    show(f"{name}_trials_left_out_share", float(np.mean([trial.left_out is not None for trial in every])))
    for what, found in audit(made, kinds).items():
        for part, value in found._asdict().items():
            show(f"{name}_{what}_{part}", value)


def audit(made: Trials, kinds: TokenKinds) -> dict[str, ToldApart]:
    """How well right trials are told from wrong ones by what kinds of tokens are marked, and by where marks stand."""
    asked = [(latent, trial) for latent, each in made.items() for trial in each if trial.left_out is None]
    right, latent = np.array([trial.expected for _, trial in asked]), np.array([latent for latent, _ in asked])
    return {
        "token_kinds": told_apart(np.array([by_kind(trial, kinds) for _, trial in asked]), right, latent),
        "positions": told_apart(np.array([by_position(trial) for _, trial in asked]), right, latent),
    }


def by_kind(trial: Trial, kinds: TokenKinds) -> np.ndarray:
    """Shares of each kind and of each range of ranks among the marked tokens, the ranks' mean and ends, how many; float64."""
    tokens = np.array(trial.tokens)[np.array(trial.marked)]
    shares = np.bincount(kinds.of(tokens), minlength=KINDS) / len(tokens)
    rank = log_rank(tokens)
    ranges = np.histogram(rank, RANK_BINS)[0] / len(tokens)
    return np.concatenate([shares, ranges, [rank.mean(), rank.min(), rank.max(), len(tokens)]])


def by_position(trial: Trial) -> np.ndarray:
    """Which places are marked, the first, the last, their mean, how many; float64."""
    marked = np.flatnonzero(trial.marked)
    ends = [marked.min(), marked.max(), marked.mean(), len(marked)]
    return np.concatenate([np.array(trial.marked, dtype=np.float64), ends])


if __name__ == "__main__":
    main()
