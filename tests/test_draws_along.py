"""Latents drawn along an alignment: chains in every order of pairs, equal chances, unbiased estimates, and what is redone."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from interp_assets.alignment import overlap
from interp_assets.alignment.overlap import by_latent, explained_alike, linearised, weighted
from interp_assets.asset import ORDER_OF_DRAWS
from interp_assets.dagster_assets import asset_key, definitions_of
from interp_assets.examples.along import draws_table, numbers_along
from interp_assets.examples.draws import PICK_LATENT, keyed
from interp_assets.freshness import Freshness
from interp_assets.job import Inputs, make_partition
from interp_assets.partitions import pair_key, pairs_followed
from interp_assets.plan import plan
from interp_assets.running import wanted_nodes
from interp_assets.scores.intervention.pending import latents_to_change
from interp_assets.setting_errors import StudyError
from interp_assets.study import Study, load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition
from tests.changed_study import changed
from tests.methods_study import make_bag_of_words
from tests.tiny import VOCABULARY, make_sae

ROOT, MIDDLE, LAST = "x.8", "x.9", "x.10"


def followed(pairs: list[tuple[str, str]], layer: str) -> list[tuple[str, str]]:
    study: Any = SimpleNamespace(
        alignment=SimpleNamespace(pairs=pairs), examples=SimpleNamespace(along_alignment=True), layers=()
    )
    return pairs_followed(study, layer)


@pytest.mark.parametrize(
    ("pairs", "ways"),
    [
        ([("a", "b"), ("b", "c")], {"a": [], "b": ["ab"], "c": ["bc", "ab"]}),
        ([("b", "c"), ("a", "b")], {"b": [], "c": ["bc"], "a": ["ab"]}),
        ([("a", "b"), ("a", "c")], {"b": ["ab"], "c": ["ac"]}),
        ([("a", "c"), ("b", "c")], {"a": [], "c": ["ac"], "b": ["bc", "ac"]}),
        # A pair that closes a loop is not followed, whichever it is.
        ([("a", "b"), ("b", "c"), ("a", "c")], {"c": ["bc", "ab"]}),
        ([("a", "c"), ("a", "b"), ("b", "c")], {"c": ["ac"], "b": ["ab"]}),
        ([("a", "b"), ("b", "a")], {"b": ["ab"]}),
        # Two rows are joined by a later pair.
        ([("a", "b"), ("c", "d"), ("b", "c")], {"a": [], "d": ["cd", "bc", "ab"]}),
        ([("a", "b")], {"elsewhere": []}),
    ],
)
def test_one_way_leads_from_each_layer_to_the_first(pairs: list[tuple[str, str]], ways: dict[str, list[str]]) -> None:
    assert {layer: ["".join(pair) for pair in followed(pairs, layer)] for layer in ways} == ways


def matching(draw: np.random.Generator, n: int, matched: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents of two layers of n that are matched one to one."""
    return draw.permutation(n)[:matched], draw.permutation(n)[:matched]


def test_a_chain_has_one_number_and_no_two_of_a_layer_have_the_same() -> None:
    draw, n = np.random.default_rng(0), 300
    first, second = matching(draw, n, 250), matching(draw, n, 200)
    ways: list[tuple[list[str], Any]] = [([ROOT], []), ([MIDDLE, ROOT], [first[::-1]]), ([LAST, MIDDLE, ROOT], [second[::-1], first[::-1]])]  # fmt: skip
    numbers = [numbers_along(3, n, layers, matches) for layers, matches in ways]
    assert (numbers[0] == keyed(3, PICK_LATENT, np.arange(n))).all()
    assert [len(np.unique(each)) for each in numbers] == [n] * 3
    for (above, below), (a, b) in ((numbers[:2], first), (numbers[1:], second)):
        assert (above[a] == below[b]).all()
        assert len(np.intersect1d(above, below)) == len(a)
    # One match less changes the numbers of what hangs on it, and no others.
    fewer = first[0][1:], first[1][1:]
    again = numbers_along(3, n, [LAST, MIDDLE, ROOT], [second[::-1], fewer[::-1]])
    hangs = second[1][second[0] == first[1][0]]
    assert np.flatnonzero(again != numbers[2]).tolist() == hangs.tolist()
    assert (numbers_along(3, n, [MIDDLE, ROOT], [(np.array([], int), np.array([], int))]) != numbers[0]).all()


class Population:
    """Two layers of which most latents are matched, and some have too few windows; vectors that agree where a matching is
    right, which the greedy one is in three quarters.

    Args:
        started_alike: matched latents have the same index where they agree most.
    """

    n, count = 300, 60

    def __init__(self, started_alike: bool = False) -> None:
        draw = np.random.default_rng(1)
        self.optimal = matching(draw, self.n, 240)
        if started_alike:
            index = np.arange(240)
            self.optimal = index, np.concatenate([index[:180], np.roll(index[180:], 7)])
        a, b = self.optimal
        wrong = np.arange(180, 240)
        self.greedy = a, np.concatenate([b[:180], b[np.roll(wrong, 1)]])
        vectors = draw.normal(size=(2, self.n, 16))
        # Where the greedy matching errs, explanations agree less: what is drawn together is not like the rest.
        share = np.where(np.arange(240) < 180, 1.5, 0.5)[:, None]
        vectors[1, b] += share * vectors[0, a]
        self.vectors = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
        self.enough = draw.random((2, self.n)) < 0.8
        self.cosines = self.vectors[0] @ self.vectors[1].T
        both = self.enough[0][:, None] & self.enough[1]
        matchings = {"optimal": self.optimal, "greedy": self.greedy}
        self.truth = {name: self.cosines[a, b][both[a, b]].mean() for name, (a, b) in matchings.items()}
        self.truth["random"] = self.cosines[both].mean()
        self.frames = {
            name: pl.DataFrame({"latent_a": a, "latent_b": b}).cast(pl.UInt32) for name, (a, b) in matchings.items()
        }

    def drawn(self, seed: int, how: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All latents of both layers that could be drawn, in the order in which they are."""
        index = np.arange(self.n)
        first = keyed(seed, PICK_LATENT, index)
        second = {
            "along": lambda: numbers_along(seed, self.n, [MIDDLE, ROOT], [self.optimal[::-1]]),
            "by index": lambda: first,
            "apart": lambda: keyed(seed, PICK_LATENT, index, 7),
        }[how]()
        one, other = (draws_table(*each) for each in zip((first, second), self.enough, strict=True))
        return one, other

    def estimates(self, seed: int, how: str, with_weights: bool = True) -> dict[str, dict[str, Any]]:
        draws = self.drawn(seed, how)
        sides = [
            pl.DataFrame({"latent": each["latent"].head(self.count)}).with_columns(
                explainer=pl.lit("e"), status=pl.lit("ok"), explanation=pl.format("{} {}", pl.lit(side), "latent")
            )
            for side, each in enumerate(draws)
        ]

        def embed(texts: list[str]) -> np.ndarray:
            places = np.array([[int(part) for part in text.split()] for text in texts])
            return np.asarray(self.vectors[places[:, 0], places[:, 1]])

        table, _ = explained_alike(self.frames, sides[0], sides[1], embed, seed, draws if with_weights else None)
        return {row["matching"]: row for row in table.filter(statistic="mean_cosine").to_dicts()}


@pytest.fixture(scope="module")
def population() -> Population:
    return Population()


def over_seeds(each: Iterable[dict[str, dict[str, Any]]]) -> dict[str, np.ndarray]:
    """The estimates there are, by matching."""
    rows = list(each)
    return {name: np.array([v for row in rows if (v := row[name]["value"]) is not None]) for name in rows[0]}


def off(values: np.ndarray, truth: float) -> float:
    """By how many standard errors a mean over seeds differs from the truth."""
    return float(abs(values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values))))


def biased(values: dict[str, np.ndarray], truth: dict[str, float]) -> list[str]:
    return [name for name in truth if off(values[name], truth[name]) > 3.5]


@pytest.fixture
def quick_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "RANDOM_MATCHINGS", 20)


@pytest.mark.usefixtures("quick_overlap")
def test_overlap_is_unbiased_and_several_times_surer(population: Population) -> None:
    seeds, truth = range(80), population.truth
    estimates = [population.estimates(seed, "along") for seed in seeds]
    independent = [population.estimates(seed, "apart") for seed in seeds]
    along, apart = over_seeds(estimates), over_seeds(independent)
    assert biased(along, truth) == biased(apart, truth) == []
    assert apart["optimal"].var() > 3 * along["optimal"].var()
    both, few = (np.mean([row["optimal"]["n_latents"] for row in rows]) for rows in (estimates, independent))
    assert both > 3.5 * few
    # The control: without weights the pairs that are drawn together count too much.
    plain = over_seeds(population.estimates(seed, "along", with_weights=False) for seed in seeds)
    assert biased(plain, truth) == ["greedy", "random"]


@pytest.mark.usefixtures("quick_overlap")
def test_saes_that_started_alike_overstate_nothing() -> None:
    """Drawn by index in each layer, latents with the same index are drawn together, and those are more alike."""
    population, seeds = Population(started_alike=True), range(80)
    assert biased(over_seeds(population.estimates(seed, "by index") for seed in seeds), population.truth) == []
    plain = over_seeds(population.estimates(seed, "by index", with_weights=False) for seed in seeds)
    assert "optimal" in biased(plain, population.truth)


def test_every_latent_with_enough_windows_is_drawn_with_the_same_chance(population: Population) -> None:
    rounds, drawn = 2000, np.zeros(population.n)
    for seed in range(rounds):
        numbers = numbers_along(seed, population.n, [MIDDLE, ROOT], [population.optimal[::-1]])
        table = draws_table(numbers, population.enough[1])
        drawn[table["latent"].head(population.count).to_numpy()] += 1
    enough = population.enough[1]
    chance = population.count / enough.sum()
    assert not drawn[~enough].any()
    away = (drawn[enough] - rounds * chance) / np.sqrt(rounds * chance * (1 - chance))
    assert abs(away).max() < 4.5
    assert 0.8 < away.std() < 1.2
    # Matched or not makes no difference.
    matched = np.isin(np.flatnonzero(enough), population.optimal[1])
    assert abs(away[matched].mean() - away[~matched].mean()) < 4 * np.sqrt(1 / matched.sum() + 1 / (~matched).sum())


def test_pairs_of_either_kind_count_as_their_share_of_all() -> None:
    """Six latents on each side, five of one chain each; the greedy matching has two of them wrong."""
    draws = [pl.DataFrame({"latent": range(side, side + 6), "number": [1, 2, 3, 4, 5, 6 + side]}) for side in (0, 10)]
    of_a, of_b = (each["latent"] for each in draws)
    greedy = pl.DataFrame({"latent_a": [0, 1, 2, 3, 4], "latent_b": [10, 11, 12, 14, 13]})
    drawn = greedy.filter(pl.col("latent_a").is_in([0, 1, 3])).with_columns(cosine=pl.Series([0.8, 0.6, 0.1]))
    rows = weighted(drawn, (draws[0], draws[1]), greedy)
    assert rows["weight"].to_list() == pytest.approx([3 / 5 / 2 * 3] * 2 + [2 / 5 * 3])
    mean = 3 / 5 * 0.7 + 2 / 5 * 0.1
    assert linearised(*(by_latent(rows)[name].to_numpy() for name in ("cosine", "weight"))).mean() == pytest.approx(
        mean
    )
    # Of two kinds one was not drawn, and it is no small part; or it is.
    right = drawn.filter(pl.col("latent_a") < 3)
    assert weighted(right, (draws[0], draws[1]), greedy)["weight"].null_count() == 2
    assert weighted(right, (draws[0], draws[1]), greedy.head(3))["weight"].to_list() == [1.0] * 2
    every = (
        pl.DataFrame({"latent_a": of_a}).join(pl.DataFrame({"latent_b": of_b}), how="cross").with_columns(cosine=0.5)
    )
    assert weighted(every, (draws[0], draws[1]), None)["weight"].to_list() == pytest.approx([1.0] * 36)
    # Where all pairs are of one kind, or latents are drawn apart, they count alike, to the last digit.
    values = np.array([0.1, 0.7, 0.3])
    assert linearised(values, np.ones(3)) is values
    assert weighted(drawn, None, greedy)["weight"].to_list() == [1.0] * 3


LAYERS, DRAWN = ["embed_tokens", "layers.0", "layers.1"], 8
PAIRS = [[a, b] for a, b in pairwise(LAYERS)]
ALONG = {"count": DRAWN, "along": "alignment"}
ASKING = {
    "engines": {"oracle": {"kind": "transformers", "path": "./model"}},
    "explainers.llm": {"kind": "llm", "engine": "oracle", "latents": 3},
    "scorers.intervention": {"explainer": "oracle", "scorer": "oracle", "latents": 3, "prompt_tokens": 16},
}
NOT_LOOKED_AT: Any = (None, None)


@pytest.fixture(scope="module")
def world(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers in which a latent stands for a word, and never under the same number; drawn along their alignment."""
    root = tmp_path_factory.mktemp("along") / "world"
    shutil.copytree(two_layers.parent, root)
    make_sae(root / "saes", LAYERS[2])
    for seed, layer in enumerate(LAYERS[1:]):
        order = np.random.default_rng(seed).permutation(len(VOCABULARY))
        rewrite(root / "saes" / layer, lambda name, value, order=order: value[order] if name != "b_dec" else value)
    make_bag_of_words(root / "embedder")
    changes = {
        "saes": [{"path": "saes", "hookpoints": LAYERS}],
        "proof_of_load.compare_layers": False,
        "alignment": {"pairs": PAIRS},
        "examples.latents": ALONG,
        "scorers.embedding": {"model": "./embedder", "latents": 3},
    }
    return changed(root / two_layers.name, changes, "along.yaml")


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "sae.safetensors"
    save_file({name: change(name, value).contiguous() for name, value in load_file(file).items()}, file)


def make(study: Study, models: LoadedModels, until: str) -> dict[tuple[str, str | None], Partition]:
    return {
        (asset.name, key): make_partition(study, asset.name, key, models).partition
        for asset, key in wanted_nodes(Freshness(study), None, until)
    }


def words_drawn(world: Path, layer: str, latents: Iterable[int]) -> set[int]:
    """The words that latents of a layer stand for."""
    weight = load_file(world.parent / "saes" / layer / "sae.safetensors")["encoder.weight"]
    return {int(weight[latent].argmax()) for latent in latents}


def interpreted(partition: Partition) -> list[int]:
    table = partition.read("examples", ["latent", "status"])
    return table.filter(status="ok")["latent"].unique().sort().to_list()


def test_a_study_explains_matched_latents_on_both_sides(world: Path) -> None:
    study, models = load_study(world), LoadedModels()
    before = {state.label: state for state in Freshness(study).states()}
    assert before["examples[layers.1]"].state == "missing"
    listed = plan(study)
    explaining = [each.work for each in listed if each.state.asset == "explanations"]
    assert [(each.latents, each.exact) for each in explaining] == [(DRAWN, False)] * 3
    made = make(study, models, "semantic_overlap")
    drawn = [words_drawn(world, layer, interpreted(made["examples", layer])) for layer in LAYERS]
    assert [len(each) for each in drawn] == [DRAWN] * 3
    assert drawn[0] == drawn[1] == drawn[2]
    for pair in PAIRS:
        table = made["semantic_overlap", pair_key(*pair)].read("overlap")
        assert table.filter(matching="optimal")["n_latents"].to_list() == [DRAWN] * 2
    # A scorer that takes only some takes the same ones in each layer, those with the lowest numbers.
    scores = make(study, models, "scores/embedding")
    scored = [scores["scores/embedding", layer].read("scores")["latent"].unique() for layer in LAYERS]
    assert len({frozenset(words_drawn(world, *each)) for each in zip(LAYERS, scored, strict=True)}) == 1
    assert [len(each) for each in scored] == [3] * 3
    intervening = load_study(changed(world, ASKING, "asking.yaml"))
    look = Freshness(intervening)
    assert all(ORDER_OF_DRAWS in look.assets[name].reads for name in ("scores/intervention", "explanations"))
    changing = [
        latents_to_change(Inputs(intervening, look.assets["scores/intervention"], layer, look), *NOT_LOOKED_AT, 3)
        for layer in LAYERS
    ]
    assert changing == [each.sort().to_list() for each in scored]
    # The control: drawn by index alone, few are the same words. The first layer's are those drawn along the alignment.
    apart = make(load_study(changed(world, {"examples.latents": DRAWN}, "apart.yaml")), models, "examples")
    words = [words_drawn(world, layer, interpreted(apart["examples", layer])) for layer in LAYERS]
    assert words[0] == drawn[0]
    assert len(words[0] & words[1] & words[2]) < DRAWN / 2


def test_what_a_changed_matching_makes_anew(world: Path) -> None:
    """Two latents of the middle layer change places: their own draws change, and nobody else's."""
    root = shutil.copytree(world.parent, world.parent.with_name("changed"))
    study, models = load_study(root / world.name), LoadedModels()
    before = make(study, models, "explanations")
    drawn = interpreted(before["examples", LAYERS[1]])
    matched = before["layer_matching", pair_key(*PAIRS[0])].read("matching").select("latent_b", "latent_a")
    others = [latent for latent in matched["latent_b"] if latent not in drawn]
    order = np.arange(len(VOCABULARY))
    order[[drawn[0], others[0]]] = others[0], drawn[0]
    rewrite(root / "saes" / LAYERS[1], lambda name, value: value[order] if name == "W_dec" else value)
    after = make(study, models, "explanations")
    assert interpreted(after["examples", LAYERS[1]]) == sorted({*drawn, others[0]} - {drawn[0]})
    assert after["examples", LAYERS[1]].metadata["latents_drawn"] == 1
    # The last layer's chain goes through another latent now, and begins where it did.
    for asset in ("examples", "explanations"):
        assert after[asset, LAYERS[2]].content_hash == before[asset, LAYERS[2]].content_hash
        assert after[asset, LAYERS[0]] == before[asset, LAYERS[0]]
    assert after["explanations", LAYERS[2]].fingerprint == before["explanations", LAYERS[2]].fingerprint
    assert after["examples", LAYERS[2]].fingerprint != before["examples", LAYERS[2]].fingerprint


def test_a_matching_made_anew_with_the_same_content_leaves_examples_fresh(world: Path) -> None:
    study, models = load_study(world), LoadedModels()
    made = make(study, models, "examples")
    moved = load_study(changed(world, {"alignment.similarity": "both"}, "moved.yaml"))
    states = {state.label: state for state in Freshness(moved).states(until="explanations")}
    assert states["examples[layers.1]"].state == "stale" and states["examples[embed_tokens]"].state == "fresh"
    for pair in PAIRS:
        make_partition(moved, "layer_matching", pair_key(*pair), models)
    look = Freshness(moved)
    for layer in LAYERS:
        assert look.own_state(look.assets["examples"], layer)[0] == "fresh"
        assert look.current("examples", layer) == made["examples", layer]
    # The control: one pair less, and draws follow another way.
    fewer = Freshness(load_study(changed(world, {"alignment.pairs": PAIRS[:1]}, "fewer.yaml")))
    state, reasons = fewer.own_state(fewer.assets["examples"], "layers.1")
    assert (state, reasons) == ("missing", ("never made",)) or state == "stale"


def test_a_layer_that_fails_stops_no_other(world: Path) -> None:
    """Chains begin anew behind it; once it is mended, they go through it again."""
    root = shutil.copytree(world.parent, world.parent.with_name("failing"))
    study, models, sae = load_study(root / world.name), LoadedModels(), root / "saes" / LAYERS[1]
    before = make(study, models, "examples")
    rewrite(sae, lambda name, value: value.flip(0) if name == "W_dec" else value)
    make_partition(study, "sae_weights", LAYERS[1], models)
    with pytest.raises(UnusableInput, match="proof of load"):
        make_partition(study, "activation_cache", LAYERS[1], models)
    states = {state.label: state for state in Freshness(study).states(until="explanations")}
    assert states["examples[layers.0]"].state == "blocked"
    assert states["layer_matching[layers.0__layers.1]"].state == "blocked"
    assert states["examples[layers.1]"].state == "stale"
    assert states["examples[layers.1]"].due_now
    made = make_partition(study, "examples", LAYERS[2], models).partition
    apart = load_study(changed(root / world.name, {"examples.latents": DRAWN}, "apart.yaml"))
    assert interpreted(made) == interpreted(make_partition(apart, "examples", LAYERS[2], models).partition)
    shutil.copy(world.parent / "saes" / LAYERS[1] / "sae.safetensors", sae)
    assert make(study, models, "examples")["examples", LAYERS[2]] == before["examples", LAYERS[2]]


def test_one_layer_asked_for_brings_those_its_draws_follow(world: Path) -> None:
    look = Freshness(load_study(world))
    for until, more in (("examples", True), ("activation_cache", False)):
        nodes = wanted_nodes(look, ["layers.1"], until)
        assert {key for asset, key in nodes if asset.name == "activation_cache"} == (
            {*LAYERS} if more else {"layers.1"}
        )
    assert [key for asset, key in wanted_nodes(look, ["layers.1"], "explanations") if asset.name == "examples"] == [
        "layers.1"
    ]
    apart = Freshness(load_study(changed(world, {"examples.latents": DRAWN}, "apart.yaml")))
    assert {key for _, key in wanted_nodes(apart, ["layers.1"], "explanations")} == {None, "layers.1"}


def test_dagster_knows_what_the_draws_follow(world: Path) -> None:
    study = load_study(changed(world, {"controls": {"random": {"layers": ["layers.0"]}}}, "controls.yaml"))
    graph = definitions_of(study).resolve_asset_graph()
    node = graph.get(asset_key(study, "examples"))
    mapping = node.partition_mappings[asset_key(study, "layer_matching")]
    pairs = graph.get(asset_key(study, "layer_matching")).partitions_def
    assert pairs is not None and node.partitions_def is not None
    read = {}
    for layer in [*LAYERS, "layers.0@random"]:
        subset = node.partitions_def.subset_with_partition_keys([layer])
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(subset, node.partitions_def, pairs)
        read[layer] = sorted(found.partitions_subset.get_partition_keys())
    names = [pair_key(*pair) for pair in PAIRS]
    assert read == {LAYERS[0]: [], LAYERS[1]: names[:1], LAYERS[2]: sorted(names), "layers.0@random": []}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alignment": None}, "examples.latents.along: this study has no alignment; add `alignment: {}`, which matches neighbouring layers, or give examples.latents a number alone"),
        ({"alignment": {}, "saes.0.hookpoints": ["embed_tokens", "layers.0"]}, "examples.latents.along: no two layers of this study are neighbours, so nothing is matched; name pairs of layers in alignment.pairs, or give examples.latents a number alone; there are: embed_tokens, layers.0"),
        ({"examples.latents": {"count": 5, "along": "layers"}}, "examples.latents.along: 'layers': it must be 'alignment'"),
        ({"examples.latents": {"count": 0, "along": "alignment"}}, "examples.latents.count: 0: it must be a whole number, at least 1"),
        ({"examples.latents": {"count": 5}}, "examples.latents.along: missing; it must be 'alignment'"),
        ({"examples.latents": {**ALONG, "layers": 2}}, "examples.latents.layers: unknown key; there are: count, along"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(world: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(changed(world, changes, "wrong.yaml"))
    assert str(caught.value) == f"{world.with_name('wrong.yaml')}: {said}"
