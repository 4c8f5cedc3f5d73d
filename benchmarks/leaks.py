"""What in the examples gives answers away: where windows stand, places and texts shown twice. Beside draws without the rules.

python -m benchmarks.leaks [--quick]       corpora in which every document stands twice, or begins with the same header
python -m benchmarks.leaks STUDY           the text and activations of a study, whose activation_cache must have been made
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import rankdata

from benchmarks.measuring import quick, show
from benchmarks.repeated_corpus import active_where, edge_firings, repeated_corpus
from interp_assets.activations.cache_file import CacheReader
from interp_assets.commands import find_study
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.examples.cooccurrence import cooccurring
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.negatives import NEIGHBOURS
from interp_assets.examples.repeats import RepeatedText, run_hashes, shared_run
from interp_assets.freshness import Freshness
from interp_assets.settings import Examples, ExplainExamples, TestExamples
from tests.synthetic_cache import write_cache

KINDS = ("random", "neighbour")
WINDOW = 16


def main() -> None:
    named = [each for each in sys.argv[1:] if not each.startswith("--")]
    if named:
        of_study(named[0])
        return
    contexts = 400 if quick() else 2000
    with tempfile.TemporaryDirectory() as folder:
        for name, twice, header in (("plain", False, False), ("twice", True, False), ("boilerplate", False, True)):
            tokens = repeated_corpus(twice, header, contexts)
            cache = write_cache(Path(folder) / name, active_where(tokens))
            compare(name, cache, tokens, "aligned", WINDOW, 24)
        dense = edge_firings(contexts)
        tokens = np.random.default_rng(1).integers(0, 50_000, dense.shape[:2]).astype(np.uint32)
        compare("edges", write_cache(Path(folder) / "edges", dense), tokens, "centred", WINDOW, 24)


def of_study(named: str) -> None:
    study = find_study(named)
    freshness = Freshness(study)
    corpus = freshness.current("corpus", None)
    for layer in study.layers:
        partition = freshness.current("activation_cache", layer.key)
        if corpus is None or partition is None:
            sys.exit(
                f"{study.name}: no activations of {layer.key}; make them with: interp run {named} --until activation_cache"
            )
        tokens = tokens_matrix(corpus.read("corpus", ["tokens"]))
        for placement in ("aligned", "centred"):
            compare(layer.key, CacheReader(partition), tokens, placement, study.examples.window, 200)


def compare(name: str, cache: CacheReader, tokens: np.ndarray, placement: str, window: int, latents: int) -> None:
    """Print the audit of examples as they are drawn, and of those that know no repeats and no other kind."""
    near = cooccurring(cache, *tokens.shape, NEIGHBOURS)[0]
    texts = RepeatedText(tokens, window)
    unique = RepeatedText(np.arange(tokens.size, dtype=np.uint32).reshape(tokens.shape), window)

    def draw(kinds: tuple[str, ...], known: RepeatedText) -> pl.DataFrame:
        test = TestExamples(activating=40, non_activating=40 * len(kinds), negatives=kinds)
        settings = Examples(
            window=window,
            placement=placement,
            min_windows=20,
            latents=latents,
            explain=ExplainExamples(n=40),
            test=test,
        )
        return draw_examples(cache, tokens, settings, near, texts=known).filter(pl.col("status") == "ok")

    label = f"{name}_{placement}"
    show(f"{label}_windows_of_recurring_text_share", float(texts.somewhere.mean()))
    ruled = draw(KINDS, texts)
    alone = [draw((kind,), unique) for kind in KINDS]
    unruled = pl.concat([alone[0], *(each.filter(pl.col("kind") != "activating") for each in alone[1:])])
    step = window if placement == "aligned" else 1
    places = np.random.default_rng(0).integers(0, (tokens.shape[1] - window) // step + 1, len(unruled)) * step
    anywhere = pl.when(pl.col("kind") == "random").then(pl.Series(places)).otherwise("start").alias("start")
    for rule, rows, starts in (("without_rules", unruled, unruled.with_columns(anywhere)), ("as_drawn", ruled, ruled)):
        for figure, value in (audit(rows) | start_aurocs(starts)).items():
            show(f"{label}_{rule}_{figure}", value)


def start_aurocs(rows: pl.DataFrame) -> dict[str, float]:
    test = rows.filter(pl.col("purpose") == "test")
    activating = test.filter(pl.col("kind") == "activating")
    return {f"{kind}_start_auroc": start_auroc(activating, test.filter(pl.col("kind") == kind)) for kind in KINDS}


def audit(rows: pl.DataFrame) -> dict[str, float]:
    """Shares of test windows whose place or text their latent has another time."""
    run = shared_run(len(rows["tokens"][0]))
    purpose, activating = pl.col("purpose"), pl.col("kind") == "activating"
    explain, test = rows.filter(purpose == "explain"), rows.filter((purpose == "test") & activating)
    negatives = rows.filter(~activating)
    return {
        "test_rows": len(test) + len(negatives),
        "test_windows_that_overlap_another_share": overlapping(rows.filter(purpose == "test")),
        "activating_shown_word_for_word_share": alike(test, explain, len(rows["tokens"][0]), 1),
        "activating_sharing_half_a_window_with_explain_share": alike(test, explain, run, 0),
        "activating_with_half_their_8_grams_in_one_explain_window_share": alike(test, explain, 8, 0.5),
        "negatives_sharing_half_a_window_with_activating_share": alike(negatives, rows.filter(activating), run, 0),
        "explain_sharing_half_a_window_share": alike(explain, explain, run, 0, same=True),
        "test_sharing_half_a_window_share": alike(test, test, run, 0, same=True),
    }


def overlapping(rows: pl.DataFrame) -> float:
    """The share of windows that overlap the one before in their context, for the same latent."""
    window = len(rows["tokens"][0])
    ordered = rows.sort("latent", "context", "start").with_columns(pl.col("start").cast(pl.Int64))
    return float(
        ordered.select((pl.col("start").diff().over("latent", "context") < window).fill_null(False).mean()).item()
    )


def alike(some: pl.DataFrame, others: pl.DataFrame, run: int, least: float, same: bool = False) -> float:
    """The share of windows that have more than `least` of their runs of tokens in one window of the others of their latent.

    All runs, where `least` is 1.

    Args:
        same: both are the same windows, and none counts as another.
    """
    left, right = (runs_of(each, run) for each in (some, others))
    shared = left.unique().join(right.unique(), on=["latent", "run"], suffix="_other")
    if same:
        shared = shared.filter(pl.col("row") != pl.col("row_other"))
    per_window = len(some["tokens"][0]) - run + 1
    pairs = shared.group_by("row", "row_other").len().with_columns(pl.col("len") / per_window)
    enough = pairs.filter(pl.col("len") > least if least < 1 else pl.col("len") == 1)
    return enough["row"].n_unique() / max(len(some), 1)


def runs_of(rows: pl.DataFrame, run: int) -> pl.DataFrame:
    """latent, row and a hash of each run of tokens in each window."""
    tokens = rows["tokens"].explode().to_numpy().reshape(len(rows), -1)
    hashes = run_hashes(tokens, run)
    row, _ = np.divmod(np.arange(hashes.size), hashes.shape[1])
    return pl.DataFrame({"latent": rows["latent"].to_numpy()[row], "row": row, "run": hashes.ravel()})


def start_auroc(activating: pl.DataFrame, negatives: pl.DataFrame) -> float:
    """How well a window's start tells activating windows from negatives, for whoever knows the starts of other latents.

    What each start speaks for is learnt on the latents of even number and tested on the others, and the other way round.
    """
    parts = ((activating, True), (negatives, False))
    both = pl.concat(
        [each.select(pl.col("latent", "start").cast(pl.Int64), label=pl.lit(kind)) for each, kind in parts]
    )
    latent, start, label = (both[name].to_numpy() for name in ("latent", "start", "label"))
    evidence = np.zeros(len(start))
    for side in (0, 1):
        learnt, tested = latent % 2 != side, latent % 2 == side
        counts = np.stack(
            [np.bincount(start[learnt & (label == kind)], minlength=int(start.max()) + 1) for kind in (True, False)]
        )
        shares = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)
        evidence[tested] = np.log(shares[0] / shares[1])[start[tested]]
    ranks = rankdata(evidence)
    n1, n0 = label.sum(), (~label).sum()
    return float((ranks[label].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


if __name__ == "__main__":
    main()
