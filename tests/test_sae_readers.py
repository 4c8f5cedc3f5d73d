"""The SAE readers against the makers' own classes.

`tests/golden/make_golden.py` made the SAEs and what their makers' classes compute from them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp_assets.activations.variance import fraction
from resources.sparse_autoencoders import autoencoder
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.formats import FORMATS
from resources.sparse_autoencoders.locate import locate
from resources.sparse_autoencoders.location import describe
from resources.sparse_autoencoders.read import read_sae
from tests.golden_cases import CASES, GOLDEN, dense, differences, golden, location_of

TOPK = [case for case, what in CASES.items() if what.k and what.architecture != "groupmax"]
JUMPRELU = [case for case, what in CASES.items() if "jump" in what.architecture.lower()]
SUBTRACTING = [case for case, what in CASES.items() if what.subtracts]
SQUARE = [case for case in CASES if not ("saelens" in case and "transcoder" in case)]
"Inputs and outputs have as many dimensions, so that b_dec could be subtracted."
EXACT = 1e-5
NOTICED = 1e-2


def test_all_golden_cases_are_compared() -> None:
    """At least 15 combinations; every format; and no folder that nobody looks at."""
    assert {folder.parent.name for folder in GOLDEN.glob("*/expected.safetensors")} == set(CASES)
    made = {(location_of(case).format, what.architecture) for case, what in CASES.items()}
    assert len(made) >= 15
    assert {name for name, _ in made} == set(FORMATS)
    for name, module in FORMATS.items():
        assert set(module.ARCHITECTURES) == {kind for of, kind in made if of == name}


@pytest.mark.parametrize("case", CASES)
def test_format_is_recognised(case: str) -> None:
    """By the content alone; what it reads and writes comes from the settings where they say it."""
    location, what = location_of(case), CASES[case]
    assert case.startswith(location.format)
    assert (location.hookpoint, location.writes) == (what.reads, what.writes)
    said = describe(location)
    assert (said["architecture"], said["l0"], said["n_latents"], said["d_in"]) == (what.architecture, what.l0, 64, 16)
    assert said["d_out"] == (16 if case in SQUARE else 12)


@pytest.mark.parametrize(
    ("case", "name", "model"),
    [
        ("gemma_scope_res", None, "google/gemma-2-2b"),
        ("gemma_scope_2_res", None, "google/gemma-3-1b-pt"),
        ("llama_scope_res", "Llama3_1-8B-Base-L3R-8x", "meta-llama/Llama-3.1-8B"),
        ("llama_scope_res", None, None),
        ("llamascopium_topk", None, "meta-llama/Llama-3.1-8B"),
        ("dictionary_learning_topk", None, "EleutherAI/pythia-70m"),
        ("saelens_5_standard", None, "tiny"),
    ],
)
def test_the_model_that_it_was_trained_on(case: str, name: str | None, model: str | None, tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / case, tmp_path / (name or "one"))
    (location,) = locate(folder)
    assert location.declared().model == model


def test_hookpoints_are_folder_names(tmp_path: Path) -> None:
    """Several SAEs below one folder are found by hookpoint, and one of them is when it is given by itself."""
    for name in ("layers.3", "layers.10.mlp"):
        shutil.copytree(GOLDEN / "sparsify_topk", tmp_path / name)
    assert {location.hookpoint for location in locate(tmp_path)} == {"layers.3", "layers.10.mlp"}
    (location,) = locate(tmp_path / "layers.10.mlp")
    assert location.hookpoint == "layers.10.mlp"


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_as_the_maker(case: str) -> None:
    """Encoding, reconstruction and FVU equal those of the maker's class to 1e-5."""
    maker = golden(case)
    encoding, reconstruction = differences(maker.sae, maker)
    assert encoding <= EXACT
    assert reconstruction <= EXACT
    assert fraction(maker.sae.reconstruct(maker.x), maker.target) == pytest.approx(float(maker.fvu), abs=EXACT)


@pytest.mark.parametrize("case", CASES)
def test_form_of_what_fires(case: str) -> None:
    """Float32, at least 0, no latent twice on a token, no wider than needed; an input of 16 bits is made float32."""
    maker = golden(case)
    top = maker.sae.encode(maker.x)
    assert top.activations.dtype == torch.float32 and top.indices.dtype == torch.int64
    assert top.activations.min() >= 0
    active = (maker.encoding > 0).sum(1)
    assert torch.equal((top.activations > 0).sum(1), active)
    assert top.activations.shape[1] == (CASES[case].k or int(active.max()))
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

    def watched(sae: SparseAutoencoder, x: Tensor, start: int, end: int | None = None) -> Tensor:
        pre = whole(sae, x, start, end)
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
    assert sum(sizes) == 2 * maker.encoding.numel()  # once to encode, once to reconstruct


def test_weights_that_were_centred_read_what_is_centred(tmp_path: Path) -> None:
    """Where the weights that write to the residual stream were centred, its mean over the dimensions is not there."""
    shutil.copytree(GOLDEN / "saelens_standard", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "cfg.json"
    settings = json.loads(file.read_text())
    settings["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    file.write_text(json.dumps(settings))
    (location,) = locate(tmp_path)
    sae, maker = read_sae(location), golden("saelens_standard")
    mean = maker.x.mean(1, keepdim=True)
    assert torch.equal(sae.encode(maker.x).activations, maker.sae.encode(maker.x - mean).activations)
    torch.testing.assert_close(sae.reconstruct(maker.x), maker.sae.reconstruct(maker.x - mean) + mean)


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


def read_as_topk(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, activation="topk")


def norm_forgotten(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, input_norm="none")


def other_norm(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, input_norm="constant_norm" if sae.input_norm == "layer_norm" else "layer_norm")


def norm_not_undone(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, undo_norm=False)


def skip_forgotten(sae: SparseAutoencoder) -> SparseAutoencoder:
    return replace(sae, W_skip=None)


def skip_transposed(sae: SparseAutoencoder) -> SparseAutoencoder:
    assert sae.W_skip is not None
    return replace(sae, W_skip=sae.W_skip.T)


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
    *((case, b_dec_subtracted) for case in SQUARE if case not in SUBTRACTING),
    *((case, encoder_not_transposed) for case in CASES),
    *((case, read_as_relu) for case in (*TOPK, *JUMPRELU, "sparsify_groupmax")),
    ("sparsify_groupmax", read_as_topk),
    *((case, norm_forgotten) for case in ("saelens_layer_norm", "saelens_constant_norm")),
    *((case, other_norm) for case in ("saelens_layer_norm", "saelens_constant_norm")),
    ("saelens_jumprelu", threshold_not_strict),
    ("saelens_topk_rescaled", rescale_forgotten),
    ("llama_scope_decoder_norms", rescale_forgotten),
    ("llamascopium_topk", rescale_forgotten),
    ("saelens_topk", rescale_invented),
]
WRONG_DECODING = [
    *((case, decoder_not_transposed) for case in CASES),
    *((case, decoder_rows_shuffled) for case in CASES),
    *((case, skip_forgotten) for case in CASES if "skip" in case or "affine" in case),
    *((case, skip_transposed) for case in CASES if case in SQUARE and ("skip" in case or "affine" in case)),
    *((case, norm_not_undone) for case in ("saelens_layer_norm", "saelens_constant_norm")),
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


def encode_within(room: int, dense_instead: bool) -> int:
    """The exit code of a process that encodes 1,024 tokens with 65,536 latents and may take `room` bytes to do it."""
    encode = "torch.addmm(sae.b_enc, x, sae.W_enc).topk(32)" if dense_instead else "sae.encode(x)"
    code = f"""
import resource, sys, torch
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
torch.set_num_threads(1)
rows = torch.randn(65536, 64)
sae = SparseAutoencoder(rows.T, torch.zeros(65536), rows, torch.zeros(64), "topk", k=32)
x = torch.randn(1024, 64)
sae.encode(x[:8])
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {room}, taken + {room}))
try:
    {encode}
except RuntimeError as error:
    sys.exit(3 if "memory" in str(error) else 4)
"""
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


@pytest.mark.parametrize(("dense_instead", "code"), [(False, 0), (True, 3)])
def test_no_dense_copy_is_made(dense_instead: bool, code: int) -> None:
    """All pre-activations would take 268 MB. Control: where they are made at once, they do not fit."""
    assert encode_within(200 << 20, dense_instead) == code
