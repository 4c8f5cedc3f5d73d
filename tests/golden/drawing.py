"""Weights and inputs of the golden cases, and how what the makers compute from them is kept."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
D_IN, N_LATENTS, TOKENS = 16, 64, 32
HOOK = "blocks.3.hook_resid_post"


class Draw:
    """Weights and inputs of one case, from one seed."""

    def __init__(self, seed: int, d_out: int = D_IN):
        self.generator = torch.Generator().manual_seed(seed)
        self.W_enc = self.normal(D_IN, N_LATENTS) / D_IN**0.5
        # The mean is below 0, so that some tokens have fewer than k latents above 0.
        self.b_enc = self.normal(N_LATENTS) * 0.3 - 0.3
        directions = torch.nn.functional.normalize(self.normal(N_LATENTS, d_out), dim=1)
        self.norms = 0.4 + 1.6 * torch.rand(N_LATENTS, generator=self.generator)
        self.W_dec = directions * self.norms[:, None]
        self.b_dec = self.normal(d_out) * 0.5
        self.x = self.normal(TOKENS, D_IN) + (self.b_dec if d_out == D_IN else 0.3)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def positive_threshold(draw: Draw) -> Tensor:
    return 0.05 + 0.4 * torch.rand(N_LATENTS, generator=draw.generator)


def store(
    case: str, maker: str, x: Tensor, encoding: Tensor, reconstruction: Tensor, target: Tensor | None = None
) -> None:
    """
    Args:
        maker: the package that computed it, or what stands in for one.
    """
    target = x if target is None else target
    fvu = (target - reconstruction).square().sum() / (target - target.mean(0)).square().sum()
    expected = {"x": x, "target": target.clone(), "encoding": encoding, "reconstruction": reconstruction}
    expected["fvu"] = fvu.reshape(1)
    by = f"{maker} {version(maker)}" if " " not in maker else maker
    made_with = {"made_with": f"{by}, torch {torch.__version__}"}  # one key: several have no order
    save_file(
        {name: each.contiguous() for name, each in expected.items()}, HERE / case / "expected.safetensors", made_with
    )
    active = (encoding > 0).sum(1)
    size = sum(file.stat().st_size for file in (HERE / case).rglob("*") if file.is_file())
    print(
        f"{case}: {int(active.min())} to {int(active.max())} latents fire on a token, FVU {float(fvu):.3f}, {size:,} bytes"
    )
