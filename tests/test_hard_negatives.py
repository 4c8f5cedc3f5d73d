"""Test examples that are hard to tell: by co-occurrence, by encoder, by text; and which scorer asks about which."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from interp_assets.activations import cache_file
from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples import cooccurrence
from interp_assets.examples.cooccurrence import cooccurring
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.similar_text import similar_negatives
from interp_assets.examples.text_index import TextIndex, sampled_windows
from interp_assets.freshness import Freshness
from interp_assets.job import Inputs, make_partition
from interp_assets.scores.comparing import SAME_EMBEDDER
from interp_assets.scores.methods import methods_of
from interp_assets.scores.pending import pending
from interp_assets.setting_errors import StudyError
from interp_assets.settings import Examples, ExplainExamples, TestExamples
from interp_assets.study import load_study
from resources.partition_files import Partition
from tests.changed_study import changed
from tests.conftest import make_all
from tests.oracle import OracleModels
from tests.synthetic_cache import CONTEXTS, LENGTH, firings, tokens, write_cache
from tests.tiny import make_embedder

COUNT = 6


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    return firings()


@pytest.fixture(scope="module")
def cache(dense: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    return write_cache(tmp_path_factory.mktemp("cache"), dense)


def brute_force_jaccard(dense: np.ndarray) -> np.ndarray:
    """float64 [latents, latents], 0 for a latent with itself."""
    fires = dense.reshape(-1, dense.shape[2]) > 0
    found = np.zeros((fires.shape[1],) * 2)
    for a in range(len(found)):
        for b in range(len(found)):
            if a != b and (either := (fires[:, a] | fires[:, b]).sum()):
                found[a, b] = (fires[:, a] & fires[:, b]).sum() / either
    return found


def nearest(jaccard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-jaccard, axis=1, kind="stable")[:, :COUNT]
    values = np.take_along_axis(jaccard, order, axis=1)
    return np.where(values > 0, order, np.arange(len(jaccard))[:, None]), values


@pytest.mark.parametrize(("entries_per_file", "rows", "pairs"), [(1_000_000, 2048, 2**21), (700, 7, 30)])
def test_cooccurrence_is_exact_whatever_the_blocks(
    dense: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries_per_file: int, rows: int, pairs: int
) -> None:
    monkeypatch.setattr(cache_file, "ENTRIES_PER_FILE", entries_per_file)
    monkeypatch.setattr(cooccurrence, "PAIRS_AT_ONCE", pairs)
    cache = write_cache(tmp_path, dense)
    assert len(cache.files) > 10 or entries_per_file > 700
    expected = brute_force_jaccard(dense)
    got, similarity = cooccurring(cache, CONTEXTS, LENGTH, COUNT, rows)
    np.testing.assert_array_equal(similarity, nearest(expected)[1])
    np.testing.assert_array_equal(got, nearest(expected)[0])
    assert (got[7] == 7).all(), "a dead latent fires with nobody"
    # Control: one firing more moves a similarity.
    more = dense.copy()
    more[3, 5, 30] = 1.0 if dense[3, 5, 30] == 0 else 0.0
    assert (nearest(brute_force_jaccard(more))[1] != similarity).any()


def settings(negatives: str | Sequence[str], neighbour_by: str = "decoder", non_activating: int = 9) -> Examples:
    return Examples(
        window=16,
        min_windows=6,
        explain=ExplainExamples(n=20),
        test=TestExamples(activating=12, non_activating=non_activating, negatives=negatives, neighbour_by=neighbour_by),
    )


def test_kinds_are_dealt_out_evenly_and_drawn_as_if_alone_but_for_what_another_has(cache: CacheReader) -> None:
    near = cooccurring(cache, CONTEXTS, LENGTH, COUNT)[0]
    both = draw_examples(cache, tokens(), settings(["random", "neighbour"], "cooccurrence"), near)
    columns = ["latent", "context", "start"]
    for kind, n, numbers in (("random", 5, {0, 2, 4, 6, 8}), ("neighbour", 4, {1, 3, 5, 7})):
        alone = draw_examples(cache, tokens(), settings(kind, "cooccurrence", n), near).filter(pl.col("kind") == kind)
        mine = both.filter(pl.col("kind") == kind)
        assert len(mine) > 50
        same = mine.join(alone, on=columns, how="semi")
        assert len(same) == len(mine) == len(alone) if kind == "random" else len(same) > 0.8 * len(alone)
        assert set(mine["example"]) == numbers
    assert both.drop_nulls("start").select(columns).is_unique().all()
    assert set(both["neighbour_by"].drop_nulls()) == {"cooccurrence"}


def test_windows_of_cooccurring_neighbours_are_silent(cache: CacheReader, dense: np.ndarray) -> None:
    near = cooccurring(cache, CONTEXTS, LENGTH, COUNT)[0]
    table = draw_examples(cache, tokens(), settings("neighbour", "cooccurrence"), near)
    rows = table.filter(pl.col("kind") == "neighbour")
    assert len(rows) > 100
    for latent, neighbour, context, start in rows.select("latent", "neighbour", "context", "start").iter_rows():
        inside = dense[context, start : start + 16]
        assert inside[:, latent].max() == 0 < inside[:, neighbour].max()
        assert neighbour in near[latent]


# Texts as vectors: a window is embedded as the counts of its tokens.


def counts_of(windows: Sequence[Sequence[int]], starts: Sequence[int] = ()) -> np.ndarray:
    counts = np.stack([np.bincount(window, minlength=500) for window in windows]).astype(np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


PLANTED = 24
"A latent whose windows are all about one token, as are some on which it is silent."


@pytest.fixture(scope="module")
def near_texts(dense: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheReader, np.ndarray, set]:
    """A cache, a corpus, and the windows (context, start) without the planted latent that read as if it were there."""
    planted, text = dense.copy(), tokens()
    planted[:, :, PLANTED] = 0
    about = set()
    for context in range(CONTEXTS):
        for start in range(0, LENGTH, 16):
            draw = (context * 4 + start // 16) % 5
            if draw < 2:
                text[context, start : start + 16 : 2] = 499
            if draw == 0:
                planted[context, start + 2, PLANTED] = 1 + context / 100
            elif draw == 1:
                about.add((context, start))
    return write_cache(tmp_path_factory.mktemp("texts"), planted), text, about


def similar(cache: CacheReader, text: np.ndarray, windows: int = 10_000) -> pl.DataFrame:
    drawn = draw_examples(cache, text, settings("similar_text"))
    context, start = sampled_windows(text.shape, 16, windows, 0)
    vectors = counts_of(np.lib.stride_tricks.sliding_window_view(text, 16, axis=1)[context, start])
    index = TextIndex.build(context, start, vectors)
    return similar_negatives(drawn, 9, index, counts_of, cache, text, RepeatedText(text, 16), 0)


def test_near_texts_are_found_and_never_one_on_which_the_latent_fires(
    near_texts: tuple[CacheReader, np.ndarray, set],
) -> None:
    cache, text, about = near_texts
    rows = similar(cache, text)
    mine = rows.filter(pl.col("latent") == PLANTED)
    assert mine["example"].to_list() == [*range(9)]
    assert set(mine.select("context", "start").iter_rows()) <= about
    # Control: random windows are about that token one time in five or less.
    random = draw_examples(cache, text, settings("random")).filter(
        (pl.col("latent") == PLANTED) & (pl.col("kind") == "random")
    )
    assert len(set(random.select("context", "start").iter_rows()) & about) < 6
    fires = {(latent, context) for latent, context in explain_contexts(cache, text)}
    for latent, context, start in rows.select("latent", "context", "start").iter_rows():
        entries = cache.latent(latent)
        inside = (entries.context == context) & (entries.position >= start) & (entries.position < start + 16)
        assert not inside.any()
        assert (latent, context) not in fires


def test_negatives_by_text_begin_where_test_windows_do(near_texts: tuple[CacheReader, np.ndarray, set]) -> None:
    """Also where windows are centred, whose starts are no multiples of a window."""
    cache, text, _ = near_texts
    context, start = sampled_windows(text.shape, 16, 10_000, 0)
    every_window = np.lib.stride_tricks.sliding_window_view(text, 16, axis=1)
    index = TextIndex.build(context, start, counts_of(every_window[context, start]))
    for placement in ("aligned", "centred"):
        drawn = draw_examples(cache, text, settings("similar_text").model_copy(update={"placement": placement}))
        rows = similar_negatives(drawn, 9, index, counts_of, cache, text, RepeatedText(text, 16), 0)
        test = drawn.filter((pl.col("purpose") == "test") & (pl.col("kind") == "activating"))
        assert set(test["start"] % 16) == {0} if placement == "aligned" else len(set(test["start"])) > 20
        both = rows.join(test.with_columns(pl.col("example").cast(pl.UInt32)), on=["latent", "example"])
        assert len(both) > 100
        assert both["start"].equals(both["start_right"].alias("start"))
        assert (rows["tokens"].to_list() == every_window[rows["context"], rows["start"]]).all()


def test_what_is_looked_up_depends_on_no_other_latent(near_texts: tuple[CacheReader, np.ndarray, set]) -> None:
    cache, text, _ = near_texts
    context, start = sampled_windows(text.shape, 16, 10_000, 0)
    index = TextIndex.build(
        context, start, counts_of(np.lib.stride_tricks.sliding_window_view(text, 16, axis=1)[context, start])
    )
    drawn = draw_examples(cache, text, settings("similar_text"))
    together = similar_negatives(drawn, 9, index, counts_of, cache, text, RepeatedText(text, 16), 0)
    for latent in (PLANTED, *drawn["latent"].unique()[:3]):
        alone = similar_negatives(
            drawn.filter(latent=latent), 9, index, counts_of, cache, text, RepeatedText(text, 16), 0
        )
        assert alone.equals(together.filter(latent=latent))


def explain_contexts(cache: CacheReader, text: np.ndarray) -> set[tuple[int, int]]:
    drawn = draw_examples(cache, text, settings("random")).filter(pl.col("purpose") == "explain")
    return set(drawn.select("latent", "context").iter_rows())


def test_a_smaller_index_is_a_keyed_part_of_a_larger_one() -> None:
    large = set(zip(*sampled_windows((CONTEXTS, LENGTH), 16, 300, 0), strict=True))
    small = set(zip(*sampled_windows((CONTEXTS, LENGTH), 16, 100, 0), strict=True))
    assert (len(small), len(large)) == (100, 300)
    assert small < large
    assert small != set(zip(*sampled_windows((CONTEXTS, LENGTH), 16, 100, 1), strict=True))
    assert len(sampled_windows((CONTEXTS, LENGTH), 16, 10_000, 0)[0]) == CONTEXTS * LENGTH // 16


@pytest.fixture(scope="module")
def world(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny study with three kinds of negatives, carried through; detection asks about hard ones, fuzzing does not."""
    root = shutil.copytree(tiny_file.parent, tmp_path_factory.mktemp("hard") / "world")
    make_embedder(root / "embedder")
    changes = {
        "examples.test.non_activating": 30,
        "examples.test.negatives": ["random", "neighbour", "similar_text"],
        "examples.test.neighbour_by": "encoder",
        "examples.similar_text": {"model": "./embedder", "windows": 300},
        "examples.latents": 8,
        "scorers.detection.negatives": ["neighbour", "similar_text"],
        "scorers.embedding": {"model": "./embedder", "negatives": "similar_text"},
    }
    return changed(root / tiny_file.name, changes, tiny_file.name)


@pytest.fixture(scope="module")
def hard(world: Path) -> dict[str, Partition]:
    return make_all(load_study(world))


def test_each_scorer_asks_about_its_kinds(world: Path, hard: dict[str, Partition]) -> None:
    examples = hard["examples"].read("examples").filter(pl.col("purpose") == "test")
    kinds = {
        (row[0], row[1]): row[2]
        for row in examples.filter(pl.col("kind") != "activating").select("latent", "example", "kind").iter_rows()
    }
    assert set(kinds.values()) == {"random", "neighbour", "similar_text"}
    expected = {"detection": {"neighbour", "similar_text"}, "embedding": {"similar_text"}, "fuzzing": {"random"}}
    for method, wanted in expected.items():
        study = load_study(world)
        freshness = Freshness(study)
        todo = pending(
            Inputs(study, freshness.assets[f"scores/{method}"], "embed_tokens", freshness), methods_of(study)[method]
        )
        assert set(study.negatives_of(study.scorers.chosen()[method])) == wanted
        assert not len(todo.new), "what was made still holds"
        if method != "fuzzing":  # its wrong trials are activating examples
            trials = hard[f"scores/{method}"].read("trials").filter(~pl.col("expected"))
            assert {kinds[key] for key in trials.select("latent", "example").iter_rows()} == wanted
            assert trials.group_by("latent", "explainer", "control").len()["len"].max() == 10


def test_the_index_embeds_each_window_once_and_the_latent_is_silent(world: Path, hard: dict[str, Partition]) -> None:
    index = hard["text_index"]
    assert index.metadata["windows"] == 300 == len(index.read("windows"))
    assert index.metadata["dimensions"] == 32
    rows = hard["examples"].read("examples").filter(pl.col("kind") == "similar_text")
    assert len(rows) == 8 * 10
    for latent, tokens_shown in rows.select("latent", "tokens").iter_rows():
        assert latent not in tokens_shown  # latent i is word i


def test_no_place_serves_two_kinds_and_each_stands_beside_a_test_window(hard: dict[str, Partition]) -> None:
    rows = hard["examples"].read("examples").filter(pl.col("status") == "ok")
    assert rows.select("latent", "context", "start").is_unique().all()
    test = rows.filter(pl.col("purpose") == "test").sort("latent", "kind", "example")
    beside = test.filter(pl.col("kind") == "activating").select("latent", "start").rows()
    for kind in ("random", "neighbour", "similar_text"):
        mine = test.filter(pl.col("kind") == kind)
        assert len(mine) > 40
        assert set(mine.select("latent", "start").rows()) <= set(beside)
    short = hard["examples"].read("shortfalls")
    drawn = dict(rows.group_by("kind").len().iter_rows())
    for kind in ("random", "neighbour", "similar_text"):
        lacking = short.filter(pl.col("kind") == kind)
        assert drawn[kind] + int((lacking["wanted"] - lacking["drawn"]).sum()) == 8 * 10


def test_an_embedder_that_chose_its_negatives_is_named_in_its_metadata_and_in_the_report(
    world: Path, hard: dict[str, Partition]
) -> None:
    assert hard["scores/embedding"].metadata["same_embedder"] == SAME_EMBEDDER
    assert "same_embedder" not in hard["scores/detection"].metadata
    page = hard["score_report"].files("page")[0].read_text()
    assert f"Embedding: {SAME_EMBEDDER}" in page
    table = hard["score_report"].read("by_negatives")
    shown = {(method, kind) for method, kind in table.select("method", "kind").iter_rows()}
    assert shown == {("embedding", "similar_text"), ("detection", "similar_text"), ("detection", "neighbour")}
    # Control: another embedder is not said to have chosen them.
    another = shutil.copytree(world.parent / "embedder", world.parent / "another")
    (another / "modules.json").write_text((another / "modules.json").read_text() + "\n")
    study = load_study(changed(world, {"scorers.embedding.model": "./another"}, "another.yaml"))
    assert (
        "same_embedder"
        not in make_partition(study, "scores/embedding", "embed_tokens", OracleModels()).partition.metadata
    )


def test_changed_kinds_of_one_scorer_redo_no_other(world: Path, hard: dict[str, Partition]) -> None:
    study = load_study(changed(world, {"scorers.detection.negatives": "random"}, "other.yaml"))
    states = {state.asset: state.state for state in Freshness(study).states()}
    assert states["scores/detection"] == "stale"
    assert {states[name] for name in ("text_index", "examples", "scores/fuzzing", "scores/embedding")} == {"fresh"}


def test_neighbours_by_encoder_are_those_of_the_encoder(
    world: Path, hard: dict[str, Partition], tmp_path: Path
) -> None:
    """The encoder direction of one word is turned towards ten others'; decoders stay apart."""
    root = shutil.copytree(world.parent, tmp_path / "world")
    file = root / "saes" / "embed_tokens" / "sae.safetensors"
    weights = load_file(file)
    interpreted = sorted(set(hard["explanations"].read("explanations")["latent"]))
    one, *others = [interpreted[2], *range(8, 18)]
    assert one not in others
    assert not neighbours_of_latent(hard["examples"], one) <= set(others)
    weights["encoder.weight"][one, others] = 0.2
    save_file(weights, file)
    study = load_study(root / world.name)
    for name in ("sae_weights", "activation_cache", "examples"):
        made = make_partition(study, name, "embed_tokens", OracleModels()).partition
    assert len(neighbours_of_latent(made, one)) > 2
    assert neighbours_of_latent(made, one) <= set(others)
    assert set(made.read("examples")["neighbour_by"].drop_nulls()) == {"encoder_cosine"}


def neighbours_of_latent(examples: Partition, latent: int) -> set[int]:
    rows = examples.read("examples").filter((pl.col("latent") == latent) & (pl.col("kind") == "neighbour"))
    return set(rows["neighbour"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"examples.similar_text": None}, "examples.similar_text: missing; negatives of the kind similar_text need"),
        ({"examples.similar_text.model": "./nowhere"}, "examples.similar_text.model: ./nowhere: no such folder"),
        ({"examples.test.negatives": []}, r"examples.test.negatives: \[\]: it must be"),
        ({"scorers.fuzzing.negatives": "hard"}, "scorers.fuzzing.negatives: 'hard': it must be"),
        (
            {"examples.test.negatives": ["random", "similar_text"]},
            "scorers.detection.negatives: 'neighbour' is not under examples.test.negatives; there are: random, similar",
        ),
        (
            {"scorers.fuzzing.non_activating": 11},
            "scorers.fuzzing.non_activating: 11 is more than the 10 of kind random that examples.test.non_activating, 30",
        ),
    ],
)
def test_wrong_settings_are_answered_in_one_line(world: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        load_study(changed(world, changes, "wrong.yaml"))
