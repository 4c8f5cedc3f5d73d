"""Opening an SAE and encoding with it, beside one plain matrix product and top-k over all latents at once.

Full size: 131,072 latents of 2,304 dimensions, 1,024 tokens. Memory is that of a process that opens the file and encodes,
the file's own pages included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measuring import quick, seconds, show

FULL, QUICK = (131_072, 2_304), (32_768, 768)
TOKENS, K = 1_024, 64
ROUNDS = 5


def write(folder: Path, n_latents: int, d_in: int) -> None:
    """An SAE of random weights, float32, in the format of sparsify."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = {
        "encoder.weight": torch.randn(n_latents, d_in) / d_in**0.5,
        "encoder.bias": torch.zeros(n_latents),
        "W_dec": torch.randn(n_latents, d_in) / d_in**0.5,
        "b_dec": torch.zeros(d_in),
    }
    save_file(weights, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": d_in, "num_latents": n_latents, "k": K, "activation": "topk"}))


def measure(folder: Path) -> dict[str, float]:
    import torch

    from resources.sparse_autoencoders.locate import locate
    from resources.sparse_autoencoders.read import read_sae

    empty = peak_bytes()
    (location,) = locate(folder)
    opening = seconds(lambda: read_sae(location))
    sae = read_sae(location)
    x = torch.randn(TOKENS, sae.d_in)
    first = seconds(lambda: sae.encode(x))
    peak = peak_bytes()

    def plain() -> torch.return_types.topk:
        return torch.addmm(sae.b_enc, x - sae.b_dec, sae.W_enc).topk(K, dim=1)

    expected = plain()
    assert torch.equal(sae.encode(x).indices.sort().values, expected.indices.sort().values)
    pairs = np.array([(seconds(plain), seconds(lambda: sae.encode(x))) for _ in range(ROUNDS)])
    plain_median, encode_median = np.median(pairs, axis=0).tolist()
    return {
        "open_seconds": opening,
        "first_encode_seconds": first,
        "peak_resident_gb": peak / 1e9,
        "peak_resident_before_opening_gb": empty / 1e9,
        "plain_median_seconds": plain_median,
        "encode_median_seconds": encode_median,
        "encode_over_plain_lowest_ratio": float((pairs[:, 1] / pairs[:, 0]).min()),
        "encode_over_plain_highest_ratio": float((pairs[:, 1] / pairs[:, 0]).max()),
        "encode_over_plain_ratio": encode_median / plain_median,
    }


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    n_latents, d_in = QUICK if quick() else FULL
    with tempfile.TemporaryDirectory() as folder:
        for step in ("--write", "--measure"):
            command = [sys.executable, "-m", "benchmarks.sae_encode", step, folder, str(n_latents), str(d_in)]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured = json.loads(found)
    show("latents", n_latents)
    show("dimensions", d_in)
    show("tokens", TOKENS)
    show("k", K)
    show("file_gb", 8 * n_latents * d_in / 1e9)
    for name, value in measured.items():
        show(name, value)


if __name__ == "__main__":
    if "--write" in sys.argv:
        write(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif "--measure" in sys.argv:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        main()
