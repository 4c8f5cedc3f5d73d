"""A study with all controls, carried through: real latents are explained, controls stand beside them, nothing is redone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from interp_assets.activations import assets
from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples.draws import first_latents
from interp_assets.file_watcher import watch
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.partitions import partitions_of
from interp_assets.study import Study, load_study
from tests.changed_study import changed
from tests.oracle import OracleModels
from tests.tiny import CONTEXT, HIDDEN, VOCABULARY, make_sae

REAL = "embed_tokens"
CONTROLS = [f"{REAL}@random", "layers.0@neurons", f"{REAL}@untrained"]
WITH_CONTROLS: dict[str, Any] = {
    # The SAE at layers.0 lends the neurons their place.
    "saes": [{"path": "saes", "hookpoints": [REAL, "layers.0"]}],
    "controls": {"random": {"layers": [REAL]}, "neurons": {"top": 4}, "untrained": {"layers": [REAL]}},
}


@pytest.fixture(scope="module")
def before(tiny_file: Path, tiny_tables: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with its tables."""
    root = shutil.copytree(tiny_file.parent, tmp_path_factory.mktemp("controls") / "world")
    make_sae(root / "saes", "layers.0")
    return root / tiny_file.name


@pytest.fixture(scope="module")
def study(before: Path) -> Study:
    return load_study(changed(before, WITH_CONTROLS, before.name))


@pytest.fixture(scope="module")
def planned(study: Study) -> dict[str, str]:
    """State by partition, before anything of the controls is made."""
    return {state.label: state.state for state in Freshness(study).states()}


Passes = list[tuple[bool, list[str]]]
Tables = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def carried_through(study: Study, planned: dict[str, str]) -> tuple[Tables, Passes]:
    """Everything of the real layer and the controls; and for each forward pass whether of fresh weights, and its layers."""
    tables: Tables = {}
    passes: Passes = []
    harvest_all, models = assets.harvest_all, OracleModels()

    def watched(study: Study, subject: Any, tokens: Any, layers: Any) -> None:
        passes.append((study.layer(layers[0].key).untrained is not None, [layer.key for layer in layers]))
        harvest_all(study, subject, tokens, layers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "harvest_all", watched)
        for name, asset in Freshness(study).assets.items():
            for layer in (REAL, *CONTROLS) if asset.per_layer else ():
                tables[name, layer] = make_partition(study, name, layer, models, CONTROLS)
    return tables, passes


def test_adding_controls_makes_nothing_of_the_real_layer_anew(
    planned: dict[str, str], carried_through: tuple[Tables, Passes]
) -> None:
    tables, _ = carried_through
    assert {name for name, layer in tables if layer == REAL and not tables[name, layer].reused} == set()
    assert {state for label, state in planned.items() if f"[{REAL}]" in label} == {"fresh"}
    assert all(planned[f"activation_cache[{layer}]"] == "missing" for layer in CONTROLS)
    assert planned["score_report"] == "stale"


def test_everything_of_the_controls_is_fresh_afterwards(study: Study, carried_through: tuple[Tables, Passes]) -> None:
    states = {(state.asset, state.partition): state.state for state in Freshness(study).states()}
    for name, asset in Freshness(study).assets.items():
        for layer in CONTROLS if asset.per_layer else ():
            assert layer in partitions_of(study, asset)
            assert states[name, layer] == "fresh", (name, layer)


def test_one_pass_for_each_subject(carried_through: tuple[Tables, Passes]) -> None:
    _, passes = carried_through
    assert passes == [(True, [CONTROLS[2]]), (False, CONTROLS[:2])]


def test_the_proof_of_load_is_recorded_and_blocks_nothing(carried_through: tuple[Tables, Passes]) -> None:
    tables, _ = carried_through
    proofs = {layer: tables["activation_cache", layer].partition.metadata["proof"] for layer in (REAL, *CONTROLS)}
    assert all("fvu" in proof and proof["mean_l0"] > 0 for proof in proofs.values())
    assert "would_fail" not in proofs[REAL]
    assert "of the variance unexplained (allowed: 0.5)" in proofs[CONTROLS[0]]["would_fail"]


def test_caches_hold_what_the_controls_say(carried_through: tuple[Tables, Passes]) -> None:
    tables, _ = carried_through
    for layer, latents, most in zip(CONTROLS, (len(VOCABULARY), 48, len(VOCABULARY)), (1, 4, 1), strict=True):
        cache = CacheReader(tables["activation_cache", layer].partition)
        assert cache.n_latents == latents
        tokens = tables["activation_cache", layer].partition.metadata["tokens_used"] * (CONTEXT - 1) / CONTEXT
        assert 0.9 * most < cache.entries.sum() / tokens <= most
        statistics = tables["latent_statistics", layer].partition.read("statistics")
        assert len(statistics) == latents
        assert statistics["promoted_tokens"].null_count() == 0, HIDDEN


def balanced_accuracy(tables: Tables, method: str, layer: str) -> dict[str, float]:
    scores = tables[f"scores/{method}", layer].partition.read("scores")
    wanted = scores.filter(pl.col("statistic") == "balanced_accuracy")
    return dict(wanted.group_by("control").agg(pl.col("value").mean()).iter_rows())


@pytest.mark.parametrize("method", ["detection", "fuzzing"])
def test_planted_latents_score_high_and_shuffled_controls_are_at_chance(
    carried_through: tuple[Tables, Passes], method: str
) -> None:
    tables, _ = carried_through
    assert balanced_accuracy(tables, method, REAL)["none"] == 1.0
    for layer in (REAL, *CONTROLS):
        found = balanced_accuracy(tables, method, layer)
        assert found["shuffled"] == pytest.approx(0.5, abs=0.08), layer
        # Control: of one token each, what fires on few words is explained all the same; shuffled it is not.
        assert found["none"] > 0.9, layer


def test_the_watcher_looks_for_no_files_of_controls(before: Path, tmp_path: Path) -> None:
    root = shutil.copytree(before.parent, tmp_path / "world", ignore=shutil.ignore_patterns("store"))
    controls = {"controls": {"random": {}, "untrained": {}}, "saes": [{"path": "saes", "hookpoints": [REAL]}]}
    study = load_study(changed(root / before.name, controls, "watched.yaml"))
    (tmp_path / "home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "home")) as instance:
        found = watch(study, instance, {})
    # Those of the real SAE are seen for the first time, so that one has to wait.
    assert [event.partition for event in found.events] == [f"{REAL}@random", f"{REAL}@untrained"]
    assert not [note for note in found.notes if "@" in note and not note.startswith("made ")]


def test_fewer_latents_of_a_control_are_interpreted(
    before: Path, study: Study, carried_through: tuple[Tables, Passes]
) -> None:
    tables, _ = carried_through
    layer, others = CONTROLS[0], [REAL, *CONTROLS[1:]]
    few = load_study(changed(before, {**WITH_CONTROLS, "controls.random.latents": 3}, before.name))
    states = {(state.asset, state.partition): state for state in Freshness(few).states()}
    assert states["activation_cache", layer].state == states["latent_statistics", layer].state == "fresh"
    assert states["examples", layer].reasons == ("latents: None -> 3",)
    assert {states["examples", other].state for other in others} == {"fresh"}
    found = make_partition(few, "examples", layer, OracleModels()).partition
    interpreted = set(found.read("examples").filter(status="ok")["latent"])
    all_interpreted = set(tables["examples", layer].partition.read("examples").filter(status="ok")["latent"])
    assert len(interpreted) == 3 < len(all_interpreted)
    assert interpreted == set(first_latents(few.examples.seed, sorted(all_interpreted), 3))
    assert found.metadata["latents_drawn"] == 0
