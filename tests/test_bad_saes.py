"""SAEs at fault, all in one pass: each fails alone with one clear line, the sound ones are carried through."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_assets import layer_sae
from interp_assets.freshness import Freshness
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.read import read_sae
from tests.changed_study import changed
from tests.refusals import GOOD, assert_recorded, cut, make
from tests.tiny import HIDDEN, shift

Weights = dict[str, torch.Tensor]


def edit(folder: Path, change: Callable[[Weights], object]) -> None:
    weights = load_file(folder / "sae.safetensors")
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "sae.safetensors")


def edit_settings(folder: Path, **settings: object) -> None:
    file = folder / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def set_nan(weights: Weights) -> None:
    weights["W_dec"][3, :2] = torch.nan


def square(folder: Path, transposed: bool) -> None:
    """As many latents as dimensions, so that the shapes of the decoder fit either way."""
    order = torch.eye(HIDDEN).roll(1, dims=0)
    decoder = order.T if transposed else order.clone()
    biases = {"encoder.bias": torch.zeros(HIDDEN), "b_dec": shift()}
    edit(folder, lambda weights: weights.update({"encoder.weight": order, "W_dec": decoder} | biases))
    edit_settings(folder, num_latents=HIDDEN)


def nothing(folder: Path) -> None:
    pass


WEIGHTS = "sae.safetensors"
CASES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    # label: where the SAE is said to read, what is done to its folder, what is said of it
    "cut": (GOOD, lambda folder: cut(folder / WEIGHTS, 4000), "sae.safetensors: damaged or cut short"),
    "empty": (GOOD, lambda folder: cut(folder / WEIGHTS, 0), "sae.safetensors: damaged or cut short"),
    "nan": (GOOD, lambda folder: edit(folder, set_nan), "W_dec holds 2 values that are NaN or infinite, of 2,800"),
    "lacking": (GOOD, lambda folder: edit(folder, lambda w: w.pop("b_dec")), "tensor b_dec is missing; there are: W_dec"),
    "narrow": (GOOD, lambda folder: edit(folder, lambda w: w.update(W_dec=w["W_dec"][:, :9])), "W_dec has shape (50, 9)"),
    "number": ("layers.7", nothing, "no module 'layers.7'; at that place there are: layers.0, layers.1"),
    "name": ("layers.0.attn", nothing, "no module 'layers.0.attn'; at that place there are: layers.0.self_attn, layers.0.mlp"),
    "family": ("h.3", nothing, "no module 'h.3'; at that place there are: embed_tokens, layers, norm"),
    "elsewhere": ("layers.0.mlp", nothing, "proof of load: at layers.0.mlp the SAE leaves"),
    "width": ("layers.0.mlp.up_proj", nothing, "proof of load: layers.0.mlp.up_proj holds 48 dimensions, the SAE reads 56"),
    "transposed": (GOOD, lambda folder: square(folder, True), "proof of load: at embed_tokens the SAE leaves"),
    "forgotten": (GOOD, nothing, "proof of load: at embed_tokens the SAE leaves"),
}  # fmt: skip
SOUND = {"plain": nothing, "square": lambda folder: square(folder, False)}


def forgets_b_dec(location: Any, device: str = "cpu") -> SparseAutoencoder:
    """A reader that does not subtract b_dec, of one SAE only."""
    sae = read_sae(location, device)
    return replace(sae, subtract_b_dec=False) if location.folder.parent.name == "forgotten" else sae


@pytest.fixture(scope="module")
def world(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one layer for each case, and one pass over all of them."""
    root = shutil.copytree(two_layers.parent, tmp_path_factory.mktemp("saes") / "world")
    sources: list[dict[str, object]] = [{"path": "saes", "hookpoints": [GOOD]}]
    damages = {label: (hookpoint, damage) for label, (hookpoint, damage, _) in CASES.items()}
    damages |= {label: (GOOD, change) for label, change in SOUND.items()}
    for label, (hookpoint, damage) in damages.items():
        folder = shutil.copytree(root / "saes" / GOOD, root / label / hookpoint)
        damage(folder)
        sources.append({"path": f"{label}/{hookpoint}", "hookpoints": [hookpoint], "label": label})
    changed(root / "study.yaml", {"saes": sources}, "study.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_sae, "read_sae", forgets_b_dec)
        make(root, "activation_cache", GOOD)
    return root


def failure(root: Path, layer: str) -> str:
    freshness = Freshness(load_study(root / "study.yaml"))
    state, reasons = freshness.own_state(freshness.assets["activation_cache"], layer)
    assert state == "failed"
    return reasons[0]


@pytest.mark.parametrize("label", CASES)
def test_an_sae_at_fault_fails_alone(world: Path, label: str) -> None:
    hookpoint, _, said = CASES[label]
    reason = failure(world, f"{hookpoint}@{label}")
    assert said in reason
    assert_recorded(world, "activation_cache", f"{hookpoint}@{label}", reason)


def test_sound_ones_were_carried_through_by_the_same_pass(world: Path) -> None:
    """Control: the same dimensions, the decoder the right way round, b_dec subtracted."""
    freshness = Freshness(load_study(world / "study.yaml"))
    for layer in (GOOD, *(f"{GOOD}@{label}" for label in SOUND)):
        fingerprint = freshness.fingerprint(freshness.assets["activation_cache"], layer).value
        made = freshness.store.partition("activation_cache", layer, fingerprint)
        assert made is not None
        assert made.metadata["fvu"] < 0.1
        assert made.metadata["mean_l0"] == 1


def test_mended_they_are_made(world: Path, tmp_path: Path) -> None:
    """Where the file was at fault, a better one is enough; the layers that failed for another reason stay failed."""
    root = shutil.copytree(world, tmp_path / "mended")
    files = [label for label, (hookpoint, damage, _) in CASES.items() if hookpoint == GOOD and damage is not nothing]
    assert len(files) == 6
    for label in files:
        shutil.copytree(root / "saes" / GOOD, root / label / GOOD, dirs_exist_ok=True)
    make(root, "activation_cache", GOOD)
    make(root, "activation_cache", f"{GOOD}@{files[0]}")
    freshness = Freshness(load_study(root / "study.yaml"))
    for label in files:
        fingerprint = freshness.fingerprint(freshness.assets["activation_cache"], f"{GOOD}@{label}").value
        assert freshness.store.partition("activation_cache", f"{GOOD}@{label}", fingerprint), label
    assert "no module" in failure(root, "h.3@family")


def test_a_setting_that_is_no_number(two_layers: Path, tmp_path: Path) -> None:
    root = shutil.copytree(two_layers.parent, tmp_path / "world")
    edit_settings(root / "saes" / "layers.0", k="many")
    with pytest.raises(UnusableInput, match=r"layers.0/cfg.json: k is not a number \(.*'many'\)"):
        make(root, "sae_weights", "layers.0")
    assert make(root, "sae_weights", GOOD).tables
