"""What the SAE readers refuse, and in which words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from resources.errors import UnusableInput
from resources.sparse_autoencoders.formats import FORMATS
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.read import read_sae
from tests.golden_cases import GOLDEN, differences, golden
from tests.test_sae_readers import EXACT

Damage = Callable[[Path], None]


def weights_of(folder: Path) -> Path:
    (name,) = {module.WEIGHTS for module in FORMATS.values() if (folder / module.WEIGHTS).is_file()}
    return folder / name


def settings(drop: str | None = None, **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "cfg.json").read_text()) | changes
        config.pop(drop, None)
        (folder / "cfg.json").write_text(json.dumps(config))

    return damage


def config_text(text: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "cfg.json").write_text(text)

    return damage


def tensor(name: str, change: Callable[[Tensor], Tensor | None], **more: Tensor) -> Damage:
    """Rewrites one tensor, or leaves it out where the change gives None; and adds others."""

    def damage(folder: Path) -> None:
        tensors = load_file(weights_of(folder))
        changed = {**tensors, name: change(tensors[name]), **more}
        save_file({key: value for key, value in changed.items() if value is not None}, weights_of(folder))

    return damage


def cut(share: float) -> Damage:
    def damage(folder: Path) -> None:
        whole = weights_of(folder).read_bytes()
        weights_of(folder).write_bytes(whole[: int(len(whole) * share)])

    return damage


def one_value(value: float) -> Callable[[Tensor], Tensor]:
    def change(old: Tensor) -> Tensor:
        new = old.clone()
        new.view(-1)[5] = value
        return new

    return change


def left_out(old: Tensor) -> None:
    return None


def without_last(old: Tensor) -> Tensor:
    return old[:-1].clone()


def no_weights(folder: Path) -> None:
    weights_of(folder).unlink()


def no_config(folder: Path) -> None:
    (folder / "cfg.json").unlink()


SAELENS, SPARSIFY = "{folder}/sae_weights.safetensors", "{folder}/sae.safetensors"
REFUSED: list[tuple[str, Damage, tuple[str, ...]]] = [
    # What the settings ask for and we cannot do.
    *(
        ("saelens_standard", settings(architecture=name), ("{folder}/cfg.json", f"architecture '{name}'", supported))
        for name in ("temporal", "matching_pursuit", "abstopk", "crosscoder")
        for supported in ["supported: standard, gated, jumprelu, topk, transcoder, skip_transcoder"]
    ),
    *(
        ("saelens_standard", settings(**{key: value}), ("{folder}/cfg.json", f"{key} {value!r}", f"supported: {told}"))
        for key, value, told in (
            ("normalize_activations", "covariance_whitening", "none, expected_average_only_in, constant_norm_rescale"),
            ("reshape_activations", "by_head", "none, hook_z"),
            ("hook_head_index", 3, "None"),
        )
    ),
    (
        "saelens_5_standard",
        settings(activation_fn_str="tanh-relu"),
        ("{folder}/cfg.json", "activation_fn 'tanh-relu'", "supported: relu"),
    ),
    (
        "saelens_standard",
        settings(normalize_activations="expected_average_only_in"),
        ("{folder}/cfg.json", "'expected_average_only_in' needs the factor", 'add "norm_scaling_factor"'),
    ),
    (
        "saelens_transcoder",
        settings(apply_b_dec_to_input=True),
        ("{folder}/cfg.json", "apply_b_dec_to_input True", "with transcoder; supported: False"),
    ),
    ("sparsify_topk", settings(activation="tanh"), ("{folder}/cfg.json", "activation 'tanh'", "topk, groupmax")),
    ("sparsify_topk", settings(transcode="some"), ("{folder}/cfg.json", "transcode 'some'", "supported: False, True")),
    ("sparsify_topk", settings(tied=True), ("{folder}/cfg.json", "tied True", "supported: activation, d_in")),
    ("sparsify_groupmax", settings(k=7), ("{folder}", "64 latents cannot be split into k = 7 groups")),
    # A tensor that nothing reads does something in the maker's class.
    (
        "sparsify_skip",
        settings(skip_connection=False),
        (SPARSIFY, "tensor W_skip is not supported", "supported are: W_dec"),
    ),
    ("saelens_gated", settings(architecture="standard"), (SAELENS, "tensor b_enc is missing", "there are: W_dec")),
    ("saelens_jumprelu", settings(architecture="standard"), (SAELENS, "tensor threshold is not supported")),
    (
        "saelens_standard",
        tensor("b_enc", lambda old: old, scaling_factor=torch.full((64,), 1.5)),
        (SAELENS, "tensor scaling_factor is not supported"),
    ),
    *(
        # SAELens would pass over them and do the opposite.
        (case, settings(**{wrong: value}), ("{folder}/cfg.json", f"{wrong} is no setting of SAEs; {right} is"))
        for case, wrong, value, right in (
            ("saelens_standard", "apply_bdec_to_input", False, "apply_b_dec_to_input"),
            ("saelens_topk", "rescale_acts_by_dec_norm", True, "rescale_acts_by_decoder_norm"),
            ("saelens_5_standard", "normalise_activations", "layer_norm", "normalize_activations"),
        )
    ),
    (
        "saelens_constant_norm",
        settings(model_from_pretrained_kwargs={"center_writing_weights": True}),
        ("{folder}/cfg.json", "'constant_norm_rescale' is not supported with center_writing_weights"),
    ),
    # Early releases took the k largest of either sign.
    ("sparsify_topk", settings(signed=True), ("{folder}/cfg.json", "signed True", "supported: False")),
    # Files damaged on the way.
    ("sparsify_topk", cut(0.0), (SPARSIFY, "damaged or cut short")),
    ("sparsify_topk", cut(0.01), (SPARSIFY, "damaged or cut short")),
    ("sparsify_topk", cut(0.5), (SPARSIFY, "damaged or cut short")),
    ("saelens_jumprelu", cut(0.999), (SAELENS, "damaged or cut short")),
    (
        "saelens_standard",
        tensor("W_enc", one_value(torch.nan)),
        ("{folder}: W_enc", "1 values that are NaN", "of 1,024"),
    ),
    ("saelens_jumprelu", tensor("threshold", one_value(torch.nan)), ("{folder}: threshold", "NaN", "of 64")),
    ("saelens_topk_rescaled", tensor("b_dec", one_value(torch.inf)), ("{folder}: b_dec", "infinite", "of 16")),
    ("sparsify_bf16", tensor("encoder.bias", one_value(-torch.inf)), ("{folder}: b_enc", "infinite", "of 64")),
    ("sparsify_topk", tensor("W_dec", one_value(torch.nan)), ("{folder}: W_dec", "NaN", "of 1,024")),
    # Tensors that are not there or do not fit.
    (
        "sparsify_topk",
        tensor("b_dec", left_out),
        (SPARSIFY, "tensor b_dec is missing", "there are: W_dec, encoder.bias, encoder.weight"),
    ),
    (
        "saelens_jumprelu",
        tensor("threshold", left_out),
        (SAELENS, "tensor threshold is missing", "there are: W_dec, W_enc, b_dec, b_enc"),
    ),
    ("sparsify_topk", settings(num_latents=32), (SPARSIFY, "encoder.weight", "(64, 16)", "cfg.json says (32, 16)")),
    ("sparsify_topk", settings(d_in=8), (SPARSIFY, "encoder.weight", "(64, 16)", "cfg.json says (64, 8)")),
    (
        "sparsify_expansion_factor",
        settings(expansion_factor=8),
        (SPARSIFY, "encoder.weight", "(64, 16)", "cfg.json says (128, 16)"),
    ),
    ("sparsify_topk", tensor("W_dec", without_last), (SPARSIFY, "W_dec", "(63, 16)", "cfg.json says (64, 16)")),
    ("sparsify_topk", tensor("encoder.bias", without_last), ("{folder}: b_enc", "(63,)", "expected (64,)")),
    ("saelens_standard", settings(d_sae=32), (SAELENS, "W_enc", "(16, 64)", "cfg.json says (16, 32)")),
    ("saelens_topk_rescaled", settings(d_in=8), (SAELENS, "W_enc", "(16, 64)", "cfg.json says (8, 64)")),
    ("saelens_standard", tensor("W_enc", without_last), (SAELENS, "W_enc", "(15, 64)", "cfg.json says (16, 64)")),
    ("saelens_topk", tensor("W_dec", without_last), (SAELENS, "W_dec", "(63, 16)", "cfg.json says (64, 16)")),
    ("saelens_jumprelu", tensor("threshold", without_last), ("{folder}: threshold", "(63,)", "expected (64,)")),
    *(
        (case, settings(k=k), ("{folder}", f"k is {k}", "1 to the number of latents, 64"))
        for case in ("sparsify_topk", "saelens_topk")
        for k in (0, -1, 65)
    ),
    ("saelens_topk", settings(drop="k"), ("{folder}/cfg.json", "k is missing")),
    # No SAE of a format we know.
    ("sparsify_topk", settings(drop="k"), ("{folder}/cfg.json", "these keys", "supported: sparsify, saelens")),
    ("saelens_standard", settings(drop="d_sae"), ("{folder}/cfg.json", "these keys", "supported: sparsify, saelens")),
    ("saelens_standard", config_text('{"hidden": 3}'), ("{folder}/cfg.json", "these keys", "sparsify, saelens")),
    ("saelens_standard", config_text('{"d_in": 16,'), ("{folder}/cfg.json", "not valid JSON")),
    ("saelens_standard", config_text("[16, 64]"), ("{folder}/cfg.json", "not a JSON object")),
    ("sparsify_topk", no_weights, ("{folder}", "format sparsify", "sae.safetensors is missing")),
    ("saelens_topk", no_weights, ("{folder}", "format saelens", "sae_weights.safetensors is missing")),
    (
        "saelens_topk",
        no_config,
        ("{folder}", "cfg.json is missing beside sae_weights.safetensors, the settings of SAELens"),
    ),
]


OTHERS: list[tuple[str, str, dict[str, Any], str]] = [
    ("llama_scope_res", "hyperparams.json", {"act_fn": "glu"}, "act_fn 'glu' is not supported; supported: jumprelu, topk, relu"),
    ("llama_scope_res", "hyperparams.json", {"use_glu_encoder": True}, "use_glu_encoder True is not supported"),
    ("llama_scope_res", "hyperparams.json", {"norm_activation": "token-wise"}, "supported: dataset-wise, inference"),
    ("llama_scope_res", "hyperparams.json", {"dataset_average_activation_norm": {}}, "hyperparams.json: in is missing"),
    ("llama_scope_res", "hyperparams.json", {"dataset_average_activation_norm": {"in": 0, "out": 1}}, "in is 0.0, not an average norm"),
    ("llamascopium_topk", "config.json", {"sae_type": "crosscoder"}, "sae_type 'crosscoder' is not supported; supported: sae"),
    ("llamascopium_topk", "config.json", {"act_fn": "batchtopk"}, "act_fn 'batchtopk' is not supported; supported: jumprelu, topk, relu"),
    ("llamascopium_topk", "config.json", {"norm_activation": "token-wise"}, "supported: dataset-wise, inference"),
    ("llamascopium_topk", "config.json", {"use_glu_encoder": True}, "use_glu_encoder True is not supported"),
    ("llamascopium_topk", "config.json", {"attention": 4}, "attention 4 is not supported, Llamascopium has written no such setting"),
    ("llamascopium_topk", "config.json", {"hook_point_in": "blocks.9.hook_resid_post"}, "blocks.9.hook_resid_post is missing; there are"),
    ("gemma_scope_2_res", "config.json", {"architecture": "topk"}, "architecture 'topk' is not supported; supported: jump_relu"),
    ("gemma_scope_2_affine", "config.json", {"affine_connection": False}, "affine_connection is False, but the weights say True"),
    (
        "dictionary_learning_topk",
        "config.json",
        {"trainer": {"dict_class": "IdentityDict", "activation_dim": 16, "dict_size": 16}},
        "dict_class 'IdentityDict' is not supported; supported: AutoEncoder, AutoEncoderNew, AutoEncoderTopK",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("case", "file", "changes", "said"), OTHERS)
def test_other_settings_that_are_not_understood(
    case: str, file: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN / case, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(settings | changes))
    with pytest.raises(UnusableInput) as refused:
        read_whatever_is_there(tmp_path)
    assert said in str(refused.value)


def test_crosscoders_are_refused_by_name(tmp_path: Path) -> None:
    """One that writes to several layers at once has a decoder of three dimensions."""
    shutil.copytree(GOLDEN / "gemma_scope_2_transcoder", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "params.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"w_dec": tensors["w_dec"][:, None].expand(-1, 3, -1).contiguous()}, file)
    with pytest.raises(
        UnusableInput, match=r"w_dec has shape \(64, 3, 16\): crosscoders and cross-layer transcoders are not"
    ):
        read_whatever_is_there(tmp_path)


def read_whatever_is_there(folder: Path) -> None:
    for location in locate(folder):
        location.published_l0()
        read_sae(location)


@pytest.mark.parametrize(
    ("case", "damage", "words"), REFUSED, ids=[f"{case}: {words[1]}" for case, _, words in REFUSED]
)
def test_refused(case: str, damage: Damage, words: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing is read wrongly in silence: one line names the file, the key and what is supported."""
    folder = tmp_path / "layers.3"
    shutil.copytree(GOLDEN / case, folder)
    damage(folder)
    with pytest.raises(UnusableInput) as refused:
        read_whatever_is_there(folder)
    message = str(refused.value)
    for word in words:
        assert word.format(folder=folder) in message
    assert "\n" not in message


def test_format_that_was_asked_for_must_fit(tmp_path: Path) -> None:
    """A format named by the study is not forced on settings of another."""
    shutil.copytree(GOLDEN / "sparsify_topk", tmp_path, dirs_exist_ok=True)
    (tmp_path / "sae.safetensors").rename(tmp_path / "sae_weights.safetensors")
    with pytest.raises(UnusableInput, match=r"cfg\.json: format saelens does not have these keys; supported: sparsify"):
        locate(tmp_path, "saelens")


@pytest.mark.parametrize(
    ("case", "key"),
    [("sparsify_topk", "activation"), ("sparsify_topk", "transcode"), ("saelens_topk", "reshape_activations")],
)
def test_setting_that_is_not_there(case: str, key: str, tmp_path: Path) -> None:
    """Files of other releases lack some settings; their makers' defaults hold. So a refusal is of the value alone."""
    shutil.copytree(GOLDEN / case, tmp_path, dirs_exist_ok=True)
    settings(drop=key)(tmp_path)
    (location,) = locate(tmp_path)
    assert max(differences(read_sae(location), golden(case))) <= EXACT
