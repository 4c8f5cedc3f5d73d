"""Control subjects one by one: what they compute, and what decides them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from interp_assets.freshness import Freshness
from interp_assets.partitions import layer_pairs
from interp_assets.setting_errors import StudyError
from interp_assets.study import load_study
from resources.model_structure import NoSuchHookpoint
from resources.sparse_autoencoders.controls import RandomSae
from resources.sparse_autoencoders.location import SaeLocation
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel
from tests.changed_study import changed
from tests.refusals import make
from tests.tiny import HIDDEN, VOCABULARY, make_model, make_sae, shift

PLACE = "embed_tokens"
ANYWHERE = SaeLocation(None, Path("nowhere/sae.safetensors"), "sparsify")
RANDOM = RandomSae(n_latents=400, d_in=64, k=5, seed=0, place="layers.1", real=ANYWHERE)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(2, len(VOCABULARY), (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(two_layers: Path, tmp_path: Path) -> Path:
    """A study of embed_tokens and layers.0 with all controls, nothing made."""
    copy = shutil.copytree(two_layers.parent, tmp_path / "world") / two_layers.name
    return changed(copy, {"controls": {"random": {}, "neurons": {"top": 4}, "untrained": {}}}, copy.name)


def test_a_random_sae_is_spherical_and_fires_k_times() -> None:
    sae = read_sae(RANDOM)
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(1))
    assert ((sae.encode(x).activations > 0).sum(1) == 5).all()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(400))
    torch.testing.assert_close(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()
    # On a sphere of 64 dimensions cosines have mean 0 and variance 1/64; an orthogonal basis would have none.
    cosines = (sae.W_dec @ sae.W_dec.T)[~torch.eye(400, dtype=torch.bool)]
    assert abs(float(cosines.mean())) < 0.005
    assert float(cosines.var()) == pytest.approx(1 / 64, rel=0.05)


def test_a_random_sae_is_decided_by_seed_and_place_row_by_row() -> None:
    rows = read_sae(RANDOM).W_dec
    assert torch.equal(rows, read_sae(RANDOM).W_dec)
    assert torch.equal(rows, read_sae(replace(RANDOM, n_latents=600, k=9)).W_dec[:400])
    for other in (replace(RANDOM, seed=1), replace(RANDOM, place="layers.2")):
        assert (read_sae(other).W_dec - rows).abs().mean() > 0.05


def neuron_activations(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """What goes into the down projection of the second layer of a Llama, by hand."""
    layer = model.model.layers[1]
    with torch.inference_mode():
        hidden = model(ids, output_hidden_states=True).hidden_states[1]
        attended = layer.self_attn(
            layer.input_layernorm(hidden),
            position_embeddings=model.model.rotary_emb(hidden, torch.arange(ids.shape[1])[None]),
            attention_mask=torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)[None, None],
        )[0]
        x = layer.post_attention_layernorm(hidden + attended)
        return torch.nn.functional.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)


def test_neurons_are_those_of_a_hand_written_forward(tmp_path: Path, ids: torch.Tensor) -> None:
    subject = SubjectModel(make_model(tmp_path / "model"), None, "float32", "cpu")
    expected = neuron_activations(subject.model, ids).flatten(0, 1)
    place = f"{subject.down_projection('layers.1')}:in"
    assert place == "layers.1.mlp.down_proj:in"
    x = subject.activations(ids, [place])[place].flatten(0, 1)
    torch.testing.assert_close(x, expected)
    neurons = subject.neurons("layers.1", top=4)
    top = neurons.encode(x)
    dense = torch.zeros_like(expected)
    for row, values in enumerate(expected):
        for neuron in sorted(range(48), key=lambda n: -float(values[n]))[:4]:
            dense[row, neuron] = max(0.0, float(values[neuron]))
    torch.testing.assert_close(neurons.decode(top), dense)
    assert not torch.equal(neurons.decode(replace(neurons, k=5).encode(x)), dense)
    weight = subject.modules["layers.1.mlp.down_proj"].weight
    torch.testing.assert_close(neurons.W_dec[7], weight[:, 7])


def test_down_projections_of_other_families(tmp_path: Path, ids: torch.Tensor) -> None:
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)).save_pretrained(tmp_path / "gpt2")
    GPTNeoXForCausalLM(GPTNeoXConfig(**small, intermediate_size=64)).save_pretrained(tmp_path / "neox")
    for name, layer, place in (("gpt2", "h.1", "mlp.c_proj"), ("neox", "layers.1", "mlp.dense_4h_to_h")):
        subject = SubjectModel(tmp_path / name, None, "float32", "cpu")
        assert subject.down_projection(layer) == f"{layer}.{place}"
        neurons = subject.neurons(layer, top=64)
        assert neurons.W_dec.shape == (64, 16)
        # All neurons, signs kept, through these rows and the bias are what the MLP puts out.
        module = f"{layer}.{place}"
        seen = subject.activations(ids, [f"{module}:in", module])
        made = seen[f"{module}:in"] @ neurons.W_dec + subject.modules[module].bias
        torch.testing.assert_close(made, seen[module], atol=1e-5, rtol=1e-4)
    with pytest.raises(
        NoSuchHookpoint, match=r"wte has no MLP whose neurons can be read: no block of maps from 16 to neurons and back"
    ):
        SubjectModel(tmp_path / "gpt2", None, "float32", "cpu").down_projection("wte")


def test_an_untrained_model_is_reproducible_and_another_one(tmp_path: Path, ids: torch.Tensor) -> None:
    folder = make_model(tmp_path / "model")
    before = torch.random.get_rng_state()
    trained, fresh, again, other = (
        SubjectModel(folder, None, "float32", "cpu", seed).model(ids).logits for seed in (None, 0, 0, 1)
    )
    assert torch.equal(fresh, again)
    assert (fresh - trained).abs().max() > 0.1
    assert (fresh - other).abs().max() > 0.1
    assert torch.equal(torch.random.get_rng_state(), before)
    # Only its settings are read.
    (folder / "model.safetensors").unlink()
    assert torch.equal(SubjectModel(folder, None, "float32", "cpu", 0).model(ids).logits, fresh)


def edit(file: Path, weights: bool = False, **settings: int) -> None:
    folder = file.parent / "saes" / PLACE
    if weights:
        tensors = load_file(folder / "sae.safetensors")
        tensors["W_dec"][3, 3] += 1
        save_file(tensors, folder / "sae.safetensors")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | settings))


def fingerprints(file: Path, layer: str) -> list[str]:
    """Of sae_weights as it would be, and of activation_cache on what sae_weights holds then."""
    make(file.parent, "sae_weights", layer)
    make(file.parent, "corpus")
    freshness = Freshness(load_study(file))
    return [freshness.fingerprint(freshness.assets[name], layer).value for name in ("sae_weights", "activation_cache")]


def test_a_random_sae_depends_on_shape_and_k_alone(file: Path) -> None:
    random, real = f"{PLACE}@random", PLACE
    before, real_before = fingerprints(file, random), fingerprints(file, real)
    edit(file, weights=True)
    assert fingerprints(file, random) == before
    real_after = fingerprints(file, real)
    assert all(one != other for one, other in zip(real_before, real_after, strict=True))
    for settings in ({"k": 2}, {"num_latents": len(VOCABULARY) + 1}):
        edit(file, **settings)
        after = fingerprints(file, random)
        assert all(one != other for one, other in zip(before, after, strict=True))
        before = after


@pytest.mark.parametrize(
    ("key", "value", "layer"),
    [
        ("controls.random.seed", 1, f"{PLACE}@random"),
        ("controls.random.k", 3, f"{PLACE}@random"),
        ("controls.neurons.top", 5, "layers.0@neurons"),
        ("controls.untrained.seed", 1, f"{PLACE}@untrained"),
        ("controls.untrained.k", 3, f"{PLACE}@untrained"),
    ],
)
def test_settings_decide_their_control_and_no_other_layer(file: Path, key: str, value: int, layer: str) -> None:
    def all_of(path: Path) -> dict[str, str]:
        study = load_study(path)
        freshness = Freshness(study)
        return {
            each.key: freshness.fingerprint(freshness.assets["sae_weights"], each.key).value for each in study.layers
        }

    before, after = all_of(file), all_of(changed(file, {key: value}))
    kind = layer.split("@")[1]
    assert {name for name in before if before[name] != after[name]} == {name for name in before if name.endswith(kind)}
    fewer = all_of(changed(file, {f"controls.{kind}.layers": ["layers.0"]}))
    assert fewer == {name: before[name] for name in fewer}
    assert {name for name in fewer if name.endswith(f"@{kind}")} == {f"layers.0@{kind}"}


def test_trained_weights_do_not_decide_an_untrained_model(file: Path) -> None:
    layers = (f"{PLACE}@untrained", f"{PLACE}@random", "layers.0@neurons")
    before = [fingerprints(file, layer) for layer in layers]
    weights = load_file(file.parent / "model" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, file.parent / "model" / "model.safetensors", metadata={"format": "pt"})
    after = [fingerprints(file, layer) for layer in layers]
    assert after[0] == before[0]
    assert [one == other for one, other in zip(after[1], before[1], strict=True)] == [True, False]
    assert [one == other for one, other in zip(after[2], before[2], strict=True)] == [False, False]


def test_keys_and_pairs(file: Path) -> None:
    study = load_study(changed(file, {"alignment": {}, "saes.0.label": "wide"}, "labelled.yaml"))
    places = (PLACE, "layers.0")
    expected = [f"{place}@wide" for place in places] + [f"{place}@wide.random" for place in places]
    assert [layer.key for layer in study.layers] == [
        *expected,
        "layers.0@neurons",
        *(f"{place}@wide.untrained" for place in places),
    ]
    make_sae(file.parent / "saes", "layers.1")
    hookpoints = {"saes.0.hookpoints": ["layers.0", "layers.1"], "alignment": {}}
    assert layer_pairs(load_study(changed(file, hookpoints))) == [("layers.0", "layers.1")]
    named = hookpoints | {"alignment.pairs": [["layers.0", "layers.0@random"]]}
    with pytest.raises(StudyError, match=r"no layer 'layers.0@random'; there are: layers.0, layers.1$"):
        load_study(changed(file, named))


def write_standard_sae(folder: Path) -> None:
    """A standard SAE with each word's latent twice: two fire on a token."""
    rows = torch.eye(len(VOCABULARY), HIDDEN).repeat(2, 1)
    folder.mkdir(parents=True)
    weights = {"W_enc": rows.T.contiguous(), "b_enc": torch.zeros(len(rows)), "W_dec": rows / 2, "b_dec": shift()}
    save_file(weights, folder / "sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": HIDDEN, "d_sae": len(rows), "apply_b_dec_to_input": True}
    (folder / "cfg.json").write_text(json.dumps(config))


def test_k_of_an_sae_that_is_not_topk_is_its_mean_l0(file: Path) -> None:
    write_standard_sae(file.parent / "standard" / PLACE)
    source = {"saes": [{"path": "standard", "hookpoints": [PLACE]}], "controls": {"random": {}}}
    changed(file, source, file.name)
    cache = make(file.parent, "activation_cache", f"{PLACE}@random")
    assert cache.metadata["mean_l0"] == 2.0
    assert cache.metadata["latents"] == 2 * len(VOCABULARY)
    assert np.isclose(cache.metadata["activations"] / cache.metadata["tokens_used"], 2 * 63 / 64)
    with pytest.raises(StudyError, match=r"controls.untrained.k: missing; the SAE of embed_tokens is not TopK"):
        load_study(changed(file, {"controls": {"untrained": {}}}))
    load_study(changed(file, {"controls": {"untrained": {"k": 2}}}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"saes.0.label": "random"}, "saes.0..label: 'random' names a control; take a label that is none of them"),
        ({"controls": {"shuffled": {}}}, "controls.shuffled: unknown key; there are: random, neurons, untrained"),
        (
            {"controls.random.layers": ["layers.7"]},
            "controls.random.layers: no layer 'layers.7'; there are: embed_tokens",
        ),
        ({"controls.random.layers": ["layers"]}, "controls.random.layers: no layer 'layers'; there are"),
        ({"controls.random.k": 99}, "controls.random.k: 99 is not within 1 and 50, the latents of embed_tokens"),
        ({"controls.neurons.top": 0}, "controls.neurons.top: 0: it must be a whole number, at least 1"),
        (
            {"controls.neurons.layers": [PLACE]},
            "controls.neurons.layers: embed_tokens lies in no numbered decoder layer",
        ),
        ({"controls.untrained.saes": "nowhere"}, "controls.untrained.saes: nowhere: no such folder"),
        ({"controls.untrained.saes": "saes/layers.0"}, "controls.untrained.saes: no SAE for 'embed_tokens' in"),
    ],
)
def test_wrong_settings_are_answered_in_one_line(file: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        load_study(changed(file, changes))
