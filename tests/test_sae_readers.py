"""The SAE readers against the makers' own classes, and what they refuse.

`tests/golden/make_golden.py` made the SAEs and what their makers' classes compute from them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from resources.errors import UnusableInput
from resources.sparse_autoencoders import autoencoder
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder, TopActivations
from resources.sparse_autoencoders.locate import FORMATS, locate
from resources.sparse_autoencoders.read import read_sae

GOLDEN = Path(__file__).parent / "golden"
TOPK = {
    "sparsify_topk": 8,
    "sparsify_expansion_factor": 24,
    "sparsify_bf16": 8,
    "saelens_topk": 8,
    "saelens_topk_rescaled": 8,
}
THRESHOLD = ("saelens_standard", "saelens_b_dec_not_subtracted", "saelens_jumprelu")
CASES = (*TOPK, *THRESHOLD)
SUBTRACTING = tuple(case for case in CASES if case != "saelens_b_dec_not_subtracted")
EXACT = 1e-5
NOTICED = 1e-2


class Golden(NamedTuple):
    sae: SparseAutoencoder
    "As our readers read it."
    x: Tensor
    encoding: Tensor
    reconstruction: Tensor


def golden(case: str) -> Golden:
    (location,) = locate(GOLDEN / case)
    return Golden(read_sae(location), **load_file(GOLDEN / case / "expected.safetensors"))


def dense(top: TopActivations, n_latents: int) -> Tensor:
    return torch.zeros(len(top.activations), n_latents).scatter_add(1, top.indices, top.activations)


def differences(sae: SparseAutoencoder, maker: Golden) -> tuple[float, float]:
    """The largest difference from the maker's encoding, and from its reconstruction."""
    top = sae.encode(maker.x)
    encoding = (dense(top, sae.n_latents) - maker.encoding).abs().max()
    reconstruction = (sae.decode(top) - maker.reconstruction).abs().max()
    return encoding.item(), reconstruction.item()


@pytest.mark.parametrize("case", CASES)
def test_format_is_recognised(case: str) -> None:
    """By the content alone; the hookpoint comes from the metadata where there is any."""
    (location,) = locate(GOLDEN / case)
    assert location.folder == GOLDEN / case
    assert location.format == case.split("_")[0]
    assert location.hookpoint == {"sparsify": None, "saelens": "layers.3"}[location.format]
    assert location.published_l0() == TOPK.get(case)


def test_hookpoints_are_folder_names(tmp_path: Path) -> None:
    """Several SAEs below one folder are found by hookpoint, and one of them is when it is given by itself."""
    for name in ("layers.3", "layers.10.mlp"):
        shutil.copytree(GOLDEN / "sparsify_topk", tmp_path / name)
    assert {location.hookpoint for location in locate(tmp_path)} == {"layers.3", "layers.10.mlp"}
    (location,) = locate(tmp_path / "layers.10.mlp")
    assert location.hookpoint == "layers.10.mlp"


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_as_the_maker(case: str) -> None:
    """Encoding and reconstruction equal those of the maker's class to 1e-5."""
    maker = golden(case)
    encoding, reconstruction = differences(maker.sae, maker)
    assert encoding <= EXACT
    assert reconstruction <= EXACT


@pytest.mark.parametrize("case", CASES)
def test_form_of_what_fires(case: str) -> None:
    """Float32, at least 0, no latent twice on a token, no wider than needed; an input of 16 bits is made float32."""
    maker = golden(case)
    top = maker.sae.encode(maker.x)
    assert top.activations.dtype == torch.float32 and top.indices.dtype == torch.int64
    assert top.activations.min() >= 0
    active = (maker.encoding > 0).sum(1)
    assert torch.equal((top.activations > 0).sum(1), active)
    assert top.activations.shape[1] == TOPK.get(case, int(active.max()))
    for activations, indices in zip(*top, strict=True):
        firing = indices[activations > 0]
        assert len(firing.unique()) == len(firing)
    half = maker.x.half()
    assert torch.equal(maker.sae.encode(half).activations, maker.sae.encode(half.float()).activations)


@pytest.mark.parametrize(("latents", "elements"), [(5, 35), (24, 72), (1, 1)])
@pytest.mark.parametrize("case", CASES)
def test_blocks_change_nothing(case: str, latents: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, also smaller than k and not dividing anything, give the same; and they keep to their size."""
    sizes = []
    whole = SparseAutoencoder._pre_activations

    def watched(sae: SparseAutoencoder, x: Tensor, start: int) -> Tensor:
        pre = whole(sae, x, start)
        sizes.append(pre.numel())
        return pre

    monkeypatch.setattr(autoencoder, "LATENTS_PER_BLOCK", latents)
    monkeypatch.setattr(autoencoder, "ELEMENTS_PER_BLOCK", elements)
    monkeypatch.setattr(SparseAutoencoder, "_pre_activations", watched)
    maker = golden(case)
    encoding, reconstruction = differences(maker.sae, maker)
    assert encoding <= EXACT
    assert reconstruction <= EXACT
    assert max(sizes) <= elements
    assert sum(sizes) == maker.encoding.numel()


def b_dec_left_in(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, subtract_b_dec=False)


def b_dec_subtracted(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, subtract_b_dec=True)


def encoder_not_transposed(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, W_enc=sae.W_enc.T.reshape(sae.W_enc.shape))


def decoder_not_transposed(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, W_dec=sae.W_dec.T.reshape(sae.W_dec.shape))


def decoder_rows_shuffled(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, W_dec=sae.W_dec[torch.randperm(sae.n_latents, generator=torch.Generator().manual_seed(0))])


def read_as_relu(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, activation="relu", k=None, threshold=None)


def threshold_not_strict(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Above the float just below the threshold is the same as from the threshold on."""
    assert sae.threshold is not None
    return replace(sae, threshold=torch.nextafter(sae.threshold, torch.tensor(-torch.inf)))


def rescale_forgotten(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(decoder_not_divided(sae), decoder_norm=None)


def decoder_not_divided(sae: SparseAutoencoder) -> SparseAutoencoder:
    assert sae.decoder_norm is not None
    return replace(sae, W_dec=sae.W_dec * sae.decoder_norm[:, None])


def rescale_invented(sae: SparseAutoencoder) -> SparseAutoencoder:
    norm = sae.W_dec.norm(dim=1)
    return replace(sae, W_dec=sae.W_dec / norm[:, None], decoder_norm=norm)


WRONG_ENCODING = [
    *((case, b_dec_left_in) for case in SUBTRACTING),
    ("saelens_b_dec_not_subtracted", b_dec_subtracted),
    *((case, encoder_not_transposed) for case in CASES),
    *((case, read_as_relu) for case in TOPK),
    ("saelens_jumprelu", read_as_relu),
    ("saelens_jumprelu", threshold_not_strict),
    ("saelens_topk_rescaled", rescale_forgotten),
    ("saelens_topk", rescale_invented),
]
WRONG_DECODING = [
    *((case, decoder_not_transposed) for case in CASES),
    *((case, decoder_rows_shuffled) for case in CASES),
    ("saelens_topk_rescaled", decoder_not_divided),
]


@pytest.mark.parametrize(("case", "wrong"), WRONG_ENCODING)
def test_wrong_encoding_is_noticed(case: str, wrong: Callable[[SparseAutoencoder], SparseAutoencoder]) -> None:
    """The comparison sees each wrong way of encoding, in the encoding and in the reconstruction."""
    maker = golden(case)
    assert min(differences(wrong(maker.sae), maker)) > NOTICED


@pytest.mark.parametrize(("case", "wrong"), WRONG_DECODING)
def test_wrong_decoding_is_noticed(case: str, wrong: Callable[[SparseAutoencoder], SparseAutoencoder]) -> None:
    """The comparison sees each wrong way of decoding, in the reconstruction alone."""
    maker = golden(case)
    encoding, reconstruction = differences(wrong(maker.sae), maker)
    assert encoding <= EXACT
    assert reconstruction > NOTICED


def test_input_at_the_threshold_does_not_fire() -> None:
    """Token 0 meets the threshold of latent 0 exactly and token 1 is the next float above it: only that one fires."""
    maker = golden("saelens_jumprelu")
    assert maker.sae.threshold is not None and maker.sae.threshold[0] == 0.75
    encoding = dense(maker.sae.encode(maker.x), maker.sae.n_latents)
    assert encoding[0, 0] == 0 and encoding[1, 0] > 0.75
    wrong = dense(threshold_not_strict(maker.sae).encode(maker.x), maker.sae.n_latents)
    assert wrong[0, 0] == 0.75
    assert int((wrong != encoding).sum()) == 1


Damage = Callable[[Path], None]


def weights_of(folder: Path) -> Path:
    (file,) = (folder / module.WEIGHTS for module in FORMATS.values() if (folder / module.WEIGHTS).is_file())
    return file


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


def tensor(name: str, change: Callable[[Tensor], Tensor | None]) -> Damage:
    """Rewrites one tensor, or leaves it out where the change gives None."""

    def damage(folder: Path) -> None:
        tensors = load_file(weights_of(folder))
        changed = tensors | {name: change(tensors[name])}
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
    (
        "saelens_standard",
        settings(architecture="gated"),
        ("{folder}/cfg.json", "architecture 'gated'", "supported: standard, topk, jumprelu"),
    ),
    (
        "saelens_standard",
        settings(normalize_activations="layer_norm"),
        ("{folder}/cfg.json", "normalize_activations 'layer_norm'", "supported: 'none'"),
    ),
    (
        "saelens_standard",
        settings(reshape_activations="hook_z"),
        ("{folder}/cfg.json", "reshape_activations 'hook_z'", "supported: 'none'"),
    ),
    # Before version 6 a TopK SAE of SAELens was a standard one with another activation function.
    (
        "saelens_standard",
        settings(activation_fn_str="topk", activation_fn_kwargs={"k": 8}),
        ("{folder}/cfg.json", "activation_fn_str 'topk'", "supported: 'relu'"),
    ),
    (
        "saelens_standard",
        settings(finetuning_scaling_factor=True),
        ("{folder}/cfg.json", "finetuning_scaling_factor True", "supported: False"),
    ),
    (
        "sparsify_topk",
        settings(activation="groupmax"),
        ("{folder}/cfg.json", "activation 'groupmax'", "supported: 'topk'"),
    ),
    ("sparsify_topk", settings(transcode=True), ("{folder}/cfg.json", "transcode True", "supported: False")),
    (
        "sparsify_topk",
        settings(skip_connection=True),
        ("{folder}/cfg.json", "skip_connection True", "supported: False"),
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
    ("saelens_topk", no_config, ("{folder}", "no cfg.json in it or below", "supported formats: sparsify, saelens")),
]


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
