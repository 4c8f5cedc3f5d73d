"""Places in a model at which no vector stands for each token: each fails its own layer, and stops no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from interp_assets.freshness import Freshness
from interp_assets.study import Study, load_study
from interp_assets.upkeep import clean
from resources.errors import UnusableInput
from resources.subject_model import SubjectModel
from tests.changed_study import changed
from tests.families import make_family
from tests.refusals import make
from tests.tiny import make_sae

TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def small(name: str, folder: Path) -> SubjectModel:
    return SubjectModel(make_family(name, folder / name), None, "float32", "cpu")


def test_what_stands_there_is_told(tmp_path: Path) -> None:
    """Position embeddings are one context's for all; a list of layers is not run; the others are vectors."""
    subject = small("gpt2", tmp_path)
    places = ["h.1", "h.1.mlp:in", "h", "wpe", "wte", "h.2.attn.c_proj:in"]
    found = subject.unreadable(TOKENS, places)
    assert set(found) == {"h", "wpe"}
    assert found["h"].startswith("h: the model does not run that module on text")
    assert "wpe: not a vector for each token: for 2 contexts of 4 tokens a tensor of shape (1, 4, 32)" in found["wpe"]


def test_modules_that_see_all_tokens_in_one_row(tmp_path: Path) -> None:
    """As OPT's MLP does, and those of mixtures of experts; and a model that projects its stream before the unembedding."""
    sizes = {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 16,
    }
    config = AutoConfig.for_model("opt", vocab_size=64, max_position_embeddings=128, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    subject = SubjectModel(tmp_path, None, "float32", "cpu")
    found = subject.unreadable(TOKENS, ["decoder.layers.1", "decoder.layers.1.fc2"])
    assert list(found) == ["decoder.layers.1.fc2"]
    assert "a tensor of shape (8, 32) stands there" in found["decoder.layers.1.fc2"]
    assert not subject.writes_to_residual_stream("decoder.layers.1", 32)


def state_of(study: Study) -> str:
    (found,) = [
        each for each in Freshness(study).states() if (each.asset, each.partition) == ("activation_cache", "layers")
    ]
    return found.state


def test_one_such_place_stops_no_other_layer(tiny_file: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_file.parent, tmp_path / "world")
    shutil.rmtree(root / ".store", ignore_errors=True)
    make_sae(root, "mine")
    saes = [{"path": "saes/embed_tokens"}, {"path": "mine", "hookpoints": ["layers"]}]
    file = changed(root / tiny_file.name, {"saes": saes}, "study.yaml")
    with pytest.raises(UnusableInput, match="layers: the model does not run that module on text"):
        make(root, "activation_cache", "layers")
    assert make(root, "activation_cache", "embed_tokens").metadata["proof"]["tokens"] > 0
    # That it failed for good is a result too, which tidying up leaves alone.
    study = load_study(file)
    assert state_of(study) == "failed"
    clean(Freshness(study).store, [study])
    assert state_of(study) == "failed"
