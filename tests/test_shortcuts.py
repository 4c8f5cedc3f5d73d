"""Latents that follow a shortcut alone, and which kinds of negatives exclude it: the table in docs/negatives.md, cell by cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import polars as pl
import pytest

from benchmarks.audit import mean_auroc
from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.repeats import RepeatedText
from interp_assets.examples.similar_text import similar_negatives
from interp_assets.examples.text_index import TextIndex
from interp_assets.settings import Examples, ExplainExamples, NegativeKind, TestExamples
from interp_assets.study import PROJECT
from tests.synthetic_cache import write_cache

CONTEXTS, PLACES, WINDOW = 400, 4, 16
LENGTH = PLACES * WINDOW
VALUES = {"position": PLACES, "source": 3, "topic": 4, "token kind": 3, "token frequency": 3}
"Shortcuts, and how many values each has; topics are those within a source."
COPIES = 6
"Latents for each value, which fire on other halves of the windows that have it."
VISIBLE = ("source", "topic")
"What the embedder of this test sees."


class World(NamedTuple):
    cache: CacheReader
    tokens: np.ndarray
    properties: dict[str, np.ndarray]
    "int64 [contexts, places] by shortcut"
    shortcut: list[str]
    "of each latent"
    value: list[int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    draw = np.random.default_rng(0)
    shape = (CONTEXTS, PLACES)
    properties = {name: draw.integers(0, count, shape) for name, count in VALUES.items()}
    properties["position"] = np.broadcast_to(np.arange(PLACES), shape)
    # A context is of one source, and what is said changes within.
    properties["source"] = np.broadcast_to(properties["source"][:, :1], shape)
    # The window's properties stand in its first token, so that a window of tokens says them all.
    code = np.zeros(shape, dtype=np.int64)
    for name, count in VALUES.items():
        code = code * count + properties[name]
    tokens = draw.integers(0, 1000, (CONTEXTS, LENGTH)).astype(np.uint32)
    tokens[:, ::WINDOW] = code
    shortcut, value, columns = [], [], []
    for name, count in VALUES.items():
        for one in range(count):
            for _ in range(COPIES):
                fires = (properties[name] == one) & (draw.random(shape) < 0.5)
                if name == "topic":
                    fires &= properties["source"] == 0
                shortcut.append(name)
                value.append(one)
                columns.append(fires)
    dense = np.zeros((CONTEXTS, LENGTH, len(columns)), dtype=np.float32)
    for latent, fires in enumerate(columns):
        dense[:, 3::WINDOW, latent] = fires * draw.uniform(1, 2, shape)
    return World(write_cache(tmp_path_factory.mktemp("shortcuts"), dense), tokens, properties, shortcut, value)


def settings(kind: str) -> Examples:
    test = TestExamples(activating=10, non_activating=10, negatives=kind)  # type: ignore[arg-type]
    return Examples(window=WINDOW, min_windows=10, explain=ExplainExamples(n=20), test=test)


def embedded(windows: np.ndarray) -> np.ndarray:
    """Unit vectors that tell sources and topics, and something of each window's own."""
    code, found = np.asarray(windows)[:, 0].astype(np.int64), []
    for name, count in reversed(VALUES.items()):
        code, value = np.divmod(code, count)
        found.append(np.eye(count, dtype=np.float32)[value] * (name in VISIBLE))
    own = np.random.default_rng(1).normal(0, 0.1, (1000, 8))[np.asarray(windows)[:, 1]]
    vectors = np.concatenate([*found, own], axis=1).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def examples(world: World, kind: str, neighbours_share: bool = True) -> pl.DataFrame:
    latents = np.arange(len(world.shortcut))
    same = (np.array(world.shortcut)[:, None] == world.shortcut) & (np.array(world.value)[:, None] == world.value)
    if not neighbours_share:
        same = np.array(world.shortcut)[:, None] != world.shortcut
    same[latents, latents] = False
    near = np.argsort(~same, axis=1, kind="stable")[:, : COPIES - 1]
    drawn = draw_examples(world.cache, world.tokens, settings(kind), near if kind == "neighbour" else None)
    if kind != "similar_text":
        return drawn
    context, place = np.divmod(np.arange(CONTEXTS * PLACES), PLACES)
    windows = world.tokens.reshape(-1, WINDOW)
    index = TextIndex.build(context, place * WINDOW, embedded(windows))
    texts = RepeatedText(world.tokens, WINDOW)
    similar = similar_negatives(
        drawn, 10, index, lambda windows, starts: embedded(np.array(windows)), world.cache, world.tokens, texts, 0
    )
    return pl.concat([drawn, similar])


def scored_by_shortcut(world: World, drawn: pl.DataFrame) -> dict[str, float]:
    """AUROC, by shortcut, of a scorer that sees only whether a window has what its latent is coded by."""
    test = drawn.filter(purpose="test", status="ok")
    latent, context = test["latent"].to_numpy(), test["context"].to_numpy()
    place, activating = test["start"].to_numpy() // WINDOW, (test["kind"] == "activating").to_numpy()
    names, values = np.array(world.shortcut)[latent], np.array(world.value)[latent]
    has = np.select(
        [names == name for name in VALUES], [world.properties[name][context, place] == values for name in VALUES]
    ).astype(bool)
    has &= (names != "topic") | (world.properties["source"][context, place] == 0)
    found = {}
    for name in VALUES:
        mine = names == name
        found[name] = mean_auroc(has[mine].astype(float), activating[mine], latent[mine]).value
    return found


def table(page: Path = PROJECT / "docs" / "negatives.md") -> dict[tuple[str, str], str]:
    """What the page's first table says, by shortcut and kind."""
    first = re.search(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE)
    assert first is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in first[0].splitlines()]
    head = [cell.strip("`") for cell in rows[0][1:]]
    return {(row[0], kind): cell for row in rows[2:] for kind, cell in zip(head, row[1:], strict=True)}


def at_chance(auroc: float) -> bool:
    return abs(auroc - 0.5) < 0.03


def test_the_page_has_every_kind_and_shortcut() -> None:
    assert set(table()) == {(shortcut, kind) for shortcut in VALUES for kind in get_args(NegativeKind)}


@pytest.mark.parametrize("kind", get_args(NegativeKind))
def test_a_kind_excludes_what_the_page_says(world: World, kind: str) -> None:
    scored = scored_by_shortcut(world, examples(world, kind))
    for shortcut, auroc in scored.items():
        said = table()[shortcut, kind]
        assert at_chance(auroc) == (said in ("yes", "shared")), (shortcut, said, auroc)
        # Whoever sees the shortcut gains by it where it is not excluded.
        assert at_chance(auroc) or auroc > 0.6, (shortcut, auroc)


def test_a_neighbour_excludes_nothing_that_it_does_not_share(world: World) -> None:
    scored = scored_by_shortcut(world, examples(world, "neighbour", neighbours_share=False))
    for shortcut, auroc in scored.items():
        assert (auroc > 0.6) == (table()[shortcut, "neighbour"] == "shared"), (shortcut, auroc)
