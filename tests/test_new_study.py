"""`interp init`: from a folder or hub name of SAEs to a study that loads, with all that was assumed said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from interp_assets import sae_survey, saes_from_hub
from interp_assets.cli import main
from interp_assets.job import make_partition
from interp_assets.model_names import hub_name_of, model_type_of
from interp_assets.new_study import write_study
from interp_assets.study import PROJECT, Study, load_study
from resources import hub
from resources.loaded_models import LoadedModels
from tests.fake_hub import FakeHub, reach, serving
from tests.families import make_family
from tests.planted_transcoder import make_transcoder_set
from tests.tiny import make_corpus, make_model, make_sae

D, N = 8, 12


def sparsify(folder: Path, hookpoint: str) -> Path:
    place = folder / hookpoint
    place.mkdir(parents=True)
    (place / "cfg.json").write_text(json.dumps({"d_in": D, "num_latents": N, "k": 2}))
    weights = {"encoder.weight": (N, D), "encoder.bias": (N,), "W_dec": (N, D), "b_dec": (D,)}
    save_file({name: np.ones(shape, dtype=np.float32) for name, shape in weights.items()}, place / "sae.safetensors")
    return folder


def saelens(folder: Path, **metadata: Any) -> Path:
    folder.mkdir(parents=True)
    settings = {"architecture": "standard", "d_in": D, "d_sae": N, "metadata": {"sae_lens_version": "6.5.0"} | metadata}
    (folder / "cfg.json").write_text(json.dumps(settings))
    weights = {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,)}
    save_file({n: np.ones(shape, dtype=np.float32) for n, shape in weights.items()}, folder / "sae_weights.safetensors")
    return folder


def gemma_scope(folder: Path) -> Path:
    folder.mkdir(parents=True)
    weights = {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,), "threshold": (N,)}
    np.savez(folder / "params.npz", **{n: np.ones(shape, dtype=np.float32) for n, shape in weights.items()})
    return folder


def init(path: Path | str, root: Path, **given: str) -> tuple[Study, dict[str, Any], dict[str, str]]:
    """The study, its file as it was written, what was assumed."""
    file = root / "studies" / "new.yaml"
    study, found = write_study(str(path), str(file), given.get("model"), given.get("corpus"))
    return study, yaml.safe_load(file.read_text()), found.assumed


def test_the_demos_saes_become_a_study_that_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "studies" / "mine.yaml"
    assert main(["init", str(PROJECT / "demo" / "saes"), "--output", str(file)]) == 0
    said = capsys.readouterr().out
    study = load_study(file)
    assert [layer.key for layer in study.layers] == ["layers.8", "layers.9", "layers.10"]
    assert study.path(study.subject_model.path) == PROJECT / "demo/weights/SmolLM2-135M-Instruct"
    assert "found    layers.10: 2,048 latents of 576 dimensions, L0 32 (sparsify, topk)" in said
    assert (
        "assumed  subject_model.path: the only one of the demo's models of 576 dimensions; the SAEs name none" in said
    )
    assert "assumed  corpus.path: the demo's text" in said
    assert f"written  {file}" in said
    assert main(["plan", str(file)]) == 0
    assert "mine: 23 missing" in capsys.readouterr().out


def test_nothing_is_written_over_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    assert main(["init", str(PROJECT / "demo" / "saes"), "--output", str(file)]) == 2
    assert "is there already, and nothing is written over it" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["mine.yml", "mine.YAML", "mine.json", "mine"])
def test_what_would_not_be_found_by_its_name_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / "studies" / name
    assert main(["init", str(PROJECT / "demo" / "saes"), "--output", str(file)]) == 2
    assert capsys.readouterr().err == f"error: --output: {file}: a study file ends in .yaml\n"
    assert not file.parent.exists()


def test_what_does_not_fit_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    for arguments, said in [
        ([str(PROJECT / "demo" / "saes"), "--corpus", "nowhere.parquet"], "corpus.path: nowhere.parquet: no such file"),
        ([str(PROJECT / "demo" / "saes"), "--model", "./nowhere"], "subject_model.path: ./nowhere: no such folder"),
        ([str(tmp_path / "nowhere")], f"no such folder ({tmp_path / 'nowhere'}), and not a hub name like owner/name"),
        ([str(PROJECT / "studies")], "no SAE here or below"),
    ]:
        assert main(["init", *arguments, "--output", str(file)]) == 2
        assert said in capsys.readouterr().err
        assert not file.exists()


def test_a_study_that_was_written_is_run_as_it_is(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    make_sae(tmp_path / "saes")
    make_corpus(tmp_path / "text.parquet", documents=60)
    given = {"model": str(tmp_path / "model"), "corpus": str(tmp_path / "text.parquet")}
    study, written, assumed = init(tmp_path / "saes", tmp_path, **given)
    assert (written["subject_model"]["path"], written["corpus"]["path"]) == ("./model", "./text.parquet")
    assert list(assumed) == ["corpus.bos"]
    # As long as the text is; the rest stays.
    study.file.write_text(study.file.read_text().replace("tokens: 262144", "tokens: 2048"))
    study = load_study(study.file)
    for asset, layer in (("sae_weights", "embed_tokens"), ("corpus", None), ("activation_cache", "embed_tokens")):
        made = make_partition(study, asset, layer, LoadedModels()).partition
    assert made.metadata["proof"]["fvu"] < 0.1


def test_a_training_run_of_sparsify_names_model_and_text_beside_its_saes(tmp_path: Path) -> None:
    folder = sparsify(sparsify(tmp_path / "run", "layers.2"), "layers.10.mlp")
    training = {"model": "EleutherAI/pythia-160m", "dataset": "EleutherAI/rpj-v2-sample", "ctx_len": 64}
    (folder / "config.json").write_text(json.dumps(training))
    study, written, assumed = init(folder, tmp_path)
    assert written["subject_model"]["path"] == "EleutherAI/pythia-160m"
    assert written["corpus"]["path"] == "EleutherAI/rpj-v2-sample"
    assert written["corpus"]["context_length"] == 64
    assert written["saes"] == [{"path": "./run", "hookpoints": ["layers.2", "layers.10.mlp"]}]
    assert assumed["subject_model.path"] == "the SAEs' settings name 'EleutherAI/pythia-160m'"
    assert [layer.key for layer in study.layers] == ["layers.2", "layers.10.mlp"]


def test_names_of_transformer_lens_are_understood_by_the_model_that_is_named(tmp_path: Path) -> None:
    """Nothing of GPT-2 is here, but what its parts are called is known."""
    folder = saelens(
        tmp_path / "lens", model_name="gpt2-small", hook_name="blocks.8.hook_resid_pre", prepend_bos=False,
        context_size=128, dataset_path="Skylion007/openwebtext",
    )  # fmt: skip
    study, written, assumed = init(folder, tmp_path)
    assert written["subject_model"]["path"] == "openai-community/gpt2"
    assert written["saes"] == [{"path": "./lens", "hookpoints": ["h.8:in"]}]
    assert written["corpus"] == {
        "path": "Skylion007/openwebtext", "tokens": 262144, "context_length": 128, "bos": False,
        "skip_first": 1,
    }  # fmt: skip
    assert assumed["corpus.bos"] == "as the SAEs were trained"
    assert [layer.key for layer in study.layers] == ["h.8:in"]


def test_saes_that_read_one_place_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    release = tmp_path / "gemma-scope-2b-pt-res"
    for name in ("average_l0_3", "average_l0_7"):
        gemma_scope(release / "layer_20" / "width_16k" / name)
    gemma_scope(release / "layer_21" / "width_16k" / "average_l0_8")
    study, written, _ = init(release, tmp_path)
    assert written["subject_model"]["path"] == "google/gemma-2-2b"
    keys = ["layers.20@average_l0_3", "layers.20@average_l0_7", "layers.21"]
    assert [layer.key for layer in study.layers] == keys
    assert len({layer.location.files()[0] for layer in study.layers}) == 3


def test_folders_whose_names_are_no_labels(tmp_path: Path) -> None:
    for name in ("first...last", "wide.random"):
        gemma_scope(tmp_path / "saes" / name)
    study, _, _ = init(tmp_path / "saes", tmp_path)
    assert {layer.key.partition("@")[2] for layer in study.layers} == {"first--.last", "wide.random-sae"}


def test_what_the_files_do_not_say_is_to_be_changed(tmp_path: Path) -> None:
    study, written, assumed = init(saelens(tmp_path / "lens"), tmp_path)
    assert assumed["subject_model.path"] == "CHANGE THIS: the SAEs' settings name no model"
    assert written["subject_model"]["path"] == "owner/model"
    marked = [line for line in study.file.read_text().splitlines() if "# CHANGE THIS" in line]
    assert [line.split()[0] for line in marked] == ["path:", "-"]
    study.file.unlink()
    _, _, assumed = init(saelens(tmp_path / "other", model_name="house-model"), tmp_path)
    assert assumed["subject_model.path"].startswith("CHANGE THIS: the SAEs' settings name 'house-model'")


def test_an_sae_that_cannot_be_read_is_told_and_the_others_make_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stream between attention and MLP is none in a Pythia, where both read the same one."""
    root = tmp_path / "lens"
    for name, hook in (("good", "hook_resid_post"), ("bad", "hook_resid_mid")):
        saelens(root / name, model_name="pythia-70m-deduped", hook_name=f"blocks.2.{hook}")
    assert main(["init", str(root), "--output", str(tmp_path / "new.yaml")]) == 0
    told = capsys.readouterr().out
    assert "found    layers.2: " in told
    assert (
        f"left out {root / 'bad' / 'sae_weights.safetensors'}: blocks.2.hook_resid_mid: in a model of type 'gpt_neox' attention and MLP"
        in told
    )
    shutil.rmtree(root / "good")
    assert main(["init", str(root), "--output", str(tmp_path / "other.yaml")]) == 2
    assert "read the same residual stream" in capsys.readouterr().err


def test_one_model_of_several_that_fit_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        make_model(tmp_path / "demo" / "weights" / name)
    make_sae(tmp_path / "saes")
    monkeypatch.setattr(sae_survey, "PROJECT", tmp_path)
    _, written, assumed = init(tmp_path / "saes", tmp_path)
    assert written["subject_model"]["path"] == "owner/model"
    assert assumed["subject_model.path"].startswith(
        "CHANGE THIS: the SAEs' settings name no model; here, of their width: "
    )
    shutil.rmtree(tmp_path / "demo" / "weights" / "two")
    (tmp_path / "studies" / "new.yaml").unlink()
    assert init(tmp_path / "saes", tmp_path)[1]["subject_model"]["path"] == "demo/weights/one"


@pytest.mark.parametrize(
    "name",
    ["x\nstorage: /elsewhere", 'm"\nbudget: {money: 9}', "owner/na#me: [", "&a *b", "\x1b[2J", "owner/model\n# x", "'"],
)
def test_what_stands_in_an_saes_settings_cannot_write_settings(tmp_path: Path, name: str) -> None:
    folder = saelens(tmp_path / "lens", model_name=name, dataset_path=name, hook_name="blocks.1.hook_resid_post")
    (folder / name.replace("/", "_").replace("\n", "_")).mkdir()
    study, written, _ = init(folder, tmp_path)
    assert set(written) == {"subject_model", "saes", "corpus", "examples", "explainers", "scorers"}
    assert written["subject_model"] == {"path": "owner/model", "dtype": "bfloat16"}
    assert "\x1b" not in study.file.read_text()


def test_saes_on_the_hub_become_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = FakeHub()
    folder = sparsify(sparsify(tmp_path / "pushed", "layers.2"), "layers.3")
    (folder / "config.json").write_text(json.dumps({"model": "maker/model"}))
    there.push("maker/saes", folder)
    make_model(tmp_path / "model")
    there.push("maker/model", tmp_path / "model")
    with serving(there) as address:
        reach(monkeypatch, address, tmp_path / "cache")
        study, written, assumed = init("maker/saes", tmp_path)
        assert written["saes"] == [{"path": "maker/saes", "hookpoints": ["layers.2", "layers.3"]}]
        assert written["subject_model"]["path"] == "maker/model"
        assert assumed["corpus.bos"] == "the tokenizer has a BOS token; the SAEs' settings do not say"
        assert not any("model.safetensors" in path for path in there.asked)  # its settings are enough
        assert [layer.key for layer in study.layers] == ["layers.2", "layers.3"]
        study.file.unlink()
        _, written, _ = init("maker/saes/layers.3", tmp_path)
        assert written["saes"] == [{"path": "maker/saes/layers.3", "hookpoints": ["layers.3"]}]


def test_a_repository_that_is_too_large_is_not_fetched_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = FakeHub()
    there.push("maker/saes", sparsify(sparsify(tmp_path / "pushed", "layers.2"), "layers.3"))
    monkeypatch.setattr(saes_from_hub, "LARGE_BYTES", 1000)
    with serving(there) as address:
        reach(monkeypatch, address, tmp_path / "cache")
        assert main(["init", "maker/saes", "--output", str(tmp_path / "new.yaml")]) == 2
    said = capsys.readouterr().err
    assert (
        "more than is fetched unasked; name a folder in it, as in maker/saes/layers.2; there are: layers.2, layers.3"
        in said
    )
    assert not any("/resolve/" in path for path in there.asked)


def test_of_a_set_that_is_too_large_single_layers_are_fetched_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = FakeHub()
    make_transcoder_set(tmp_path / "set")
    there.push("maker/set", tmp_path / "set")
    monkeypatch.setattr(saes_from_hub, "LARGE_BYTES", 1000)
    with serving(there) as address:
        reach(monkeypatch, address, tmp_path / "cache")
        assert main(["init", "maker/set", "--output", str(tmp_path / "new.yaml")]) == 2
        said = capsys.readouterr().err
        assert "more than is fetched unasked; fetch the layers that you want, and ask again: " in said
        assert "hf download maker/set --include 'config.yaml' --include 'layer_0.safetensors'" in said
        assert not any("/resolve/" in path for path in there.asked)
        hub.fetch("maker/set", None, ["config.yaml", "layer_1.safetensors"])
        _, written, _ = init("maker/set", tmp_path, model="maker/model")
    assert written["saes"] == [{"path": "maker/set", "hookpoints": ["layers.1.mlp:in"]}]


@pytest.mark.parametrize(
    ("name", "hub", "kind"),
    [
        ("gpt2-small", "openai-community/gpt2", "gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl", "gpt2"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped", "gpt_neox"),
        ("gemma-2-9b-it", "google/gemma-2-9b-it", "gemma2"),
        ("gemma-3-1b-pt", "google/gemma-3-1b-pt", "gemma3_text"),
        ("gemma-3-4b-it", "google/gemma-3-4b-it", "gemma3"),
        ("google/gemma-3-270m", "google/gemma-3-270m", "gemma3_text"),
        ("gemma-2b", "google/gemma-2b", "gemma"),
        ("qwen3-4b", "Qwen/Qwen3-4B", "qwen3"),
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B-Base", "qwen3"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "qwen2"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", "llama"),
        ("tiny-stories-33M", "roneneldan/TinyStories-33M", "gpt_neo"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "llama"),
        ("maker/gemma-2-2b", "maker/gemma-2-2b", None),
        ("my-gpt2-small", None, None),
    ],
)
def test_what_models_are_called(name: str, hub: str | None, kind: str | None) -> None:
    assert hub_name_of(name) == hub
    assert hub is None or model_type_of(hub) == kind


def test_a_model_that_sees_too_is_a_language_model(tmp_path: Path) -> None:
    """Gemma 3 from 4B on; and one whose settings do not say what it is built from."""
    model = make_family("gemma3", tmp_path / "gemma3")
    saes = saelens(tmp_path / "lens", hook_name="blocks.1.mlp.hook_post")
    assert init(saes, tmp_path, model=str(model))[1]["saes"][0]["hookpoints"] == [
        "language_model.layers.1.mlp.down_proj:in"
    ]
    (tmp_path / "studies" / "new.yaml").unlink()
    config = json.loads((model / "config.json").read_text())
    del config["architectures"]
    (model / "config.json").write_text(json.dumps(config))
    assert init(saes, tmp_path, model=str(model))[1]["subject_model"]["path"] == "./gemma3"


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({"model_type": "olmo2", "hidden_size": 24}, 24),
        ({"model_type": "gpt2", "n_embd": 24}, 24),
        ({"model_type": "mpt", "d_model": 24}, 24),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 24}}, 24),
        ({"model_type": "bert", "hidden_size": 24}, None),
        ({"hidden_size": 24}, None),
    ],
)
def test_language_models_of_every_family_are_known_by_their_settings(
    settings: dict[str, Any], width: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert sae_survey.width_of(tmp_path) == width
