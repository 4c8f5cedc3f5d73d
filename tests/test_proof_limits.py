"""Limits of the proof of load: judged from stored figures, so that another limit computes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.proof_limits import beyond_limits
from interp_assets.settings import ProofOfLoad
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
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


PROOF = {"hookpoint": "layers.1", "fvu": 0.2, "mean_l0": 30.0, "published_l0": 20.0}


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
    ],
)
def test_each_limit(proof: dict[str, Any], limits: dict[str, Any], said: str | None) -> None:
    problem = beyond_limits(PROOF | proof, ProofOfLoad(**limits))
    assert problem is None if said is None else str(problem).startswith(said)
