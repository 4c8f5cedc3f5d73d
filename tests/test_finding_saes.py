"""Which folders hold SAEs, what their names say, and what is said where something is missing or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from interp_assets.cli import main
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.sparse_autoencoders import locate as finding
from resources.sparse_autoencoders.locate import locate, looks_like_module
from resources.sparse_autoencoders.location import describe
from resources.sparse_autoencoders.read import read_sae
from tests.changed_study import changed
from tests.golden_cases import GOLDEN

TOPK, SET, QWEN = GOLDEN / "sparsify_topk", GOLDEN / "circuit_tracer_relu", GOLDEN / "qwen_scope_topk"


def look(folder: Path) -> None:
    for place in locate(folder):
        describe(place)


def refused(folder: Path) -> str:
    with pytest.raises(UnusableInput) as error:
        look(folder)
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["layers.10", "h.3.mlp", "embed_tokens", "transformer.h.0", "language_model.layers.3", "wte"]
)
def test_names_of_modules(name: str) -> None:
    assert looks_like_module(name)


@pytest.mark.parametrize("name", ["my-sae", "v1.5", "run_k32", "layers", "k32", "layers.x", "1.layers", "sae.2-b"])
def test_other_names(name: str) -> None:
    assert not looks_like_module(name)


@pytest.mark.parametrize(
    ("folder", "reads"),
    [
        ("layers.8", "layers.8"),
        ("layers.8/k32", "layers.8"),
        ("v1.5", None),
        ("run/layers.3.mlp/trained", "layers.3.mlp"),
    ],
)
def test_the_nearest_folder_that_is_named_like_a_module_says_what_is_read(
    folder: str, reads: str | None, tmp_path: Path
) -> None:
    shutil.copytree(TOPK, tmp_path / folder)
    (place,) = locate(tmp_path)
    assert place.hookpoint == reads


def test_folders_behind_links_are_found_and_hidden_ones_are_not(tmp_path: Path) -> None:
    shutil.copytree(TOPK, tmp_path / "elsewhere" / "layers.1")
    shutil.copytree(TOPK, tmp_path / "saes" / ".git" / "inside" / "layers.2")
    (tmp_path / "saes" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "saes" / "linked" / "round").symlink_to(tmp_path / "saes")  # no way without an end
    assert [place.hookpoint for place in locate(tmp_path / "saes")] == ["layers.1"]


def test_a_folder_that_may_not_be_read_is_a_problem_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("layers.1", "layers.2"):
        shutil.copytree(TOPK, tmp_path / name)
    monkeypatch.setattr(finding, "readable", lambda folder: folder.name != "layers.1")
    problems: dict[Path, str] = {}
    assert [place.hookpoint for place in locate(tmp_path, problems=problems)] == ["layers.2"]
    assert problems == {tmp_path / "layers.1": f"{tmp_path / 'layers.1'}: cannot be read (Permission denied)"}


@pytest.mark.parametrize(("golden", "missing"), [(SET, "config.yaml"), (QWEN, "config.json")])
def test_numbered_weights_without_settings(golden: Path, missing: str, tmp_path: Path) -> None:
    shutil.copytree(golden, tmp_path / "set")
    (tmp_path / "set" / missing).unlink()
    assert refused(tmp_path).startswith(f"{tmp_path / 'set'}: {missing} is missing beside layer")


def test_numbers_are_numbers(tmp_path: Path) -> None:
    shutil.copytree(SET, tmp_path, dirs_exist_ok=True)
    for number in ("10", "004"):
        shutil.copyfile(tmp_path / "layer_3.safetensors", tmp_path / f"layer_{number}.safetensors")
    assert [place.writes for place in locate(tmp_path)] == ["layers.3.mlp", "layers.4.mlp", "layers.10.mlp"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("transcoders: {a: hf://x}", "the transcoders lie elsewhere; name"),
        ("transcoders: hf://x/y", "the transcoders lie elsewhere; name"),
        ("transcoders: [hf://x/y]", "lie elsewhere, as in hf://x/y; name"),
        ("activation: topk", "activation 'topk' is not supported; supported: None, relu"),
        ("k: 8", "k 8 is not supported"),
    ],
)
def test_settings_of_a_set_that_mean_something_else(text: str, said: str, tmp_path: Path) -> None:
    shutil.copytree(SET, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "config.yaml").open("a") as opened:
        opened.write(f"{text}\n")
    assert said in refused(tmp_path)


def settings_of(name: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    return change


@pytest.mark.parametrize(
    ("case", "change", "said"),
    [
        (
            "saelens_standard",
            settings_of("cfg.json", architecture="temporal"),
            "architecture 'temporal' is not supported",
        ),
        (
            "sparsify_topk",
            settings_of("cfg.json", d_in=17),
            "the settings say 64 latents of 17 dimensions, but no tensor",
        ),
        ("sparsify_topk", settings_of("cfg.json", d_in=-3), "its settings say -3 dimensions"),
        ("sparsify_topk", settings_of("cfg.json", k=800), "k is 800"),
        ("sparsify_topk", settings_of("cfg.json", multi_topc=True), "multi_topc True is not supported"),
        ("gemma_scope_2_res", settings_of("config.json", subtract_b_dec=True), "subtract_b_dec True is not supported"),
        (
            "qwen_scope_topk",
            settings_of("config.json", model_type="batchtopk"),
            "model_type 'batchtopk' is not supported",
        ),
        ("qwen_scope_topk", cut("layer3.sae.pt"), "layer3.sae.pt: damaged or cut short"),
        ("sparsify_topk", cut("sae.safetensors"), "sae.safetensors: damaged or cut short (of "),
    ],
)
def test_what_settings_and_headers_say_wrongly_is_seen_before_weights_are_read(
    case: str, change: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN / case, tmp_path / "layers.3")
    change(tmp_path / "layers.3")
    assert said in refused(tmp_path)


def test_keys_that_saelens_writes_are_no_misspellings(tmp_path: Path) -> None:
    """Control: a file of an early release, with the settings of its training, is read as it is."""
    shutil.copytree(GOLDEN / "saelens_5_standard", tmp_path / "sae")
    training = """hook_point_layer is_dataset_tokenized use_cached_activations cached_activations_path n_batches_in_buffer
        total_training_tokens store_batch_size seed b_dec_init_method expansion_factor from_pretrained_path l1_coefficient lr
        lr_scheduler_name lr_warm_up_steps train_batch_size use_ghost_grads feature_sampling_window feature_sampling_method
        resample_batches feature_reinit_scale dead_feature_window dead_feature_estimation_method dead_feature_threshold
        log_to_wandb wandb_project wandb_entity wandb_log_frequency n_checkpoints checkpoint_path tokens_per_buffer run_name
        neuronpedia_id sae_lens_training_version dataset_trust_remote_code normalize_sae_decoder hook_eval hook_layer
        scale_sparsity_penalty_by_decoder_norm model_class_name hook_point_eval seqpos_slice decoder_heuristic_init
        apply_b_dec_to_input normalize_activations noise_scale mse_loss_normalization lp_norm prepend_bos"""
    settings_of("cfg.json", **dict.fromkeys(training.split()))(tmp_path / "sae")
    (place,) = locate(tmp_path)
    assert describe(place)["architecture"] == "standard"


@pytest.mark.parametrize(
    ("hook", "norm"), [("blocks.3.hook_resid_post", "centred"), ("blocks.3.hook_mlp_out", "centred"), ("blocks.3.attn.hook_z", "none")]
)  # fmt: skip
def test_only_what_lies_in_the_residual_stream_was_centred(hook: str, norm: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "saelens_5_standard", tmp_path / "sae")
    settings_of("cfg.json", hook_name=hook, model_from_pretrained_kwargs={"center_writing_weights": True})(
        tmp_path / "sae"
    )
    (place,) = locate(tmp_path)
    assert read_sae(place).input_norm == norm


def test_a_file_is_not_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = shutil.copytree(TOPK, tmp_path / "layers.3") / "sae.safetensors"
    for command in (["inspect", str(file)], ["init", str(file), "--output", str(tmp_path / "new.yaml")]):
        assert main(command) == 2
        assert capsys.readouterr().err == f"error: {file}: a file; name the folder that it lies in\n"


def test_a_damaged_file_of_a_set_is_told_and_stops_no_other_layer(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = shutil.copytree(tiny_file.parent, tmp_path / "world")
    shutil.copytree(GOLDEN / "circuit_tracer_relu", world / "set")
    whole = load_file(world / "set" / "layer_3.safetensors")
    for number in (0, 1):
        save_file(whole, world / "set" / f"layer_{number}.safetensors")
    cut("layer_1.safetensors")(world / "set")
    assert main(["inspect", str(world / "set")]) == 2
    shown = capsys.readouterr()
    assert "layers.0.mlp:in" in shown.out and "layer_1.safetensors: damaged or cut short" in shown.err
    file = changed(world / tiny_file.name, {"saes": [{"path": "set"}]}, "set.yaml")
    assert [layer.key for layer in load_study(file).layers] == [f"layers.{number}.mlp:in" for number in (0, 1, 3)]
    assert main(["plan", str(file)]) == 0
    assert main(["status", str(file)]) == 0
    output = tmp_path / "new.yaml"
    assert main(["init", str(world / "set"), "--output", str(output), "--model", "maker/model"]) == 0
    assert "left out" in capsys.readouterr().out
    assert [layer.key for layer in load_study(output).layers] == ["layers.0.mlp:in", "layers.3.mlp:in"]


def test_a_study_is_not_written_for_a_model_that_does_not_fit(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(TOPK, tmp_path / "saes" / "layers.3")
    output, model = tmp_path / "new.yaml", tiny_file.parent / "model"
    assert main(["init", str(tmp_path / "saes"), "--output", str(output), "--model", str(model)]) == 2
    assert "reads 16 dimensions at layers.3, where " in capsys.readouterr().err
    assert main(["init", str(tmp_path / "saes"), "--output", str(output), "--model", str(tmp_path)]) == 2
    assert f"--model: {tmp_path}: no causal language model" in capsys.readouterr().err
    assert not output.exists()


def test_a_transcoder_may_be_named_by_its_module(tiny_file: Path, tmp_path: Path) -> None:
    world = shutil.copytree(tiny_file.parent, tmp_path / "world")
    shutil.copytree(SET, world / "set")
    for named in ("layers.3.mlp", "layers.3.mlp:in", "blocks.3.mlp.hook_in"):
        file = changed(world / tiny_file.name, {"saes": [{"path": "set", "hookpoints": [named]}]}, "set.yaml")
        assert [(layer.key, layer.writes) for layer in load_study(file).layers] == [("layers.3.mlp:in", "layers.3.mlp")]
