"""Transcoders from file to scores: what goes into a module is read, what it puts out is explained and changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from interp_assets.setting_errors import StudyError
from interp_assets.study import load_study
from resources.latent_changes import TakenAway
from resources.partition_files import Partition
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.read import read_sae
from resources.subject_model import SubjectModel
from tests.changed_study import changed
from tests.conftest import make_all
from tests.golden_cases import GOLDEN
from tests.planted_transcoder import (
    ADDED,
    MODULE,
    READS,
    answer_to,
    make_saelens_transcoder,
    make_transcoder,
    make_transcoder_set,
    make_transcoding,
)
from tests.refusals import refused
from tests.tiny import SPECIAL, VOCABULARY

NORMED = "layers.1.post_attention_layernorm:normed"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_transcoding(tmp_path_factory.mktemp("transcoding"))


@pytest.fixture(scope="module")
def normed_file(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a transcoder that reads what no module puts out: a norm's input over its scale."""
    root = shutil.copytree(file.parent, tmp_path_factory.mktemp("normed") / "world")
    make_saelens_transcoder(root / "mine")
    return changed(root / "study.yaml", {"saes": [{"path": "mine"}]}, "study.yaml")


@pytest.fixture(scope="module")
def set_file(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one of a set, which has a file for each layer."""
    root = shutil.copytree(file.parent, tmp_path_factory.mktemp("set") / "world")
    make_transcoder_set(root / "mine")
    return changed(root / "study.yaml", {"saes": [{"path": "mine", "hookpoints": [READS]}]}, "study.yaml")


@pytest.fixture(scope="module", params=["file", "normed_file", "set_file"])
def tables(request: pytest.FixtureRequest) -> dict[str, Partition]:
    return make_all(load_study(request.getfixturevalue(request.param)))


def test_it_reads_what_goes_in_and_writes_what_comes_out(file: Path) -> None:
    (layer,) = load_study(file).layers
    assert (layer.key, layer.hookpoint, layer.writes) == (READS, READS, MODULE)


def test_names_of_hooks_are_understood(normed_file: Path) -> None:
    (layer,) = load_study(normed_file).layers
    assert (layer.key, layer.hookpoint, layer.writes) == (NORMED, NORMED, MODULE)


def test_a_set_has_a_transcoder_for_each_layer(set_file: Path) -> None:
    whole = load_study(changed(set_file, {"saes": [{"path": "mine"}]}, "whole.yaml"))
    assert [(layer.key, layer.writes) for layer in whole.layers] == [
        ("layers.0.mlp:in", "layers.0.mlp"),
        (READS, MODULE),
    ]
    first, second = (layer.location.files() for layer in whole.layers)
    assert [file.name for file in first] == ["config.yaml", "layer_0.safetensors"]
    assert [file.name for file in second] == ["config.yaml", "layer_1.safetensors"]


def test_the_proof_compares_with_what_the_module_puts_out(tables: dict[str, Partition]) -> None:
    proof = tables["activation_cache"].metadata["proof"]
    assert proof["hookpoint"] in (READS, NORMED)
    assert proof["writes"] == MODULE
    assert proof["fvu"] < 0.05
    assert proof["mean_l0"] == 1


def test_every_latent_fires_on_its_word_and_promotes_the_answer(tables: dict[str, Partition]) -> None:
    statistics = tables["latent_statistics"].read("statistics").filter(~pl.col("dead"))
    assert len(statistics) == len(VOCABULARY) - len(SPECIAL)
    for latent, promoted in statistics.select("latent", "promoted_tokens").iter_rows():
        assert promoted[0] == f" {VOCABULARY[answer_to(latent)]}"  # as it stands behind other text
    explained = tables["explanations"].read("explanations").filter(pl.col("status") == "ok")
    for latent, text in explained.select("latent", "explanation").iter_rows():
        assert VOCABULARY[latent] in text


def test_changes_are_made_to_what_the_module_puts_out(tables: dict[str, Partition]) -> None:
    effects = tables["scores/intervention"].read("effects")
    assert set(effects["status"]) == {"ok"}
    for latent, text in (
        effects.filter(pl.col("condition") != "zero_ablation").select("latent", "effect_explanation").iter_rows()
    ):
        assert text == f"the word {VOCABULARY[answer_to(latent)]}"
    scores = tables["scores/intervention"].read("scores").filter(pl.col("condition") == "1")
    assert (scores.filter(pl.col("control") == "none")["value"] > 0).all()


def test_a_latent_taken_away_takes_its_part_of_the_output(file: Path) -> None:
    subject = SubjectModel(file.parent / "model", None, "float32", "cpu")
    (location,) = locate(file.parent / "saes")
    ids = torch.tensor([[0, 7, 9, 11]])
    seen = subject.activations(ids, [READS, MODULE])
    taken = TakenAway(read_sae(location), ids[0, 1:]).of(seen[READS][0, 1:])
    left = seen[MODULE][0, 1:] + taken
    assert seen[MODULE][0, 1:].norm(dim=1).min() > 0.8 * ADDED
    assert left.norm(dim=1).max() < 0.3 * ADDED


@pytest.mark.parametrize("where", ["as an SAE of the output", "of another module"])
def test_a_wrong_module_fails_the_proof(file: Path, where: str, tmp_path: Path) -> None:
    root = shutil.copytree(file.parent, tmp_path / "world")
    shutil.rmtree(root / "saes")
    if where == "as an SAE of the output":
        make_transcoder(root / "saes", transcode=False)
        assert f"at {MODULE} the SAE leaves" in refused(root, "activation_cache", MODULE)
    else:
        make_transcoder(root / "saes", "layers.0.mlp")
        reason = refused(root, "activation_cache", "layers.0.mlp:in")
        assert "layers.0.mlp:in" in reason
        assert "layers.0.mlp" in reason or "explains layers.1.mlp:in better" in reason


def test_a_place_that_the_files_do_not_name(file: Path, tmp_path: Path) -> None:
    """The study names the module, as for an SAE; of a transcoder its input is read."""
    root = shutil.copytree(file.parent, tmp_path / "world")
    (root / "saes" / MODULE).rename(root / "mine")
    study = load_study(changed(root / "study.yaml", {"saes": [{"path": "mine", "hookpoints": [MODULE]}]}))
    assert [(layer.hookpoint, layer.writes) for layer in study.layers] == [(READS, MODULE)]
    saes = [{"path": "mine", "hookpoints": ["layers.0.post_attention_layernorm:normed"]}]
    with pytest.raises(StudyError, match=r"saes\[0\].hookpoints: .*named by the module that it stands in for"):
        load_study(changed(root / "study.yaml", {"saes": saes}))


def test_no_random_sae_stands_beside_one_that_writes_elsewhere(file: Path, tmp_path: Path) -> None:
    root = shutil.copytree(file.parent, tmp_path / "world")
    shutil.copytree(GOLDEN / "saelens_transcoder", root / "mine")
    settings = {"saes": [{"path": "mine"}], "controls": {"random": {}}}
    with pytest.raises(StudyError, match=r"controls.random: .* reads 16 dimensions and writes 12: no random SAE"):
        load_study(changed(root / "study.yaml", settings))
