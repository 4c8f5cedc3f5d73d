"""SAEs and models that are named on the hub: resolved once to a commit, fetched when asked to, watched when they move."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_assets import saes_from_hub
from interp_assets.freshness import Freshness
from interp_assets.from_hub import get_models, model_files, moved, saes_named
from interp_assets.hub_listing import sae_files
from interp_assets.job import make_partition
from interp_assets.layers import MissingSae
from interp_assets.saes_from_hub import meant_by
from interp_assets.setting_errors import StudyError
from interp_assets.study import Study, load_study
from resources import hub
from resources.loaded_models import LoadedModels
from resources.sparse_autoencoders.config import UnknownSae
from tests.changed_study import changed
from tests.fake_hub import FakeHub, reach, serving
from tests.families import make_family
from tests.tiny import HIDDEN, make_sae

NAME = "maker/tiny-saes"


@pytest.fixture
def there() -> FakeHub:
    return FakeHub()


@pytest.fixture
def world(two_layers: Path, tmp_path: Path, there: FakeHub) -> Path:
    """A study whose SAEs are named on the hub: its file; the SAEs lie in `pushed` beside it, and nothing is here yet."""
    root = shutil.copytree(two_layers.parent, tmp_path / "world")
    (root / "saes").rename(root / "pushed")
    make_sae(root / "pushed", "layers.1")
    (root / "pushed" / "README.md").write_text("about")
    there.push(NAME, root / "pushed")
    saes = [{"path": NAME, "hookpoints": ["embed_tokens", "layers.0"]}]
    return changed(root / two_layers.name, {"saes": saes}, two_layers.name)


@pytest.fixture
def online(there: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(there) as address:
        reach(monkeypatch, address, tmp_path / "cache")
        yield there


def weights(study: Study, layer: str = "layers.0") -> dict[str, object]:
    made = make_partition(study, "sae_weights", layer, LoadedModels()).partition
    return made.metadata | {"content": made.content_hash}


def test_what_was_not_fetched_is_refused_with_how_to_fetch_it(world: Path, online: FakeHub) -> None:
    """Reading a study fetches nothing, so that looking at one never does."""
    with pytest.raises(StudyError) as error:
        load_study(world)
    assert f"saes[0].path: {NAME}: no such folder ({world.parent / NAME})" in str(error.value)
    assert f"interp run fetches it, or: hf download {NAME}" in str(error.value)
    assert online.asked == []


def test_saes_of_the_untrained_model_come_from_the_hub_too(world: Path, online: FakeHub) -> None:
    controls = {"untrained": {"saes": NAME, "layers": ["embed_tokens"]}}
    study = load_study(changed(world, {"controls": controls}, world.name), get=True)
    assert study.layer("embed_tokens@untrained").location == study.layer("embed_tokens").location
    assert [name.key for name in saes_named(study)] == ["saes[0].path", "controls.untrained.saes"]


def test_offline_it_says_what_is_missing_and_how_to_fetch_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(monkeypatch, None, tmp_path / "cache")
    with pytest.raises(StudyError) as error:
        load_study(world, get=True)
    assert str(error.value).startswith(f"{world}: saes[0].path: {NAME}: not to be had from the hub (")
    assert f"where the hub can be reached: hf download {NAME}; then copy {tmp_path / 'cache'} here" in str(error.value)


def test_a_name_becomes_a_commit_and_only_what_the_study_reads_is_fetched(world: Path, online: FakeHub) -> None:
    study = load_study(world, get=True)
    commit = online.branches[NAME]["main"]
    assert [layer.key for layer in study.layers] == ["embed_tokens", "layers.0"]
    fetched = [path for path in online.asked if "/resolve/" in path]
    # Neither the weights of layers.1 nor README.md; settings say which is which.
    assert {path.split("/")[5] for path in fetched if not path.endswith("cfg.json")} == {"embed_tokens", "layers.0"}
    metadata = weights(study)
    assert (metadata["hub"], metadata["commit"]) == (f"{NAME}/layers.0", commit)
    # From now on the hub is not asked, and another copy of the same files is as good.
    online.asked.clear()
    assert load_study(world).layers[1].location.files()[0].is_file()
    assert load_study(world, get=True)
    assert online.asked == []
    local = changed(world, {"saes": [{"path": "pushed", "hookpoints": ["embed_tokens", "layers.0"]}]}, "local.yaml")
    assert weights(load_study(local))["content"] == metadata["content"]


def test_a_folder_of_a_repository_is_named_behind_its_name(world: Path, online: FakeHub) -> None:
    file = changed(world, {"saes": [{"path": f"{NAME}/layers.0"}]}, "one.yaml")
    study = load_study(file, get=True)
    assert [layer.key for layer in study.layers] == ["layers.0"]
    assert all("/layers.0/" in path for path in online.asked if "/resolve/" in path)
    with pytest.raises(StudyError, match=rf"{NAME}: no files of SAEs in layers\.9"):
        load_study(changed(world, {"saes": [{"path": f"{NAME}/layers.9"}]}, "none.yaml"), get=True)
    with pytest.raises(StudyError, match=r"maker/unknown: not to be had from the hub \(.*404.*\)"):
        load_study(changed(world, {"saes": [{"path": "maker/unknown"}]}, "none.yaml"), get=True)


def test_one_source_that_cannot_be_fetched_stops_its_own_layers_only(world: Path, online: FakeHub) -> None:
    saes = [{"path": NAME, "hookpoints": ["layers.0"]}, {"path": "maker/unknown", "hookpoints": ["layers.1"]}]
    study = load_study(changed(world, {"saes": saes}, "both.yaml"), get=True)
    assert isinstance(study.layer("layers.1").location, MissingSae)
    assert "hf download maker/unknown" in study.layer("layers.1").location.problem
    assert weights(study)["hub"] == f"{NAME}/layers.0"


def test_a_branch_that_moves_is_noticed_and_taken_up_when_it_is_fetched(world: Path, online: FakeHub) -> None:
    study = load_study(world, get=True)
    before, first = weights(study), online.branches[NAME]["main"]
    memory = world.parent / "store" / "hub.json"
    assert list(moved(study, memory)) == []
    save_file(
        {name: 2 * tensor for name, tensor in load_file(world.parent / "pushed/layers.0/sae.safetensors").items()},
        world.parent / "pushed/layers.0/sae.safetensors",
    )
    second = online.push(NAME, world.parent / "pushed")
    assert list(moved(study, memory)) == []  # it was asked a moment ago
    memory.unlink()
    online.asked.clear()
    for _ in range(2):  # what the hub said holds for a while, and is said again
        (note,) = moved(study, memory)
        assert note.startswith(f"saes[0].path: {NAME} has moved on the hub, {first[:8]} -> {second[:8]}; ")
        assert note.endswith(f"hf download {NAME}")
    assert len(online.asked) == 1
    assert weights(load_study(world)) == before  # what was resolved stays
    hub.fetch(NAME, None, ["*"])
    after = weights(load_study(world))
    assert after["commit"] == second
    assert after["content"] != before["content"]
    assert list(moved(load_study(world), memory)) == []


def test_a_hub_that_does_not_answer_is_waited_for_once(
    world: Path, online: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.push("maker/model", world.parent / "model")
    study = load_study(changed(world, {"subject_model.path": "maker/model"}, "named.yaml"), get=True)
    get_models(study)
    asked: list[str] = []
    monkeypatch.setattr("interp_assets.from_hub.newest", lambda name, revision: asked.append(name))
    memory = world.parent / "store" / "hub.json"
    assert list(moved(study, memory)) == []
    assert asked == [NAME]
    assert list(moved(study, memory)) == []
    assert asked == [NAME, "maker/model"]  # the first is not asked again so soon
    assert list(moved(study, memory)) == []
    assert len(asked) == 2


def test_what_is_fixed_to_a_commit_does_not_move(world: Path, online: FakeHub) -> None:
    first = online.branches[NAME]["main"]
    file = changed(world, {"saes.0.revision": first}, "fixed.yaml")
    study = load_study(file, get=True)
    (world.parent / "pushed" / "README.md").write_text("more about")
    online.push(NAME, world.parent / "pushed")
    online.asked.clear()
    assert list(moved(study, world.parent / "store" / "hub.json")) == []
    assert online.asked == []
    assert weights(study)["commit"] == first


def test_the_commit_of_a_model_is_part_of_what_it_decides(world: Path, online: FakeHub) -> None:
    online.push("maker/model", world.parent / "model")
    load_study(world, get=True)
    study = load_study(changed(world, {"subject_model.path": "maker/model"}, "named.yaml"))
    asset = Freshness(study).assets["corpus"]
    unresolved = Freshness(study).fingerprint(asset, None).parts["settings"]["tokenizer"]
    assert unresolved == {"revision": None, "hub": "maker/model"}
    get_models(study)
    commit = online.branches["maker/model"]["main"]
    settings = Freshness(study).fingerprint(Freshness(study).assets["corpus"], None).parts["settings"]
    assert settings["tokenizer"] == unresolved | {"commit": commit}
    assert study.model_at("maker/model") == ("maker/model", commit)
    here = hub.cached("maker/model")
    assert here is not None and (here.folder / "model.safetensors").is_file()
    made = make_partition(study, "corpus", None, LoadedModels()).partition
    # The same tokens as from the folder that was pushed.
    local = load_study(changed(world, {}, "local.yaml"))
    assert made.content_hash == make_partition(local, "corpus", None, LoadedModels()).partition.content_hash
    # A model that moves makes nothing stale by itself; the fetched one does.
    config = world.parent / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 9}))
    moved_to = online.push("maker/model", world.parent / "model")
    assert study.model_at("maker/model") == ("maker/model", commit)
    hub.fetch("maker/model", None, ["*"])
    assert study.model_at("maker/model") == ("maker/model", moved_to)
    assert Freshness(study).own_state(Freshness(study).assets["corpus"], None)[0] == "stale"


@pytest.mark.parametrize("name", ["owner/..", "../owner/name", "owner/name/../../x", "owner", "/owner/name", "o/n/./x"])
def test_names_that_lead_elsewhere_are_no_hub_names(name: str) -> None:
    assert hub.repository_of(name) is None


def test_of_a_repository_only_files_of_saes_are_fetched() -> None:
    files = dict.fromkeys(
        ["README.md", "x.bin", "a/cfg.json", "a/sae_weights.safetensors", "a/sparsity.safetensors"], 1
    )
    assert list(sae_files(files, "")) == list(files)[2:]
    assert not sae_files(files, "b")


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    """Where `owner/name` is a folder here, what is named below it is meant to be here too."""
    (tmp_path / "own" / "saes" / "layers.8").mkdir(parents=True)
    with pytest.raises(UnknownSae, match=r"own/saes/layers.9: no such folder; in .*own/saes there are: layers.8"):
        meant_by("own/saes/layers.9", tmp_path / "own/saes/layers.9")
    (tmp_path / "own" / "file").touch()
    with pytest.raises(UnknownSae, match="own/file: no such folder"):
        meant_by("own/file", tmp_path / "own/file")
    assert meant_by("own/other/layers.9", tmp_path / "own/other/layers.9") == hub.Repository("own/other", "layers.9")


@pytest.mark.parametrize("revision", ["../../secret", "/etc/passwd", "nothing"])
def test_revisions_lead_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
    reach(monkeypatch, None, tmp_path)
    (tmp_path / "models--owner--name" / "refs").mkdir(parents=True)
    (tmp_path / "secret").write_text("0" * 40)
    (tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)).mkdir(parents=True)
    assert hub.cached("owner/name", revision) is None
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("0" * 40)
    assert hub.cached("owner/name") is not None


def test_what_hooks_are_called_is_understood_by_the_settings_of_a_model_on_the_hub(
    world: Path, online: FakeHub, tmp_path: Path
) -> None:
    """Of a GPT-2 the settings are fetched first, since names of hooks mean other modules in it."""
    make_family("gpt2", tmp_path / "gpt2")
    online.push("maker/gpt2", tmp_path / "gpt2")
    folder = make_sae(world.parent / "lens", "blocks.1.hook_resid_pre") / "blocks.1.hook_resid_pre"
    settings = {"d_in": HIDDEN, "d_sae": 50, "architecture": "standard", "hook_name": "blocks.1.hook_resid_pre"}
    (folder / "cfg.json").write_text(json.dumps(settings))
    (folder / "sae.safetensors").rename(folder / "sae_weights.safetensors")
    changes = {"saes": [{"path": "lens"}], "subject_model.path": "maker/gpt2"}
    file = changed(world, changes, "gpt2.yaml")
    assert [layer.key for layer in load_study(file).layers] == ["layers.1:in"]
    assert [layer.key for layer in load_study(file, get=True).layers] == ["h.1:in"]
    assert [layer.key for layer in load_study(file).layers] == ["h.1:in"]
    assert [path for path in online.asked if "maker/gpt2/resolve" in path][-1].endswith("/config.json")


def test_of_a_set_with_a_file_for_each_layer_only_those_of_the_study_are_fetched(
    world: Path, online: FakeHub, tmp_path: Path
) -> None:
    """A set for a large model has tens of gigabytes; another layer is fetched when it is asked for."""
    folder = tmp_path / "set"
    folder.mkdir()
    settings = {"model_name": "tiny", "model_kind": "transcoder_set"}
    settings |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    (folder / "config.yaml").write_text(json.dumps(settings))  # which is YAML too
    for layer in range(12):
        tensors = {"W_enc": torch.ones(50, HIDDEN), "W_dec": torch.ones(50, HIDDEN)}
        tensors |= {"b_enc": torch.zeros(50), "b_dec": torch.zeros(HIDDEN)}
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "layer_0_features.safetensors")
    online.push("maker/transcoders", folder)

    def study(hookpoint: str) -> Study:
        saes = [{"path": "maker/transcoders", "hookpoints": [hookpoint]}]
        return load_study(changed(world, {"saes": saes}, "set.yaml"), get=True)

    assert [(layer.key, layer.writes) for layer in study("layers.1.mlp:in").layers] == [
        ("layers.1.mlp:in", "layers.1.mlp")
    ]
    fetched = {path.split("/")[-1] for path in online.asked if "/resolve/" in path}
    assert fetched == {"config.yaml", "layer_1.safetensors"}
    online.asked.clear()
    assert study("blocks.0.mlp.hook_in").layers[0].key == "layers.0.mlp:in"
    assert {path.split("/")[-1] for path in online.asked if "/resolve/" in path} >= {"layer_0.safetensors"}
    assert not any("layer_1" in path for path in online.asked)
    online.asked.clear()
    with pytest.raises(
        StudyError, match=r"no SAE for layers\.77\.mlp:in; there are: layers\.0\.mlp:in, layers\.1\.mlp:in, "
    ):
        study("layers.77.mlp:in")
    assert not any(path.endswith("safetensors") for path in online.asked)


def test_gemma_scope_is_read_from_the_hubs_cache_and_only_the_layers_of_the_study_are_fetched(
    world: Path, online: FakeHub, tmp_path: Path
) -> None:
    """Its files say by their folders' names alone what they are; in the cache they are links to names that say nothing."""
    release = "maker/gemma-scope-2b-pt-res"
    for layer in (0, 1):
        folder = tmp_path / "pushed" / f"layer_{layer}" / "width_16k" / "average_l0_7"
        folder.mkdir(parents=True)
        shapes = {"W_enc": (HIDDEN, 16), "b_enc": 16, "W_dec": (16, HIDDEN), "b_dec": HIDDEN, "threshold": 16}
        np.savez(folder / "params.npz", **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    online.push(release, tmp_path / "pushed")

    def study(*hookpoints: str) -> Study:
        saes = [{"path": release, **({"hookpoints": list(hookpoints)} if hookpoints else {})}]
        return load_study(changed(world, {"saes": saes}, "scope.yaml"), get=True)

    (layer,) = study("layers.1").layers
    assert layer.location.files()[0].is_symlink()
    assert (layer.key, layer.location.published_l0()) == ("layers.1", 7)
    assert {path for path in online.asked if path.endswith("npz")} == {
        f"/{release}/resolve/{online.branches[release]['main']}/layer_1/width_16k/average_l0_7/params.npz"
    }
    # A part of it is here now: what another study wants beside it is fetched, and all where it wants all.
    assert [layer.key for layer in study("blocks.0.hook_resid_post").layers] == ["layers.0"]
    online.asked.clear()
    assert [layer.key for layer in study().layers] == ["layers.0", "layers.1"]
    assert [layer.key for layer in study().layers] == ["layers.0", "layers.1"]
    assert not any(path.endswith("npz") for path in online.asked)
    online.asked.clear()
    assert [layer.key for layer in study("layers.0", "layers.1").layers] == ["layers.0", "layers.1"]
    assert online.asked == []


def test_of_what_is_partly_here_the_rest_is_fetched_where_all_is_wanted(world: Path, online: FakeHub) -> None:
    assert load_study(world, get=True).layers[0].key == "embed_tokens"  # of which layers.1 was not fetched
    file = changed(world, {"saes": [{"path": NAME}]}, "all.yaml")
    assert [layer.key for layer in load_study(file, get=True).layers] == ["embed_tokens", "layers.0", "layers.1"]


def test_without_the_hub_what_is_here_is_used(
    world: Path, online: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_study(world, get=True)
    reach(monkeypatch, None, tmp_path / "cache")
    saes = [{"path": NAME, "hookpoints": ["layers.0", "layers.1"]}]
    layers = load_study(changed(world, {"saes": saes}, "more.yaml"), get=True).layers
    assert isinstance(layers[1].location, MissingSae) and not isinstance(layers[0].location, MissingSae)
    assert f"{NAME}: the SAE of layers.1 was not fetched yet; interp run fetches it" in layers[1].location.problem


def fetched_weights(online: FakeHub) -> set[str]:
    return {path.split("/", 5)[5] for path in online.asked if path.endswith(("npz", "safetensors"))}


def test_an_interrupted_fetch_is_noticed(world: Path, online: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing of it is told, and fetched by the next run."""
    file = changed(world, {"saes": [{"path": NAME}]}, "all.yaml")
    whole = saes_from_hub.fetch

    def cut_short(name: str, revision: str | None, files: list[str], folder: Path | None = None) -> hub.Snapshot:
        if folder is not None:
            return whole(name, revision, files, folder)
        whole(name, revision, [each for each in files if "layers.1" not in each])
        raise KeyboardInterrupt

    with monkeypatch.context() as here:
        here.setattr(saes_from_hub, "fetch", cut_short)
        with pytest.raises(KeyboardInterrupt):
            load_study(file, get=True)
    layers = {layer.key: layer.location for layer in load_study(file).layers}
    assert list(layers) == ["embed_tokens", "layers.0", "layers.1"]
    assert isinstance(layers["layers.1"], MissingSae) and "interp run fetches it" in layers["layers.1"].problem
    assert not isinstance(load_study(file, get=True).layer("layers.1").location, MissingSae)


def test_what_is_fetched_later_is_of_the_same_commit(world: Path, online: FakeHub) -> None:
    """The branch moves on meanwhile; whoever wants what it has now fetches that on purpose."""
    first = weights(load_study(world, get=True))
    (world.parent / "pushed" / "README.md").write_text("more about")
    online.push(NAME, world.parent / "pushed")
    file = changed(world, {"saes": [{"path": NAME, "hookpoints": ["layers.0", "layers.1"]}]}, "more.yaml")
    study = load_study(file, get=True)
    assert weights(study, "layers.1")["commit"] == weights(study)["commit"] == first["commit"]
    assert weights(load_study(world)) == first


def test_several_saes_of_one_hookpoint_are_told_before_they_are_fetched(
    world: Path, online: FakeHub, tmp_path: Path
) -> None:
    """And it is told whatever part of them is here."""
    for name in ("a", "b"):
        make_sae(tmp_path / "pushed" / name, "layers.0")
    make_sae(tmp_path / "pushed" / "b", "layers.1")
    online.push("maker/two", tmp_path / "pushed")
    one = changed(world, {"saes": [{"path": "maker/two/a"}]}, "one.yaml")
    assert [layer.key for layer in load_study(one, get=True).layers] == ["layers.0"]
    online.asked.clear()
    for saes in ({"path": "maker/two", "hookpoints": ["layers.0"]}, {"path": "maker/two"}):
        with pytest.raises(
            StudyError, match=r"2 SAEs read layers\.0: a/layers\.0, b/layers\.0; point saes\.path at one"
        ):
            load_study(changed(world, {"saes": [saes]}, "two.yaml"), get=True)
    assert not fetched_weights(online)


def test_what_cannot_be_read_is_left_out_and_not_fetched(
    world: Path, online: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("resid_post", "clt"):
        folder = tmp_path / "pushed" / kind / "layer_0_width_16"
        folder.mkdir(parents=True)
        said = {"architecture": "jump_relu", "type": "sae" if kind == "resid_post" else kind}
        said |= {"hf_hook_point_in": "model.layers.0.output", "hf_hook_point_out": "model.layers.0.output"}
        (folder / "config.json").write_text(json.dumps(said))
        shapes = {"w_enc": (HIDDEN, 16), "b_enc": 16, "w_dec": (16, HIDDEN), "b_dec": HIDDEN, "threshold": 16}
        save_file({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "params.safetensors")
        (folder / "examples.safetensors").write_bytes(b"large")
    online.push("maker/scope-2", tmp_path / "pushed")
    study = load_study(changed(world, {"saes": [{"path": "maker/scope-2"}]}, "scope.yaml"), get=True)
    assert [layer.key for layer in study.layers] == ["layers.0"]
    assert fetched_weights(online) == {"resid_post/layer_0_width_16/params.safetensors"}
    assert "left out" in (said_of := capsys.readouterr().err) and "type 'clt' is not supported" in said_of


def test_of_a_model_only_its_own_files_are_fetched() -> None:
    own = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "1_Pooling/config.json"]
    others = [
        "consolidated.safetensors",
        "original/model.safetensors",
        "onnx/config.json",
        "pytorch_model.bin",
        "README.md",
    ]
    assert list(model_files(dict.fromkeys([*own, *others], 1))) == own
    assert "pytorch_model.bin" in model_files({"config.json": 1, "pytorch_model.bin": 1})
