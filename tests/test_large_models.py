"""Models that are spread over devices, rounded to fewer bits, or sharded: the same places, the same activations."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from interp_assets.activations.proof_of_load import ProofFailed, prove
from interp_assets.settings import ProofOfLoad
from resources.errors import NotNow, install_command
from resources.interventions import run_prompts
from resources.latent_changes import Added
from resources.model_loading import fresh_language_model
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.subject_model import SubjectModel
from tests.families import HIDDEN, VOCABULARY, make_family

IDS = torch.randint(2, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
ON_DISK = {"gemma2": {"model": "disk", "lm_head": "disk"}, "gpt2": {"transformer": "disk", "lm_head": "disk"}}


@pytest.mark.parametrize("family", ON_DISK)
@pytest.mark.parametrize("how", ["one device", "auto", "disk"])
def test_a_model_that_is_spread_out_holds_the_same_at_the_same_places(tmp_path: Path, family: str, how: str) -> None:
    folder = make_family(family, tmp_path)
    plain = SubjectModel(folder, None, "float32", "cpu")
    spread = SubjectModel(
        folder, None, "float32", "cpu", device_map={"one device": {"": "cpu"}, "disk": ON_DISK[family]}.get(how, how)
    )
    away = [name for name, each in spread.model.named_parameters() if each.device.type == "meta"]
    assert bool(away) is (how == "disk")
    layers, parts = plain.structure.layers_path, plain.structure.family
    assert parts is not None
    places = [f"{layers}.0.{parts.mlp_norm}", f"{layers}.0.{parts.attention_out}:in", f"{layers}.1"]
    places += [f"{layers}.1.{parts.mlp_norm}:normed"]
    directions = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(1))
    for _ in range(2):  # a forward pass that ends early leaves nothing behind
        expected, seen = plain.activations(IDS, places), spread.activations(IDS, places)
        assert all(torch.equal(seen[place], expected[place]) for place in places)
    assert torch.equal(spread.promoted_tokens(directions).promoted, plain.promoted_tokens(directions).promoted)
    assert torch.equal(spread.neurons(f"{layers}.1", 3).W_dec, plain.neurons(f"{layers}.1", 3).W_dec)
    change = Added(torch.tensor([2.0, 2.0]), directions[:2])
    logits = [
        run_prompts(each, f"{layers}.1", IDS.tolist(), longest=9, new_tokens=1, batch_tokens=64).next_token(change)
        for each in (plain, spread)
    ]
    assert torch.equal(*logits)
    assert (logits[0] - plain.model(IDS).logits[:, -1]).abs().max() > 0.01


def test_a_sharded_model_is_read_whole(tmp_path: Path) -> None:
    whole = make_family("llama", tmp_path / "whole")
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    seen = [
        SubjectModel(f, None, "float32", "cpu").activations(IDS, ["layers.2"]) for f in (whole, tmp_path / "shards")
    ]
    assert torch.equal(seen[0]["layers.2"], seen[1]["layers.2"])
    next((tmp_path / "shards").glob("*.safetensors")).unlink()
    with pytest.raises(Exception, match="no usable causal language model"):
        SubjectModel(tmp_path / "shards", None, "float32", "cpu")


def test_an_untrained_model_is_spread_out_too(tmp_path: Path) -> None:
    folder = make_family("llama", tmp_path)
    one, spread = (SubjectModel(folder, None, "float32", "cpu", 7, device_map) for device_map in (None, "auto"))
    assert torch.equal(*(each.activations(IDS, ["layers.1"])["layers.1"] for each in (one, spread)))


def test_positions_of_an_untrained_model_are_as_exact_as_a_loaded_ones(tmp_path: Path) -> None:
    folder = make_family("llama", tmp_path)
    fresh = fresh_language_model(folder, None, "bfloat16", "cpu", seed=0)
    assert fresh.lm_head.weight.dtype == torch.bfloat16
    loaded = SubjectModel(folder, None, "bfloat16", "cpu").model
    for model in (fresh, loaded):
        assert model.base_model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(fresh.base_model.rotary_emb.inv_freq, loaded.base_model.rotary_emb.inv_freq)


@pytest.mark.parametrize(("bits", "off"), [("8bit", 0.05), ("4bit", 0.3)])
def test_a_model_of_fewer_bits_is_near_the_whole_one_and_its_weights_are_what_they_stand_for(
    tmp_path: Path, bits: str, off: float
) -> None:
    folder = make_family("llama", tmp_path, hidden_size=64, intermediate_size=128, head_dim=16)
    plain = SubjectModel(folder, None, "float32", "cpu")
    rounded = SubjectModel(folder, None, "float32", "cpu", quantization=bits)  # type: ignore[arg-type]
    expected, seen = (each.activations(IDS, ["layers.0"])["layers.0"] for each in (plain, rounded))
    distance = float((seen - expected).norm() / expected.norm())
    assert 1e-4 < distance < off
    whole, few = (each.neurons("layers.1", 3).W_dec for each in (plain, rounded))
    assert few.shape == whole.shape == (128, 64)
    assert 1e-4 < float((few - whole).norm() / whole.norm()) < off


def test_without_the_package_fewer_bits_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotNow, match=re.escape(f"4bit needs: {install_command('quantized')}")):
        SubjectModel(make_family("llama", tmp_path), None, "float32", "cpu", quantization="4bit")


def test_what_leaves_the_range_of_float16_is_told(tmp_path: Path) -> None:
    """A residual stream of some 10^6, as massive activations are in some models: float16 holds it no more."""
    folder = make_family("llama", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.base_model.layers[0].mlp.down_proj.weight.mul_(1e5)
    model.save_pretrained(folder)
    sae = SparseAutoencoder(torch.eye(HIDDEN), torch.zeros(HIDDEN), torch.eye(HIDDEN), torch.zeros(HIDDEN), "relu")
    limits = ProofOfLoad(max_fvu=10)
    seen = {
        dtype: SubjectModel(folder, None, dtype, "cpu").activations(IDS, ["layers.0"])["layers.0"].flatten(0, 1)
        for dtype in ("float16", "bfloat16")
    }
    with pytest.raises(ProofFailed, match=r"layers\.0 holds values that are NaN or infinite; .*float16 .* 65,504"):
        prove(sae, seen["float16"], "layers.0", None, limits)
    proof = prove(sae, seen["bfloat16"], "layers.0", None, limits)
    assert proof["largest_activation"] == pytest.approx(float(seen["bfloat16"].abs().max()))
    assert proof["largest_activation"] > 65_504
    assert proof["dtype"] == "bfloat16"


def test_activations_near_the_end_of_float16_are_squared_without_overflow() -> None:
    """Norms and variances are computed in float32: 300 squared is no float16."""
    x = 300 * torch.randn(400, HIDDEN, generator=torch.Generator().manual_seed(0))
    sae = SparseAutoencoder(
        torch.eye(HIDDEN),
        torch.full((HIDDEN,), 2000.0),
        torch.eye(HIDDEN),
        torch.full((HIDDEN,), -2000.0),
        "relu",
        subtract_b_dec=False,
    )
    proof = prove(sae, x.half(), "here", None, ProofOfLoad())
    assert proof["fvu"] < 1e-4
    assert proof["tokens_with_massive_activations"] == 0
