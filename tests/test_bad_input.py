"""Input at fault: one clear line, recorded until the input changes, and nothing else is harmed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.sparse_autoencoders import sparsify
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.table_store import Partition
from tests.changed_study import changed
from tests.tiny import HIDDEN, VOCABULARY, make_model, make_tokenizer, shift

GOOD, OTHER = "embed_tokens", "layers.0"
Damage = Callable[[Path], object]


@pytest.fixture
def world(two_layers: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a sound study with two layers, to be damaged."""
    return shutil.copytree(two_layers.parent, tmp_path / "world")


def make(root: Path, asset: str, layer: str | None = None) -> Partition:
    """The partition and all it needs; the activation cache in one pass of both layers."""
    study = load_study(root / "study.yaml")
    assets = Freshness(study).assets
    for read in dict.fromkeys(read.asset for read in assets[asset].reads):
        for each in (GOOD, OTHER) if assets[read].per_layer else (None,):
            make(root, read, each)
    return make_partition(study, asset, layer, LoadedModels(), [GOOD, OTHER]).partition


def refused(root: Path, asset: str, layer: str | None = None) -> str:
    """Why a partition cannot be made: one line, the same again on the next try, recorded, and nothing written."""
    with pytest.raises(UnusableInput) as first:
        make(root, asset, layer)
    with pytest.raises(UnusableInput) as again:
        make(root, asset, layer)
    reason = str(first.value)
    assert str(again.value) == reason
    assert "\n" not in reason
    freshness = Freshness(load_study(root / "study.yaml"))
    states = {(state.asset, state.layer): state for state in freshness.states()}
    assert (states[asset, layer].state, states[asset, layer].reasons) == ("failed", (reason,))
    behind = "activation_cache" if asset == "corpus" else "examples"
    assert states[behind, layer or GOOD].state == "blocked"
    folder = freshness.store.folder(asset, layer)
    assert {file.name for file in folder.rglob("*") if file.is_file()} == {"failed.json", ".lock"}
    return reason


def save_texts(root: Path, texts: list[str | None], column: str = "text") -> None:
    pl.DataFrame({column: texts}, schema={column: pl.String}).write_parquet(root / "corpus.parquet")


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def damage_pages(file: Path) -> None:
    """The footer stays sound, what it points to does not."""
    content = bytearray(file.read_bytes())
    content[4:2000] = b"\xff" * 1996
    file.write_bytes(content)


def as_jsonl(root: Path, lines: list[str]) -> None:
    (root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    changed(root / "study.yaml", {"corpus.path": "corpus.jsonl"}, "study.yaml")


def row(text: str | None) -> str:
    return json.dumps({"text": text, "id": 1})


CORPORA: dict[str, tuple[Damage, str]] = {
    "empty": (lambda root: save_texts(root, []), "holds 0 tokens in whole contexts, corpus.tokens asks for 8,192; the corpus is empty"),
    "blank": (lambda root: save_texts(root, ["", " \n", None]), "holds 0 tokens in whole contexts"),
    "short": (
        lambda root: save_texts(root, ["kaba lode " * 500]),
        "holds 960 tokens in whole contexts, corpus.tokens asks for 8,192; lower it or give more text",
    ),
    "column": (lambda root: save_texts(root, ["kaba"], "body"), "no column 'text'; there are: body"),
    "numbers": (
        lambda root: pl.DataFrame({"text": [1, 2]}).write_parquet(root / "corpus.parquet"),
        "column 'text' holds int64, not text",
    ),
    "no parquet": (lambda root: (root / "corpus.parquet").write_text("kaba lode"), "not a readable Parquet file"),
    "cut parquet": (lambda root: cut(root / "corpus.parquet", 5000), "not a readable Parquet file"),
    "damaged parquet": (lambda root: damage_pages(root / "corpus.parquet"), "not a readable Parquet file"),
    "broken line": (lambda root: as_jsonl(root, [row("kaba"), "", '{"text": "lo']), "corpus.jsonl: line 3 is not JSON"),
    "line without text": (lambda root: as_jsonl(root, [row("kaba"), '{"id": 2}']), "line 2 has no 'text'; there are: id"),
    "line with a number": (lambda root: as_jsonl(root, [row("kaba"), '{"text": 2}']), "line 2: 'text' is int, not text"),
    "line with a list": (lambda root: as_jsonl(root, ["[1, 2]"]), "line 1 is not an object with a text under 'text'"),
    "tokenizer": (
        lambda root: make_tokenizer([*VOCABULARY[:2], *"abcdefghij", *VOCABULARY[2:]]).save_pretrained(root / "model"),
        "the tokenizer does not fit the model: it gives token id 59, the model's vocabulary ends at 49",
    ),
    "no tokenizer": (lambda root: (root / "model" / "tokenizer.json").unlink(), "no usable tokenizer"),
    "cut tokenizer": (lambda root: cut(root / "model" / "tokenizer.json", 300), "no usable tokenizer"),
    "configuration": (lambda root: cut(root / "model" / "config.json", 60), "no usable"),
}  # fmt: skip


@pytest.mark.parametrize("case", CORPORA)
def test_a_corpus_that_cannot_be_used(world: Path, two_layers: Path, case: str) -> None:
    damage, said = CORPORA[case]
    damage(world)
    reason = refused(world, "corpus")
    assert said in reason
    shutil.copytree(two_layers.parent, world, dirs_exist_ok=True)
    assert make(world, "corpus").manifest["asset"] == "corpus"


def edit_sae(root: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = root / "saes" / OTHER / "sae.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)


def set_nan(weights: dict[str, torch.Tensor]) -> None:
    weights["W_dec"][3, :2] = torch.nan


def edit_settings(root: Path, **settings: object) -> None:
    file = root / "saes" / OTHER / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def move_sae(root: Path, hookpoint: str) -> None:
    (root / "saes" / OTHER).rename(root / "saes" / hookpoint)
    changed(root / "study.yaml", {"saes.0.hookpoints": [GOOD, hookpoint]}, "study.yaml")


SAES: dict[str, tuple[Damage, str]] = {
    "cut short": (lambda root: cut(root / "saes" / OTHER / "sae.safetensors", 4000), "sae.safetensors: damaged or cut short"),
    "empty": (lambda root: cut(root / "saes" / OTHER / "sae.safetensors", 0), "sae.safetensors: damaged or cut short"),
    "NaN": (lambda root: edit_sae(root, set_nan), "W_dec holds 2 values that are NaN or infinite, of 2,800"),
    "a tensor missing": (lambda root: edit_sae(root, lambda weights: weights.pop("b_dec")), "tensor b_dec is missing; there are: W_dec"),
    "k is text": (lambda root: edit_settings(root, k="many"), "cfg.json"),
    "other dimensions": (
        lambda root: edit_sae(root, lambda weights: weights.update(W_dec=weights["W_dec"][:, :9])),
        "b_dec has shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAES)
def test_an_sae_that_cannot_be_used_fails_alone(world: Path, two_layers: Path, case: str) -> None:
    """The pass goes on with the other layer and records why this one was left out."""
    damage, said = SAES[case]
    damage(world)
    assert make(world, "activation_cache", GOOD).metadata["fvu"] < 0.1
    assert said in refused(world, "activation_cache", OTHER)
    states = Freshness(load_study(world / "study.yaml")).states()
    assert {s.asset: s.state for s in states if s.layer == GOOD}["activation_cache"] == "fresh"
    shutil.copytree(two_layers.parent, world, dirs_exist_ok=True)
    assert make(world, "activation_cache", OTHER).metadata["fvu"] < 0.1


@pytest.mark.parametrize(
    ("hookpoint", "said"),
    [
        ("layers.7", "no module 'layers.7'; at that place there are: layers.0, layers.1"),
        ("layers.0.attn", "no module 'layers.0.attn'; at that place there are: layers.0.self_attn, layers.0.mlp"),
        ("h.3", "no module 'h.3'; at that place there are: embed_tokens, layers, norm"),
        ("layers.0.mlp", "proof of load: at layers.0.mlp the SAE leaves"),
    ],
)
def test_a_hookpoint_that_is_not_the_saes(world: Path, hookpoint: str, said: str) -> None:
    """It does not exist, or has the right dimensions but holds something else."""
    move_sae(world, hookpoint)
    study = load_study(world / "study.yaml")
    for layer in (GOOD, hookpoint):
        make_partition(study, "sae_weights", layer, LoadedModels())
    make_partition(study, "corpus", None, LoadedModels())
    with pytest.raises(UnusableInput) as caught:
        make_partition(study, "activation_cache", hookpoint, LoadedModels(), [GOOD, hookpoint])
    assert said in str(caught.value)
    state, reasons = Freshness(study).own_state(Freshness(study).assets["activation_cache"], hookpoint)
    assert (state, reasons) == ("failed", (str(caught.value),))
    assert Freshness(study).store.folder("activation_cache", GOOD).is_dir()
    assert make_partition(study, "activation_cache", GOOD, LoadedModels()).reused


def test_a_transposed_decoder_fails_the_proof(world: Path) -> None:
    """As many latents as dimensions, so that the shapes fit either way."""
    order = torch.eye(HIDDEN).roll(1, dims=0)
    weights = {"encoder.weight": order, "encoder.bias": torch.zeros(HIDDEN), "W_dec": order.clone(), "b_dec": shift()}
    edit_settings(world, num_latents=HIDDEN)
    edit_sae(world, lambda before: before.update(weights))
    assert make(world, "activation_cache", OTHER).metadata["fvu"] < 0.1  # control: the right way round
    edit_sae(world, lambda before: before.update(W_dec=order.T))
    assert "proof of load: at layers.0 the SAE leaves" in refused_later(world, OTHER)


def test_a_forgotten_b_dec_fails_the_proof(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(**tensors: object) -> SparseAutoencoder:
        return SparseAutoencoder(**tensors, subtract_b_dec=False)  # type: ignore[arg-type]

    assert make(world, "activation_cache", GOOD).metadata["proof"]["mean_l0"] == 1  # control: read as it should be
    edit_sae(world, lambda weights: weights.update({"encoder.bias": weights["encoder.bias"] + 1e-6}))
    monkeypatch.setattr("resources.sparse_autoencoders.autoencoder.SparseAutoencoder", careless)
    assert careless is sparsify_class()
    assert "proof of load: at layers.0 the SAE leaves" in refused_later(world, OTHER)


def sparsify_class() -> object:
    """What the reader of this format will take for an SAE."""
    from resources.sparse_autoencoders.autoencoder import SparseAutoencoder

    assert "from .autoencoder import InvalidSae, SparseAutoencoder" in Path(sparsify.__file__).read_text()
    return SparseAutoencoder


def refused_later(root: Path, layer: str) -> str:
    """Why a layer fails that was sound before."""
    with pytest.raises(UnusableInput) as caught:
        make(root, "activation_cache", layer)
    return str(caught.value)


MODELS: dict[str, tuple[Damage, str]] = {
    "no weights": (lambda root: (root / "model" / "model.safetensors").unlink(), "no file named model.safetensors"),
    "cut short": (lambda root: cut(root / "model" / "model.safetensors", 9000), "no usable causal language model"),
    "incomplete": (lambda root: drop_tensor(root / "model" / "model.safetensors"), "lack 1 of its tensors, such as lm_head.weight"),
    "other shapes": (lambda root: make_model(root / "model", layers=3) and cut_layers(root), "no usable causal language model"),
}  # fmt: skip


def drop_tensor(file: Path) -> None:
    weights = load_file(file)
    del weights["lm_head.weight"]
    save_file(weights, file, {"format": "pt"})


def cut_layers(root: Path) -> None:
    file = root / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 40}))


@pytest.mark.parametrize("case", MODELS)
def test_a_subject_model_that_cannot_be_used(world: Path, two_layers: Path, case: str) -> None:
    damage, said = MODELS[case]
    damage(world)
    assert said in refused(world, "activation_cache", GOOD)
    shutil.copytree(two_layers.parent, world, dirs_exist_ok=True)
    assert make(world, "activation_cache", GOOD).metadata["fvu"] < 0.1


def test_all_formats_give_the_same_contexts(world: Path) -> None:
    texts = pl.read_parquet(world / "corpus.parquet")["text"].to_list()
    texts[5] += "\n" + texts[6]  # a line break within a document
    texts[7:7] = ["", "  "]
    save_texts(world, texts)
    hashes = [make(world, "corpus").content_hash]
    (world / "corpus.txt").write_text("\n\n".join(texts) + "\n")
    (world / "corpus.jsonl").write_text("".join(row(text) + "\n" for text in texts) + row(None) + "\n")
    for name in ("corpus.txt", "corpus.jsonl"):
        changed(world / "study.yaml", {"corpus.path": name}, "study.yaml")
        hashes.append(make(world, "corpus").content_hash)
    assert len(set(hashes)) == 1
    (world / "corpus.txt").write_text("\n\n".join(texts[1:] + texts))
    changed(world / "study.yaml", {"corpus.path": "corpus.txt"}, "study.yaml")
    assert make(world, "corpus").content_hash not in hashes  # control
    assert pq.read_metadata(world / "corpus.parquet").num_rows == len(texts)
