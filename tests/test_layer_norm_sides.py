"""`hook_normalized` of a LayerNorm: before gain and bias in TransformerLens since 3.0, behind them until 2.18.

An SAE's settings say which SAELens wrote it, and each SAELens asks for certain versions of TransformerLens. Where both
are allowed, the proof of load tries both sides and names the right one. TransformerLensOrg/TransformerLens #747, #770.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp_assets.job import make_partition
from interp_assets.proof_limits import beyond_limits
from interp_assets.settings import ProofOfLoad
from interp_assets.study import load_study
from resources.errors import UnusableInput
from resources.hookpoints import FAMILIES, hookpoint_of
from resources.loaded_models import LoadedModels
from resources.sparse_autoencoders.locate import locate
from resources.subject_model import SubjectModel
from tests.families import HIDDEN, make_family
from tests.tiny import VOCABULARY, make_corpus, make_tokenizer, write_study

GPT2 = {"model_type": "gpt2"}
NAME = "blocks.1.ln2.hook_normalized"
BEHIND, BEFORE = "h.1.ln_2", "h.1.ln_2:normed"
# What `pip download --no-deps sae-lens==VERSION` says in METADATA under Requires-Dist: transformer-lens.
VERSIONS = {
    None: BEHIND,
    "3.22.2": BEHIND,  # >=2.0.0,<3.0.0
    "5.11.0": BEHIND,  # >=2.0.0,<3.0.0
    "6.0.0": BEHIND,  # >=2.0.0,<3.0.0
    "6.12.0": BEHIND,  # >=2.16.1,<3.0.0
    "6.31.0": BEHIND,  # >=2.16.1,<3.0.0
    "6.32.0": BEFORE,  # >=2.16.1
    "6.50.0": BEFORE,  # >=2.16.1
    "6.54.12": BEFORE,  # >=2.16.1,<4.0.0
    "6.36.0-rc.1": BEFORE,
}


def layer_norm(x: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    """As TransformerLens 2.16 and 3.9 write it: what `hook_normalized` sees in the one and in the other."""
    x = x - x.mean(-1, keepdim=True)
    scale = (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    return x / scale * norm.weight + norm.bias, x / scale


@pytest.mark.parametrize("family", [name for name, parts in FAMILIES.items() if not parts.rms])
def test_both_sides_are_read_as_the_two_versions_hold_them(family: str, tmp_path: Path) -> None:
    subject = SubjectModel(make_family(family, tmp_path), None, "float32", "cpu")
    config = {"model_type": family}
    ids = torch.arange(2, 12)[None]
    for hook in ("ln1", "ln2"):
        behind, before = (hookpoint_of(f"blocks.1.{hook}.hook_normalized", config, side) for side in (False, True))
        seen = subject.activations(ids, [behind, before, f"{behind}:in"])
        old, new = layer_norm(seen[f"{behind}:in"], subject.modules[behind])
        torch.testing.assert_close(seen[behind], old, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(seen[before], new, atol=1e-4, rtol=1e-3)
        assert (old - new).abs().max() > 0.1
    assert hookpoint_of("ln_final.hook_normalized", config, True) == f"{FAMILIES[family].final_norm}:normed"


def test_of_an_rms_norm_there_is_one_side() -> None:
    for family, parts in FAMILIES.items():
        sides = {hookpoint_of(NAME, {"model_type": family}, side) for side in (False, True)}
        assert len(sides) == (1 if parts.rms else 2)


def make_sae(folder: Path, x: Tensor, version: str | None, **settings: Any) -> Path:
    """A rotation that reconstructs x where no feature of it is negative: the SAE of one side, and of that alone."""
    shift = x.min(0).values
    eye = torch.eye(HIDDEN)
    weights = {"W_enc": eye, "b_enc": -shift, "W_dec": eye.clone(), "b_dec": shift}
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae_weights.safetensors")
    config: dict[str, Any] = {"d_in": HIDDEN, "d_sae": HIDDEN, "hook_name": NAME, "architecture": "standard"}
    config |= {"apply_b_dec_to_input": False, "prepend_bos": True} | settings
    if version is not None:
        config["sae_lens_version"] = version
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("version", "expected"), VERSIONS.items())
def test_the_version_of_the_file_decides(version: str | None, expected: str, tmp_path: Path) -> None:
    (place,) = locate(make_sae(tmp_path / "sae", torch.zeros(2, HIDDEN), version), model=GPT2)
    assert {place.hookpoint, place.or_reads} == {BEHIND, BEFORE}
    assert place.hookpoint == expected
    (llama,) = locate(tmp_path / "sae", model={"model_type": "llama"})
    assert (llama.hookpoint, llama.or_reads) == ("layers.1.post_attention_layernorm:normed", None)


def test_folded_layer_norms_have_neither_gain_nor_bias(tmp_path: Path) -> None:
    folder = make_sae(
        tmp_path / "sae", torch.zeros(2, HIDDEN), "5.11.0", model_from_pretrained_kwargs={"fold_ln": True}
    )
    (place,) = locate(folder, model=GPT2)
    assert place.hookpoint == BEFORE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of random gains and biases, and for each side the SAE that was made of it."""
    root = tmp_path_factory.mktemp("sides")
    make_family("gpt2", root / "model", vocab_size=len(VOCABULARY))
    make_tokenizer(VOCABULARY).save_pretrained(root / "model")
    make_corpus(root / "corpus.parquet")
    subject = SubjectModel(root / "model", None, "float32", "cpu")
    ids = torch.randint(2, len(VOCABULARY), (16, 64), generator=torch.Generator().manual_seed(0))
    seen = subject.activations(ids, [BEHIND, BEFORE])
    for side, x in seen.items():
        for version in ("6.31.0", "6.54.12"):
            make_sae(root / side.replace(":", "_") / version, x.flatten(0, 1), version)
    return root


def cached(world: Path, trained_on: str, version: str, *hookpoints: str) -> dict[str, Any]:
    """What the proof of load of the one layer measured."""
    source: dict[str, Any] = {"path": f"{trained_on.replace(':', '_')}/{version}"}
    if hookpoints:
        source["hookpoints"] = list(hookpoints)
    name = f"{len(list(world.iterdir()))}.yaml"
    limits = {"tokens": 1024, "compare_layers": False, "max_fvu": 0.9}
    file = write_study(
        world / name,
        saes=[source],
        proof_of_load=limits,
        explainers={"quotes": {"kind": "extractive"}},
        scorers={},
        engines={},
    )
    study = load_study(file)
    for asset in ("sae_weights", "corpus"):
        make_partition(study, asset, study.layers[0].key if asset == "sae_weights" else None, LoadedModels())
    return make_partition(study, "activation_cache", study.layers[0].key, LoadedModels()).partition.metadata["proof"]


@pytest.mark.parametrize(("version", "reads"), [("6.31.0", BEHIND), ("6.54.12", BEFORE)])
def test_the_proof_of_load_tries_both_sides_and_names_the_right_one(world: Path, version: str, reads: str) -> None:
    other = BEFORE if reads == BEHIND else BEHIND
    proof = cached(world, reads, version)
    assert (proof["hookpoint"], proof["or_reads"]) == (reads, other)
    assert proof["fvu"] < 0.02 < proof["fvu_or_reads"]
    with pytest.raises(
        UnusableInput,
        match=rf"explains {other} better \(mean FVU of dimensions [-.\de]+\) than {reads} .*hookpoints: \[{other}\]",
    ):
        cached(world, other, version)
    # As the line says.
    proof = cached(world, other, version, other)
    assert (proof["hookpoint"], proof["or_reads"]) == (other, reads)
    assert proof["fvu"] < 0.02


def test_a_name_of_transformer_lens_means_what_the_file_says(world: Path) -> None:
    assert cached(world, BEFORE, "6.54.12", NAME)["hookpoint"] == BEFORE
    assert cached(world, BEHIND, "6.31.0", NAME)["hookpoint"] == BEHIND


def test_without_the_other_side_the_wrong_one_may_pass() -> None:
    """The control: what an SAE leaves on the wrong side may be within the limits."""
    limits = ProofOfLoad()
    wrong = {"hookpoint": BEHIND, "fvu": limits.max_fvu * 0.9, "mean_l0": 8.0, "published_l0": 8.0}
    assert beyond_limits(wrong, limits) is None
    assert beyond_limits(wrong | {"or_reads": BEFORE, "fvu_or_reads": 0.01}, limits) is not None
