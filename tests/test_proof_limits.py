"""Limits of the proof of load: judged from stored figures, so that another limit computes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.proof_limits import PROOF_VERSION, beyond_limits
from interp_assets.settings import ProofOfLoad
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition
from tests.changed_study import changed
from tests.refusals import GOOD, make

OTHER = "layers.0"


def states(file: Path) -> dict[str, dict[str | None, str]]:
    found: dict[str, dict[str | None, str]] = {}
    for each in Freshness(load_study(file)).states():
        found.setdefault(each.asset, {})[each.partition] = each.state
    return found


@pytest.fixture(scope="module")
def file(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with their controls; the SAE leaves nothing of the variance of `embed_tokens`, and a little of `layers.0`."""
    root = shutil.copytree(two_layers.parent, tmp_path_factory.mktemp("limits") / "world")
    settings = {"controls.random": {"k": 1}, "proof_of_load.max_fvu": 1.0, "proof_of_load.compare_layers": False}
    file = changed(root / two_layers.name, settings, "study.yaml")
    for layer in load_study(file).layers:
        make(root, "examples", layer.key)
    return file


def test_a_lower_limit_stops_a_layer_and_computes_nothing(file: Path) -> None:
    cache = Freshness(load_study(file)).current("activation_cache", OTHER)
    assert cache is not None
    measured = cache.metadata["fvu"]
    assert 5e-4 < measured < 1
    before = {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*")}
    strict = changed(file, {"proof_of_load.max_fvu": measured / 2}, "strict.yaml")
    found = states(strict)
    control = f"{GOOD}@random"
    assert found["activation_cache"] == {GOOD: "fresh", OTHER: "failed", control: "fresh", f"{OTHER}@random": "fresh"}
    assert (found["examples"][GOOD], found["examples"][OTHER]) == ("fresh", "blocked")
    with pytest.raises(UnusableInput) as refused:
        make_partition(load_study(strict), "activation_cache", OTHER, LoadedModels(), [GOOD, OTHER])
    assert str(refused.value) == (
        f"proof of load: at layers.0 the SAE leaves {measured:.3g} of the variance unexplained "
        f"(allowed: {measured / 2:g}); wrong hookpoint, wrong subject model, or weights read in a wrong way"
    )
    assert refused.value.details["proof"]["fvu"] == measured
    assert states(file)["examples"][OTHER] == "fresh", "back at the earlier limit"
    assert {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*")} == before


def test_a_higher_limit_lets_a_layer_be_made(file: Path) -> None:
    strict = changed(file, {"proof_of_load.max_fvu": 1e-4, "storage": "anew"}, "strict.yaml")
    study = load_study(strict)
    for asset, key in (("corpus", None), ("sae_weights", OTHER)):
        make_partition(study, asset, key, LoadedModels())
    with pytest.raises(UnusableInput, match=r"unexplained \(allowed: 0.0001\)"):
        make_partition(study, "activation_cache", OTHER, LoadedModels())
    assert states(strict)["activation_cache"][OTHER] == "failed"
    look = Freshness(load_study(changed(strict, {"proof_of_load.max_fvu": 2e-4}, "strict.yaml")))
    (said,) = look.own_state(look.assets["activation_cache"], OTHER)[1]
    assert "(allowed: 0.0002)" in said, "judged by the limit of now, in words too"
    lenient = load_study(changed(strict, {"proof_of_load.max_fvu": 1.0}, "strict.yaml"))
    look = Freshness(lenient)
    state = look.own_state(look.assets["activation_cache"], OTHER)
    assert state == ("missing", ("the proof of load holds under the limits of now",))
    assert make_partition(lenient, "activation_cache", OTHER, LoadedModels()).partition.metadata["fvu"] > 1e-4
    assert states(strict)["activation_cache"][OTHER] == "fresh"


def measured_less(file: Path, layer: str) -> Partition:
    """What is stored of a layer, with a proof of load as it was before dimensions were looked at."""
    look = Freshness(load_study(file))
    stored = look.current("activation_cache", layer)
    assert stored is not None
    later = ("version", "dimension_fvu", "dimension_fvu_by_layer", "max_dimension_fvu", "largest_dimension")
    proof = {name: value for name, value in stored.metadata["proof"].items() if name not in later}
    metadata = {name: value for name, value in stored.metadata.items() if name != "dimension_fvu"}
    with look.store.draft("activation_cache", layer, stored.fingerprint) as draft:
        draft.adopt_all(stored)
        return draft.commit(stored.parts, metadata | {"proof": proof})


def test_a_proof_that_measured_less_is_made_anew_alone(file: Path) -> None:
    """Its activations stay, file by file, and what reads them is fresh all the while; other reasons still count."""
    before = measured_less(file, OTHER)
    touched = {path: path.stat().st_mtime_ns for path in before.files("activations")}
    look = Freshness(load_study(file))
    why = ("the proof of load measures more than it did (version 1 -> 2); activations are kept",)
    assert look.own_state(look.assets["activation_cache"], OTHER) == ("stale", why)
    found = states(file)
    assert found["activation_cache"][OTHER] == "stale"
    assert found["examples"][OTHER] == "fresh"
    fewer = changed(file, {"corpus.skip_first": 1}, "fewer.yaml")
    assert states(fewer)["examples"][OTHER] == "stale", "the control: activations that are to be made anew"
    made = make_partition(load_study(file), "activation_cache", OTHER, LoadedModels(), [GOOD, OTHER])
    assert not made.reused
    assert made.partition.content_hash == before.content_hash
    assert {path: path.stat().st_mtime_ns for path in made.partition.files("activations")} == touched
    metadata = made.partition.metadata
    assert metadata["proof"]["dimension_fvu"] == metadata["dimension_fvu"] > 5e-4
    assert metadata["proof"]["fvu"] == before.metadata["proof"]["fvu"]
    assert metadata["activations_made"]["seconds"] == before.metadata["seconds"]
    assert metadata["activations"] == before.metadata["activations"]
    assert set(states(file)["activation_cache"].values()) == {"fresh"}


def test_a_proof_made_anew_that_fails_stops_its_layer(file: Path) -> None:
    measured_less(file, OTHER)
    strict = changed(file, {"proof_of_load.max_dimension_fvu": 1e-4}, "strict.yaml")
    with pytest.raises(
        UnusableInput, match=r"where dimensions count alike \(allowed: 0.0001\); of the whole it leaves"
    ):
        make_partition(load_study(strict), "activation_cache", OTHER, LoadedModels())
    assert (states(strict)["activation_cache"][OTHER], states(strict)["examples"][OTHER]) == ("failed", "blocked")
    made = make_partition(load_study(file), "activation_cache", OTHER, LoadedModels())
    assert made.partition.metadata["proof"]["version"] == PROOF_VERSION, "and under the earlier limit it holds"
    assert states(file)["examples"][OTHER] == "fresh"


PROOF = {"hookpoint": "layers.1", "fvu": 0.2, "mean_l0": 30.0, "published_l0": 20.0}
ALIKE = {"dimension_fvu": 0.7, "largest_dimension": {"dimension": 5, "share": 0.6}}
ELSEWHERE = {"dimension_fvu_by_layer": {"layers.1": 0.7, "layers.2": 0.3}}


@pytest.mark.parametrize(
    ("proof", "limits", "said"),
    [
        ({}, {}, None),
        ({}, {"max_fvu": 0.2}, None),
        ({}, {"max_fvu": 0.19}, "at layers.1 the SAE leaves 0.2 of the variance unexplained (allowed: 0.19)"),
        ({"fvu": float("nan")}, {}, "at layers.1 the SAE leaves nan of the variance unexplained"),
        ({}, {"l0_factor": 1.4}, "at layers.1 30.0 latents fire per token, published are 20 (allowed: within a factor"),
        ({"mean_l0": 14.0}, {"l0_factor": 1.4}, "at layers.1 14.0 latents fire per token"),
        ({"published_l0": None}, {"l0_factor": 1.1}, None),
        ({"fvu_by_layer": {"layers.1": 0.2, "layers.2": 0.15}}, {}, "the SAE explains layers.2 better (FVU 0.15) than"),
        ({"fvu_by_layer": {"layers.1": 0.2, "layers.2": 0.195}}, {}, None),
        (ALIKE, {}, None),
        (
            ALIKE,
            {"max_dimension_fvu": 0.69},
            "at layers.1 the SAE leaves 0.7 of the variance unexplained where dimensions",
        ),
        (ALIKE | {"dimension_fvu": 0.81}, {}, "at layers.1 the SAE leaves 0.81 of the variance unexplained where"),
        (ALIKE | {"dimension_fvu": 0.81}, {"max_fvu": 0.6}, None),
        (
            ALIKE | {"dimension_fvu": float("nan")},
            {},
            "at layers.1 the SAE leaves nan of the variance unexplained where",
        ),
        (ALIKE | {"fvu_by_layer": {"layers.1": 0.2, "layers.2": 0.1}}, {}, None),
        (ALIKE | ELSEWHERE, {}, "the SAE explains layers.2 better (mean FVU of dimensions 0.3) than layers.1 (0.7)"),
        (
            ALIKE | ELSEWHERE | {"dimension_fvu": 1.2},
            {},
            "the SAE explains layers.2 better (mean FVU of dimensions 0.3)",
        ),
    ],
)
def test_each_limit(proof: dict[str, Any], limits: dict[str, Any], said: str | None) -> None:
    problem = beyond_limits(PROOF | proof, ProofOfLoad(**limits))
    assert problem is None if said is None else str(problem).startswith(said)
