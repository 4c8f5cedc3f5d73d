"""Every known way to read an SAE wrongly, done on purpose: the proof of load fails and names the hook and the cause.

The activations are made of known directions, so an SAE that is read rightly leaves next to nothing. Wrong modules and
layers are in `test_demo.py`, `test_bad_saes.py` and `test_transcoders.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from interp_assets.activations.proof_of_load import ProofFailed, prove
from interp_assets.settings import ProofOfLoad
from resources.sparse_autoencoders.autoencoder import SparseAutoencoder

D, CONTEXTS, LENGTH, K = 32, 64, 16, 8
TOKENS = CONTEXTS * LENGTH
LIMITS = ProofOfLoad(max_fvu=0.4)
DRAW = torch.Generator().manual_seed(0)
DIRECTIONS = torch.linalg.qr(torch.randn(D, D, generator=DRAW)).Q.contiguous()
SHIFT = 6 * torch.nn.functional.normalize(torch.randn(D, generator=DRAW), dim=0)
FIRING = torch.zeros(TOKENS, D).scatter_(
    1,
    torch.stack([torch.randperm(D, generator=DRAW)[:K] for _ in range(TOKENS)]),
    1 + 2 * torch.rand(TOKENS, K, generator=DRAW),
)
NOISE = torch.randn(TOKENS, D, generator=DRAW)
RIGHT = SparseAutoencoder(DIRECTIONS.T, torch.zeros(D), DIRECTIONS, torch.zeros(D), "topk", k=K)
NORMS = 0.02 * 150 ** torch.rand(D, generator=DRAW)
RESCALED = replace(RIGHT, W_enc=RIGHT.W_enc / NORMS, decoder_norm=NORMS)
"In the file decoder rows have these norms; as we hold it they are divided out."
THREES = torch.full((D,), 3.0)
AT_THRESHOLD = SparseAutoencoder(torch.eye(D), THREES, torch.eye(D) / 2, torch.zeros(D), "jumprelu", threshold=THREES)
"Every silent latent stands exactly at its threshold, and those that fire stand at 6 for an input of 3."
FAINT = (0.02 + 0.2 * torch.rand(TOKENS, 1, generator=DRAW)) * FIRING / FIRING.norm(dim=1, keepdim=True)
"The same directions, of small and very different norms."
FROM_HALF_ON = replace(RIGHT, activation="jumprelu", k=None, threshold=torch.full((D,), 0.5))
SCALE = D**0.5 / float(FAINT.norm(dim=1).mean())
ACROSS = torch.linalg.svd(torch.ones(1, D)).Vh[1:]
"A basis of all that is not the mean over the dimensions."
BOTH_WAYS = torch.cat([ACROSS, -ACROSS])
OF_NORMED = SparseAutoencoder(
    W_enc=BOTH_WAYS.T,
    b_enc=torch.zeros(len(BOTH_WAYS)),
    W_dec=BOTH_WAYS,
    b_dec=torch.zeros(D),
    activation="jumprelu",
    threshold=torch.full((len(BOTH_WAYS),), 0.3),
    input_norm="layer_norm",
)


class Case(NamedTuple):
    right: SparseAutoencoder
    x: Tensor
    misread: Callable[[SparseAutoencoder], SparseAutoencoder]
    said: str
    published_l0: float | None = None


CASES = {
    "decoder transposed": Case(
        RIGHT, FIRING @ DIRECTIONS, lambda sae: replace(sae, W_dec=sae.W_dec.T.contiguous()), "with the decoder transposed"
    ),
    "b_dec not subtracted": Case(
        replace(RIGHT, b_dec=SHIFT),
        FIRING @ DIRECTIONS + SHIFT,
        lambda sae: replace(sae, subtract_b_dec=False),
        "where b_dec is subtracted from the input",
    ),
    "b_dec subtracted": Case(
        replace(RIGHT, b_dec=SHIFT, b_enc=-(SHIFT @ DIRECTIONS.T), subtract_b_dec=False),
        FIRING @ DIRECTIONS + SHIFT,
        lambda sae: replace(sae, subtract_b_dec=True),
        "where b_dec is not subtracted from the input",
    ),
    "constant norm missing": Case(
        replace(FROM_HALF_ON, input_norm="constant_norm"),
        FAINT @ DIRECTIONS,
        lambda sae: replace(sae, input_norm="none"),
        "where the input is scaled to norm sqrt(d_in), token by token",
    ),
    "layer norm missing": Case(
        OF_NORMED,
        0.05 * (FIRING @ DIRECTIONS) + torch.linspace(-0.2, 0.2, TOKENS)[:, None],
        lambda sae: replace(sae, input_norm="none"),
        "where the input goes through a layer norm",
    ),
    "average norm missing": Case(
        replace(FROM_HALF_ON, W_enc=DIRECTIONS.T * SCALE, W_dec=DIRECTIONS / SCALE),
        FAINT @ DIRECTIONS,
        lambda sae: replace(sae, W_enc=DIRECTIONS.T, W_dec=DIRECTIONS),
        "where the input is scaled to",
    ),
    "TopK as ReLU": Case(
        RIGHT,
        FIRING @ DIRECTIONS + 0.2 * NOISE,
        lambda sae: replace(sae, activation="relu", k=None),
        f"as TopK with k = {K}",
        float(K),
    ),
    "rescale forgotten": Case(
        RESCALED,
        FIRING @ DIRECTIONS + 0.4 * NOISE,
        lambda sae: replace(sae, W_dec=sae.W_dec * NORMS[:, None], decoder_norm=None),
        "with activations rescaled by the norms of decoder rows",
    ),
    "threshold not strict": Case(
        AT_THRESHOLD,
        3.0 * (FIRING > 0),
        lambda sae: replace(sae, threshold=torch.nextafter(THREES, torch.zeros(D))),
        "where latents fire only above their threshold, not at it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_misreading_fails_and_its_cause_is_named(name: str) -> None:
    case = CASES[name]
    assert prove(case.right, case.x, "layers.3", case.published_l0, LIMITS)["fvu"] < 0.25
    with pytest.raises(ProofFailed, match=r"^proof of load: at layers.3 ") as failed:
        prove(case.misread(case.right), case.x, "layers.3", case.published_l0, LIMITS)
    assert case.said in str(failed.value)
    assert "\n" not in str(failed.value)


def test_bos_that_is_kept_fails_and_is_named() -> None:
    """What stands at the first token of each context is large, yet not so large that it counts as massive."""
    x = FIRING @ DIRECTIONS
    assert prove(RIGHT, x, "layers.3", None, LIMITS, tokens_per_context=LENGTH)["fvu"] < 0.01
    x[::LENGTH] = -9 * x.norm(dim=1).median() * DIRECTIONS[0]
    with pytest.raises(ProofFailed, match=r"at layers.3 .*first token of each context .* BOS is to be dropped"):
        prove(RIGHT, x, "layers.3", None, LIMITS, tokens_per_context=LENGTH)


def test_what_no_misreading_explains_is_said_to_be_unknown() -> None:
    """Control: another place's activations are explained by no other reading, so none is named."""
    x = torch.randn(CONTEXTS * LENGTH, D, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ProofFailed, match="wrong hookpoint, wrong subject model, or weights read in a wrong way"):
        prove(RIGHT, x, "layers.3", None, LIMITS, tokens_per_context=LENGTH)
