"""Makes the golden SAEs beside this file: tiny random SAEs written, read back and run by their makers' own classes.

Every case is a folder with what the maker's save function wrote (`cfg.json` and the weights) and
`expected.safetensors`, which holds what the maker's class computes in float32 from those files:

- `x` [32 tokens, d_in], the input;
- `encoding` [32, n_latents], the dense activations of the latents;
- `reconstruction` [32, d_in].

`tests/test_sae_readers.py` compares our readers with them. The makers' packages are needed only to make the files
anew, in an environment of their own:

    python3 -m venv golden-venv
    golden-venv/bin/pip install torch==2.13.0
    golden-venv/bin/pip install torch==2.13.0 eai-sparsify==1.3.3 sae-lens==6.54.12
    golden-venv/bin/python tests/golden/make_golden.py

The files in the repository were made with Python 3.11, torch 2.13.0 (CPU), eai-sparsify 1.3.3, sae-lens 6.54.12,
safetensors 0.8.0 and transformers 5.23.0. The seeds are fixed: a second run with these writes the same bytes.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its kernels are for GPUs

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

HERE = Path(__file__).parent
D_IN, N_LATENTS, TOKENS = 16, 64, 32
HOOK = "blocks.3.hook_resid_post"


class Draw:
    """Weights and inputs of one case, from one seed."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.W_enc = self.normal(D_IN, N_LATENTS) / D_IN**0.5
        # The mean is below 0, so that some tokens have fewer than k latents above 0.
        self.b_enc = self.normal(N_LATENTS) * 0.3 - 0.3
        directions = torch.nn.functional.normalize(self.normal(N_LATENTS, D_IN), dim=1)
        self.norms = 0.4 + 1.6 * torch.rand(N_LATENTS, generator=self.generator)
        self.W_dec = directions * self.norms[:, None]
        self.b_dec = self.normal(D_IN) * 0.5
        self.x = self.normal(TOKENS, D_IN) + self.b_dec

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def store(case: str, maker: str, x: Tensor, encoding: Tensor, reconstruction: Tensor) -> None:
    expected = {"x": x, "encoding": encoding, "reconstruction": reconstruction}
    made_with = {"made_with": f"{maker} {version(maker)}, torch {torch.__version__}"}  # one key: several have no order
    save_file(expected, HERE / case / "expected.safetensors", made_with)
    active = (encoding > 0).sum(1)
    size = sum(file.stat().st_size for file in (HERE / case).iterdir())
    print(f"{case}: {int(active.min())} to {int(active.max())} latents fire on a token, {size:,} bytes")


def sparsify(case: str, seed: int, dtype: torch.dtype = torch.float32, **settings: int) -> None:
    draw = Draw(seed)
    coder = SparseCoder(D_IN, SparseCoderConfig(**settings), dtype=dtype)
    coder.encoder.weight.copy_(draw.W_enc.T)
    coder.encoder.bias.copy_(draw.b_enc)
    coder.W_dec.copy_(draw.W_dec)
    coder.b_dec.copy_(draw.b_dec)
    coder.save_to_disk(HERE / case)

    # It runs in the dtype of the file; float32 shows what the stored numbers mean without rounding on the way.
    coder = SparseCoder.load_from_disk(HERE / case).float()
    acts, indices, _ = coder.encode(draw.x)
    encoding = torch.zeros(TOKENS, N_LATENTS).scatter(1, indices, acts)
    store(case, "eai-sparsify", draw.x, encoding, coder.decode(acts, indices))


def saelens(case: str, seed: int, sae: SAE) -> None:
    draw = Draw(seed)
    if isinstance(sae, JumpReLUSAE):
        # Some are below 0, where the maker's relu still holds.
        threshold = draw.normal(N_LATENTS) * 0.3 + 0.3
        assert (threshold < 0).any()
        # Latent 0 meets its threshold: 1.0 - 0.5 + 0.25 is exactly 0.75 on token 0, the smallest step above it on 1.
        draw.W_enc[:, 0] = 0.0
        draw.W_enc[0, 0] = 1.0
        draw.b_enc[0], draw.b_dec[0], threshold[0] = 0.25, 0.5, 0.75
        draw.x[0, 0] = 1.0
        draw.x[1, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
        sae.threshold.copy_(threshold)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(sae, name).copy_(getattr(draw, name))
    sae.save_model(HERE / case)

    sae = SAE.load_from_disk(HERE / case)
    encoding = sae.encode(draw.x)
    if isinstance(sae, JumpReLUSAE):
        assert encoding[0, 0] == 0 and encoding[1, 0] > 0.75
    store(case, "sae-lens", draw.x, encoding, sae.decode(encoding))


@torch.no_grad()
def main() -> None:
    sparsify("sparsify_topk", 1, num_latents=N_LATENTS, k=8)
    sparsify("sparsify_expansion_factor", 2, num_latents=0, expansion_factor=N_LATENTS // D_IN, k=24)
    sparsify("sparsify_bf16", 3, torch.bfloat16, num_latents=N_LATENTS, k=8)
    common = {"d_in": D_IN, "d_sae": N_LATENTS, "metadata": SAEMetadata(hook_name=HOOK)}
    saelens("saelens_standard", 4, StandardSAE(StandardSAEConfig(**common)))
    saelens("saelens_b_dec_not_subtracted", 5, StandardSAE(StandardSAEConfig(**common, apply_b_dec_to_input=False)))
    saelens("saelens_topk", 6, TopKSAE(TopKSAEConfig(**common, k=8)))
    saelens("saelens_topk_rescaled", 7, TopKSAE(TopKSAEConfig(**common, k=8, rescale_acts_by_decoder_norm=True)))
    saelens("saelens_jumprelu", 8, JumpReLUSAE(JumpReLUSAEConfig(**common)))


if __name__ == "__main__":
    main()
