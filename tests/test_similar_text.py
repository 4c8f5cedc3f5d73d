"""Negatives by text are no hubs: on planted ones, and on the demo's text with its embedder. The controls are queries of old."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from benchmarks.audit import mean_auroc, surface, told_apart, use_of_windows
from interp_assets.activations.cache_file import CacheReader
from interp_assets.corpus.contexts import documents, pack, tokens_matrix
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.rendering import Rendering
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.similar_text import Embed, similar_negatives
from interp_assets.examples.text_index import TextIndex
from interp_assets.examples.windows import for_explaining
from interp_assets.progress import Progress
from interp_assets.settings import Examples, ExplainExamples, TestExamples
from interp_assets.study import PROJECT, load_study
from resources.text_embedder import TextEmbedder
from resources.tokenizers import load_tokenizer, vocabulary_size
from tests.synthetic_cache import write_cache

N = 8
"Negatives of each latent."


class World(NamedTuple):
    cache: CacheReader
    tokens: np.ndarray
    window: int
    embeddings: np.ndarray
    "float32 [contexts, places, d], of length 1"

    @property
    def places(self) -> int:
        return self.tokens.shape[1] // self.window

    def embed(self, windows: Sequence[Sequence[int]], starts: Sequence[int]) -> np.ndarray:
        """By looking up: windows stand at aligned places."""
        all_windows = self.tokens.reshape(-1, self.window)
        where = {window.tobytes(): number for number, window in enumerate(all_windows)}
        numbers = [where[np.array(window, dtype=np.uint32).tobytes()] for window in windows]
        return self.embeddings.reshape(len(all_windows), -1)[numbers]

    def settings(self, kind: str) -> Examples:
        test = TestExamples(activating=N, non_activating=N, negatives=kind)  # type: ignore[arg-type]
        return Examples(window=self.window, min_windows=8, explain=ExplainExamples(n=20), test=test)

    def drawn(self, kind: str) -> pl.DataFrame:
        found = draw_examples(self.cache, self.tokens, self.settings(kind))
        return found.filter(status="ok")

    def by_text(self) -> pl.DataFrame:
        drawn = self.drawn("similar_text")
        context, place = np.divmod(np.arange(len(self.tokens) * self.places), self.places)
        index = TextIndex.build(context, place * self.window, self.embeddings.reshape(len(context), -1))
        embed: Embed = self.embed
        texts = RepeatedText(self.tokens, self.window)
        return pl.concat([drawn, similar_negatives(drawn, N, index, embed, self.cache, self.tokens, texts, 0)])

    def by_cosine(self, mean: bool) -> pl.DataFrame:
        """As it was: the windows of highest cosine with the mean of the explain windows, or with each of them in turn."""
        drawn, rows = self.drawn("similar_text"), []
        vectors = self.embeddings.reshape(len(self.tokens) * self.places, -1)
        for (latent,), explain in drawn.filter(purpose="explain").group_by("latent", maintain_order=True):
            assert isinstance(latent, int)
            entries = self.cache.latent(latent)
            usable = ~for_explaining(0, np.array(latent), np.arange(len(self.tokens))).repeat(self.places)
            usable[entries.context.astype(int) * self.places + entries.position // self.window] = False
            queries = self.embed(explain["tokens"].to_list(), [])
            for turn in range(N):
                query = queries.mean(axis=0) if mean else queries[turn % len(queries)]
                nearest = int(np.where(usable, vectors @ query, -9).argmax())
                usable[nearest] = False
                context, place = divmod(nearest, self.places)
                rows.append({"latent": latent, "context": context, "start": place * self.window})
        found = pl.DataFrame(rows).with_columns(purpose=pl.lit("test"), kind=pl.lit("similar_text"))
        return pl.concat(
            [drawn, found.cast({"latent": pl.UInt32, "context": pl.UInt32, "start": pl.UInt16})], how="diagonal"
        )


class Audit(NamedTuple):
    told_apart: float
    most: int
    "latents that one window serves at most"


def audit(world: World, examples: pl.DataFrame, looks: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Audit:
    """
    Args:
        looks: what windows look like, of contexts and places; float [windows, features].
    """
    test = examples.filter(purpose="test")
    latent, activating = test["latent"].to_numpy(), (test["kind"] == "activating").to_numpy()
    features = looks(test["context"].to_numpy(), test["start"].to_numpy() // world.window)
    negatives = test.filter(~activating)
    assert len(negatives) > 0.95 * N * test["latent"].n_unique(), "hardly a slot stays empty"
    return Audit(told_apart(features, activating, latent).value, use_of_windows(negatives).most)


TOPICS, LATENTS, HUB_SHARE = 24, 60, 0.08


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, np.ndarray, np.ndarray]:
    """Windows about topics, and hubs about none; which windows are hubs, and what the topics are."""
    draw, shape, window = np.random.default_rng(0), (240, 4), 16
    topic, hub = draw.integers(0, TOPICS, shape), draw.random(shape) < HUB_SHARE
    common, own = np.zeros(256), draw.normal(0, 0.09, (*shape, 256))
    common[-1] = 1.0
    said = np.eye(TOPICS, 256)[topic] * 0.9 + own
    vectors = common + np.where(hub[..., None], 0.1 * own, said)
    embeddings = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    dense = np.zeros((shape[0], shape[1] * window, LATENTS), dtype=np.float32)
    for latent in range(LATENTS):
        about = np.isin(topic, draw.permutation(TOPICS)[:4]) & ~hub | (hub & (draw.random(shape) < 0.1))
        dense[:, 2::window, latent] = (about & (draw.random(shape) < 0.6)) * draw.uniform(1, 2, shape)
    tokens = draw.integers(0, 2**31, (shape[0], shape[1] * window)).astype(np.uint32)
    cache = write_cache(tmp_path_factory.mktemp("hubs"), dense)
    return World(cache, tokens, window, embeddings), hub, topic


def test_planted_hubs_are_no_negatives_of_many_latents(planted: tuple[World, np.ndarray, np.ndarray]) -> None:
    world, hub, _ = planted

    def looks(context: np.ndarray, place: np.ndarray) -> np.ndarray:
        return hub[context, place][:, None].astype(float)

    random, now = audit(world, world.drawn("random"), looks), audit(world, world.by_text(), looks)
    assert now.told_apart < 0.56
    assert now.most <= 2 * random.most
    for mean in (True, False):
        before = audit(world, world.by_cosine(mean), looks)
        assert before.told_apart > 0.7, (mean, before)
        assert before.most > 2 * random.most, (mean, before)


def test_negatives_are_about_what_their_latent_is_about(planted: tuple[World, np.ndarray, np.ndarray]) -> None:
    world, _, topic = planted

    def about(examples: pl.DataFrame) -> float:
        """How well the topics of its explain windows tell a latent's activating windows from its negatives."""
        topics: dict[int, set[int]] = {}
        for latent, context, start in (
            examples.filter(purpose="explain").select("latent", "context", "start").iter_rows()
        ):
            topics.setdefault(latent, set()).add(int(topic[context, start // world.window]))
        test = examples.filter(purpose="test")
        latent = test["latent"].to_numpy()
        said = topic[test["context"].to_numpy(), test["start"].to_numpy() // world.window]
        fits = np.array([int(what in topics[of]) for what, of in zip(said, latent, strict=True)])
        return mean_auroc(fits.astype(float), (test["kind"] == "activating").to_numpy(), latent).value

    assert about(world.by_text()) < 0.65 < 0.85 < about(world.drawn("random"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, np.ndarray]:
    """A piece of the demo's text and how its windows look; latent i fires on one half of the windows with some token."""
    study = load_study(PROJECT / "studies" / "smollm2_demo.yaml")
    corpus = study.corpus.model_copy(update={"tokens": 40 * 256, "context_length": 256})
    path = study.path(study.subject_model.path)
    texts = documents(corpus, study.path(corpus.path))
    table = pack(texts, load_tokenizer(path), corpus, vocabulary_size(path), Progress("", 1, ""))
    tokens, rendering, window = tokens_matrix(table), Rendering.of(study), 32
    starts = [place * window for place in range(8)] * len(tokens)
    shown = [rendering.window(*each) for each in zip(tokens.reshape(-1, window).tolist(), starts, strict=True)]
    written = rendering.texts(shown)
    embedder = TextEmbedder(PROJECT / "demo" / "weights" / "all-MiniLM-L6-v2", device="cpu")
    embeddings = embedder.embed(written).reshape(len(tokens), 8, -1)
    windows, draw = tokens.reshape(-1, window), np.random.default_rng(0)
    ids, counts = np.unique(np.concatenate([np.unique(each) for each in windows]), return_counts=True)
    usual = draw.permutation(ids[(counts >= 20) & (counts < 160)])[:120]
    dense = np.zeros((*tokens.shape, len(usual)), dtype=np.float32)
    for latent, token in enumerate(usual):
        half = (draw.random(len(windows)) < 0.5).reshape(len(tokens), 8).repeat(window, axis=1)
        dense[:, :, latent] = (tokens == token) & half
    cache = write_cache(tmp_path_factory.mktemp("demo"), dense)
    return World(cache, tokens, window, embeddings), surface(written).reshape(len(tokens), 8, -1)


def test_on_the_demo_negatives_by_text_are_not_told_apart_by_how_they_look(demo: tuple[World, np.ndarray]) -> None:
    world, look = demo

    def looks(context: np.ndarray, place: np.ndarray) -> np.ndarray:
        return look[context, place].astype(float)

    random, now = audit(world, world.drawn("random"), looks), audit(world, world.by_text(), looks)
    before = audit(world, world.by_cosine(mean=True), looks)
    assert now.told_apart < 0.57
    assert before.told_apart > now.told_apart + 0.06
    assert now.most <= 1.5 * random.most
    assert before.most > 2 * now.most
