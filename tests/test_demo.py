"""The demo's own models, SAEs and text, as `make test` has unpacked them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp_assets.activations.proof_of_load import ProofFailed, compare_layers, prove
from interp_assets.corpus.contexts import documents, pack, tokens_matrix
from interp_assets.progress import Progress
from interp_assets.settings import ProofOfLoad
from interp_assets.study import PROJECT, Study, load_study
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel
from resources.tokenizers import load_tokenizer, vocabulary_size

LIMITS = ProofOfLoad()


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(PROJECT / "studies" / "smollm2_demo.yaml")


OTHERS = ["layers.4", "layers.7", "layers.11", "layers.10.mlp", "layers.10.self_attn", "layers.10.input_layernorm"]


@pytest.fixture(scope="module")
def activations(study: Study) -> dict[str, torch.Tensor]:
    """1,024 tokens of text that no SAE was trained on, at their three hookpoints and at some that are not theirs."""
    path = study.path(study.subject_model.path)
    corpus = study.corpus.model_copy(update={"tokens": 1024})
    texts = documents(corpus, study.path(corpus.path))
    table = pack(texts, load_tokenizer(path), corpus, vocabulary_size(path), Progress("", 1, ""))
    subject = SubjectModel(path, None, study.subject_model.dtype, "cpu")
    assert {"layers.8", "layers.9", "layers.11"} <= set(subject.same_place_elsewhere("layers.10"))
    ids = torch.from_numpy(tokens_matrix(table).astype("int64"))
    found = subject.activations(ids, [layer.hookpoint for layer in study.layers] + OTHERS)
    return {name: x[:, 1:].flatten(0, 1) for name, x in found.items()}


def test_held_out_fvu_is_under_a_quarter(study: Study, activations: dict[str, torch.Tensor]) -> None:
    streams = {name: x for name, x in activations.items() if name.count(".") == 1}
    for layer in study.layers:
        if layer.control is not None:
            continue
        sae = read_sae(layer.location)
        proof = prove(sae, activations[layer.hookpoint], layer.hookpoint, layer.location.published_l0(), LIMITS)
        compare_layers(sae, layer.hookpoint, streams, proof, LIMITS)
        assert sae.n_latents >= 2048
        assert layer.location.files()[1].stat().st_size <= 6_000_000
        assert proof["fvu"] < 0.25
        assert proof["dimension_fvu"] < 0.35
        assert proof["mean_l0"] == pytest.approx(32, abs=0.5)


@pytest.mark.parametrize("wrong", ["layers.4", "layers.7", "layers.9", "layers.11"])
def test_a_wrong_layer_fails_the_proof(study: Study, activations: dict[str, torch.Tensor], wrong: str) -> None:
    """Also a neighbouring one, which alone would pass, and one whose massive activations hide the rest."""
    sae = read_sae(study.layer("layers.10").location)
    places = {name: activations[name] for name in (wrong, "layers.8", "layers.10")}
    proof = prove(sae, activations[wrong], wrong, 32.0, ProofOfLoad(max_dimension_fvu=2))
    with pytest.raises(ProofFailed, match=rf"explains layers.10 better \(mean FVU of dimensions 0.\d+\) than {wrong}"):
        compare_layers(sae, wrong, places, proof, LIMITS)


@pytest.mark.parametrize("wrong", ["layers.10.mlp", "layers.10.self_attn", "layers.10.input_layernorm"])
def test_a_wrong_module_fails_the_proof(study: Study, activations: dict[str, torch.Tensor], wrong: str) -> None:
    sae = read_sae(study.layer("layers.10").location)
    with pytest.raises(ProofFailed, match=rf"at {wrong} the SAE leaves .* unexplained"):
        prove(sae, activations[wrong], wrong, 32.0, LIMITS)


@pytest.mark.parametrize(
    "mistake", ["b_dec not subtracted", "b_dec forgotten", "TopK as ReLU", "transposed", "mixed up"]
)
def test_weights_read_in_a_wrong_way_fail_the_proof(
    study: Study, activations: dict[str, torch.Tensor], mistake: str
) -> None:
    sae = read_sae(study.layer("layers.9").location)
    d = sae.d_in
    square = {"W_enc": sae.W_enc[:, :d], "b_enc": sae.b_enc[:d], "W_dec": sae.W_dec[:d].T.contiguous()}
    changes: dict[str, dict[str, object]] = {
        "b_dec not subtracted": {"subtract_b_dec": False},
        "b_dec forgotten": {"b_dec": torch.zeros_like(sae.b_dec)},
        "TopK as ReLU": {"activation": "relu", "k": None},
        "transposed": square,
        "mixed up": {"W_dec": sae.W_dec.flip(0)},
    }
    with pytest.raises(ProofFailed):
        prove(replace(sae, **changes[mistake]), activations["layers.9"][:512], "layers.9", 32.0, LIMITS)


def test_corpus_size(study: Study) -> None:
    corpus = study.corpus.model_copy(update={"tokens": 1_500_000})
    path = study.path(study.subject_model.path)
    texts = documents(corpus, study.path(corpus.path))
    table = pack(texts, load_tokenizer(path), corpus, vocabulary_size(path), Progress("", 1, ""))
    assert tokens_matrix(table).size >= 1_500_000 - corpus.context_length
