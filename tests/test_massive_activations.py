"""Massive activations, of tokens, of dimensions and of both: an SAE that reproduces them and nothing else fails the proof.

Real ones, for comparison: in Gemma 3 270M one dimension of the residual stream holds .4 to .8 of its variance on all tokens
but the first; in SmolLM2-135M a few tokens of layer 11 have 170 times the norm of the others.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from interp_assets.activations.proof_of_load import ProofFailed, compare_layers, prove
from interp_assets.activations.variance import dimension_fraction, fraction
from interp_assets.settings import ProofOfLoad
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder
from resources.sparse_autoencoders.input_norm import scaled
from tests.golden_cases import CASES, golden

D, K, TOKENS, ACROSS = 64, 6, 2_000, 17
"ACROSS is the massive dimension."
DRAW = torch.Generator().manual_seed(0)
DIMENSION = torch.eye(D)[ACROSS : ACROSS + 1]
OTHERS = [i for i in range(D) if i != ACROSS]
DIRECTIONS = torch.zeros(D - 1, D)
DIRECTIONS[:, OTHERS] = torch.linalg.qr(torch.randn(D - 1, D - 1, generator=DRAW)).Q
"Orthonormal, none of them in the massive dimension."
FIRING = torch.zeros(TOKENS, D - 1).scatter_(
    1,
    torch.stack([torch.randperm(D - 1, generator=DRAW)[:K] for _ in range(TOKENS)]),
    1 + 2 * torch.rand(TOKENS, K, generator=DRAW),
)
USUAL = FIRING @ DIRECTIONS
WIDE = (200 + 60 * torch.rand(TOKENS, 1, generator=DRAW)) * DIMENSION
"One dimension between 200 and 260 on every token, so that no token's norm stands out."
DENSE = torch.nn.functional.normalize(torch.randn(1, D, generator=DRAW) * (1 - DIMENSION))
"A direction in which all other dimensions take part."
FOUR = torch.zeros(TOKENS, D)
FOUR[100:104] = 1_500 * DENSE
LIMITS = ProofOfLoad()


class Family(NamedTuple):
    x: Tensor
    massive: Tensor
    "Directions that hold nearly all variance, [n, D]."


FAMILIES = {
    "tokens": Family(USUAL + FOUR, DENSE),
    "dimensions": Family(USUAL + WIDE, DIMENSION),
    "both": Family(USUAL + WIDE + FOUR, torch.cat([DIMENSION, DENSE])),
}


def sae_of(rows: Tensor) -> SparseAutoencoder:
    """Latents that reproduce what stands along their own directions, [n, D]."""
    return SparseAutoencoder(rows.T.contiguous(), torch.zeros(len(rows)), rows, torch.zeros(D), "relu")


@pytest.mark.parametrize("name", FAMILIES)
def test_an_sae_of_massive_activations_alone_fails(name: str) -> None:
    family = FAMILIES[name]
    sae = sae_of(family.massive)
    with pytest.raises(ProofFailed) as failed:
        prove(sae, family.x, "layers.5", None, LIMITS)
    proof = failed.value.details["proof"]
    assert proof["dimension_fvu"] > 0.9
    assert proof["fvu_with_massive_activations"] < 0.1, "the control: by all of the variance it would pass"
    if name != "tokens":
        assert proof["fvu"] < 0.1 and proof["tokens_with_massive_activations"] == 0, "no token stands out by its norm"
        assert re.match(r"proof of load: at layers.5 the SAE leaves (0.9|1)[.\d]* of", str(failed.value))
        assert "where dimensions count alike (allowed: 0.8); of the whole it leaves 0.0" in str(failed.value)
        assert f"of which dimension {ACROSS} alone holds" in str(failed.value)


RIGHT = sae_of(torch.cat([DIRECTIONS, DIMENSION]))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_sae_of_everything_passes_beside_massive_activations(name: str) -> None:
    proof = prove(RIGHT, FAMILIES[name].x, "layers.5", None, LIMITS)
    assert proof["dimension_fvu"] < 0.05


def test_massive_tokens_under_a_massive_dimension_are_left_out() -> None:
    """Each dimension's variance is that of four tokens, whose norms the massive dimension hides."""
    family = FAMILIES["both"]
    reconstruction = sae_of(family.massive).reconstruct(family.x)
    assert dimension_fraction(reconstruction, family.x) < 0.1, "the control: with those tokens it would pass"


def test_the_figure_is_the_mean_over_dimensions_of_each_ones_fvu() -> None:
    """By brute force; dimensions of very different variances count alike, down to a tenth of the upper quartile."""
    target = torch.randn(500, 8, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [1.0, 2.0, 0.7, 2.0, 1_000.0, 1.0, 0.8, 2.0]
    )
    reconstruction = target + 0.3 * torch.randn(500, 8, generator=torch.Generator().manual_seed(3))
    each = [fraction(reconstruction[:, i : i + 1], target[:, i : i + 1]) for i in range(8)]
    assert dimension_fraction(reconstruction, target) == pytest.approx(sum(each) / 8, rel=1e-5)
    assert fraction(reconstruction, target) < 0.01 * sum(each) / 8, "the control: one dimension decides the plain one"


@pytest.mark.parametrize("spread", [0.0, 1e-20, 1e-3])
def test_dimensions_that_hardly_vary_do_not_decide(spread: float) -> None:
    """However badly they are reconstructed in proportion; nor do they count as explained where nothing else is."""
    still = 5.0 + spread * torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(4))
    for varying in (USUAL, USUAL + WIDE):
        target = torch.cat([varying, still], 1)
        right = target.clone()
        right[:, D:] += 1e-3
        assert dimension_fraction(right, target) < 0.01
        nothing = target.mean(0).expand_as(target)
        assert dimension_fraction(nothing, target) == pytest.approx(1, abs=1e-3)


def test_a_target_that_never_varies_is_not_explained() -> None:
    x = torch.ones(64, 4)
    assert not dimension_fraction(x, x) <= 0.8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_changes_nothing(dtype: torch.dtype) -> None:
    family = FAMILIES["dimensions"]
    assert prove(RIGHT, family.x.to(dtype), "layers.5", None, LIMITS)["dimension_fvu"] < 0.05
    with pytest.raises(ProofFailed, match="where dimensions count alike"):
        prove(sae_of(family.massive), family.x.to(dtype), "layers.5", None, LIMITS)


def test_of_a_transcoder_what_it_writes_is_judged() -> None:
    """It reads ordinary activations; a massive dimension stands in what it is to reconstruct, or the other way round."""
    clean, massive = USUAL, USUAL + WIDE
    # The massive dimension of the target is told by one of the input, so that one latent can reproduce it.
    clean = clean.clone()
    clean[:, 0] = massive[:, ACROSS] / 50
    reads, one = torch.zeros(D, 1), 50 * DIMENSION
    reads[0] = 1
    fake = SparseAutoencoder(
        reads, torch.zeros(1), one, USUAL.mean(0) * (1 - DIMENSION[0]), "relu", subtract_b_dec=False
    )
    with pytest.raises(ProofFailed, match=r"where dimensions count alike .* of the whole it leaves 1?.?\d"):
        prove(fake, clean, "layers.5.mlp:in", None, LIMITS, target=massive, writes="layers.5.mlp")
    right = IDENTITY
    assert prove(right, massive, "layers.5.mlp:in", None, LIMITS, target=massive, writes="x")["dimension_fvu"] < 1e-4


IDENTITY = SparseAutoencoder(
    torch.cat([torch.eye(D), -torch.eye(D)]).T.contiguous(),
    torch.zeros(2 * D),
    torch.cat([torch.eye(D), -torch.eye(D)]),
    torch.zeros(D),
    "relu",
    subtract_b_dec=False,
)


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm"])
def test_with_a_norm_of_the_input_a_massive_dimension_comes_for_nothing(norm: str) -> None:
    """Its size is the norm itself, which is undone at the output: a constant reproduces it. It fails, a right one passes."""
    x = USUAL + WIDE
    constant = scaled(x, norm).rows.mean(0)
    of_norm = replace(IDENTITY, input_norm=norm)
    nothing = replace(of_norm, W_enc=torch.zeros(D, 1), b_enc=torch.zeros(1), W_dec=torch.zeros(1, D), b_dec=constant)
    assert prove(of_norm, x, "layers.5", None, LIMITS)["dimension_fvu"] < 1e-3
    with pytest.raises(ProofFailed, match=r"where dimensions count alike .* of the whole it leaves 0\.0\d+, of"):
        prove(nothing, x, "layers.5", None, LIMITS)


def test_inputs_scaled_by_one_factor_are_judged_alike() -> None:
    """As with SAELens' expected_average_only_in, whose factor is folded into the weights."""
    family = FAMILIES["dimensions"]
    sae = sae_of(family.massive)
    folded = replace(sae, W_enc=sae.W_enc * 0.01, W_dec=sae.W_dec * 100)
    proofs = [prove(each, family.x, "layers.5", None, ProofOfLoad(max_dimension_fvu=5)) for each in (sae, folded)]
    assert proofs[0]["dimension_fvu"] == pytest.approx(proofs[1]["dimension_fvu"], rel=1e-3)


def test_a_growing_massive_dimension_does_not_make_a_deeper_layer_fit_better() -> None:
    """Where it is larger its share is larger, and the plain FVU smaller: that is no better fit."""
    noise = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(5))
    here, deeper = (a * USUAL + b * noise + c * WIDE for a, b, c in ((1, 0.2, 1), (0.7, 0.3, 8)))
    sae = replace(RIGHT, activation="topk", k=K + 1)
    proof = prove(sae, here, "layers.5", None, LIMITS)
    compare_layers(sae, "layers.5", {"layers.5": here, "layers.6": deeper}, proof, LIMITS)
    assert proof["fvu_by_layer"]["layers.6"] < 0.5 * proof["fvu_by_layer"]["layers.5"], (
        "the control: the plain one says so"
    )
    wrong = prove(sae, deeper, "layers.6", None, LIMITS)
    with pytest.raises(ProofFailed, match=r"explains layers.5 better \(mean FVU of dimensions 0.\d+\) than layers.6"):
        compare_layers(sae, "layers.6", {"layers.5": here, "layers.6": deeper}, wrong, LIMITS)


@pytest.mark.parametrize("case", CASES)
def test_golden_saes_pass_on_what_they_reconstruct(case: str) -> None:
    """Random SAEs explain nothing of random inputs; of their maker's reconstruction with noise they leave the noise."""
    maker = golden(case)
    noise = torch.randn(maker.reconstruction.shape, generator=torch.Generator().manual_seed(6))
    target = maker.reconstruction + 0.5 * noise * maker.reconstruction.std(0)
    proof = prove(maker.sae, maker.x, "reads", None, LIMITS, target=target, writes="writes")
    assert proof["dimension_fvu"] == pytest.approx(proof["fvu"], abs=0.1)
    assert proof["dimension_fvu"] < 0.4
    wrong = replace(maker.sae, W_dec=maker.sae.W_dec.flip(0))
    with pytest.raises(ProofFailed):
        prove(wrong, maker.x, "reads", None, LIMITS, target=target, writes="writes")
