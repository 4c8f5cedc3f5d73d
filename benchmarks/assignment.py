"""Matching two layers one to one: the project's certified sparse matching beside scipy's dense one, and at sizes for which
there is no dense one.

    python -m benchmarks.assignment [--quick | --small | --large | --wide]

--small: where one becomes faster than the other. --large: 65,536 and 131,072 latents of 576 numbers. --wide: 131,072 of
2,304 numbers, a quarter of an hour. Directions are made up as SAEs of neighbouring layers have them: clusters of very
unequal size, most latents with a partner at cosines from 0 to .97, three in ten without.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from statistics import median

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from benchmarks.measuring import quick, seconds, show
from interp_assets.alignment.blocks import Blocks
from interp_assets.alignment.directions import Directions, Products
from interp_assets.alignment.matching import best_matching
from interp_assets.alignment.ranks import ranks

SMALL_SIZES, DENSE_SIZES, LARGE_SIZES = (1_024, 2_048, 4_096), (8_192, 16_384), (65_536, 131_072)
WIDTH, WIDE = 576, 2_304
REPEATS = 5
"Of what takes seconds: a processor that is shared runs a fifth faster or slower from one to the next."


def main() -> None:
    modes = [argument for argument in sys.argv[1:] if argument.startswith("--one")]
    if modes:
        one(*modes[0].split("=")[1].split(","))
        return
    if "--wide" in sys.argv:
        measured("sparse", LARGE_SIZES[-1], WIDE)
    elif "--large" in sys.argv:
        for size in LARGE_SIZES:
            measured("sparse", size, WIDTH)
    else:
        sizes = SMALL_SIZES if "--small" in sys.argv else DENSE_SIZES
        for size in SMALL_SIZES[-1:] if quick() else sizes:
            pairs = [beside_dense(size) for _ in range(1 if quick() or size > DENSE_SIZES[0] else REPEATS)]
            for name in ("memory", "seconds"):
                show(f"reference_over_project_{name}_{size}_ratio", median(pair[name] for pair in pairs))
                if len(pairs) > 1:
                    show(f"reference_over_project_{name}_{size}_lowest_ratio", min(pair[name] for pair in pairs))
                    show(f"reference_over_project_{name}_{size}_highest_ratio", max(pair[name] for pair in pairs))


def beside_dense(size: int) -> dict[str, float]:
    """How many times as much memory and time the dense method takes, one right after the other."""
    ours, reference = (measured(method, size, WIDTH) for method in ("sparse", "dense"))
    assert abs(ours["cost"] - reference["cost"]) <= 1e-9 * reference["cost"], "not the same optimum"
    return {
        "memory": reference["peak_gigabytes"] / ours["peak_gigabytes"],
        "seconds": reference["seconds"] / ours["seconds"],
    }


def measured(method: str, size: int, width: int) -> dict[str, float]:
    """One method in a process of its own, so that its memory is its own too."""
    command = [sys.executable, "-m", "benchmarks.assignment", f"--one={method},{size},{width}"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {name: float(value) for name, value in (line.split(": ") for line in output.splitlines())}
    for name, value in found.items():
        show(f"{method}_{size}_{name}", value)
    return found


def one(method: str, size: str, width: str) -> None:
    a, b = neighbouring_layers(int(size), int(width))
    before = peak_gigabytes()
    start = time.perf_counter()
    similarities = Products(Directions.unit(a), Directions.unit(b))
    if method == "dense":
        table = 1 - similarities.exact_tile(np.arange(len(a)))
        cost = float(table[linear_sum_assignment(table)].sum())
    else:
        found = best_matching(similarities, Blocks(f"{int(size):,} latents"), dense=0)
        cost = found.total_cost
    taken, peak = time.perf_counter() - start, peak_gigabytes()
    if method == "sparse":
        start = time.perf_counter()
        ranks(similarities, found.row, found.column, Blocks(f"{int(size):,} latents"))
        print(f"ranks_of_the_matches_after_it_seconds: {time.perf_counter() - start!r}")
        print(f"looks_for_better_pairs: {found.looks}")
        print(f"certified_gap_over_cost: {found.gap / cost!r}")
        operations = 2.0 * int(size) ** 2 * int(width)
        print(f"operations_of_a_look_tera: {operations / 1e12!r}")
        for dtype in (torch.float32, torch.bfloat16):
            floor = operations / operations_per_second(int(width), dtype)
            print(f"floor_of_a_{str(dtype).removeprefix('torch.')}_look_seconds: {floor!r}")
    print(f"cost: {cost!r}")
    print(f"seconds: {taken!r}")
    print(f"peak_gigabytes: {peak!r}")
    print(f"of_these_before_gigabytes: {before!r}")


def neighbouring_layers(size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions float32 [size, width] of two layers."""
    draw = torch.Generator().manual_seed(0)

    def unit(rows: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, width, generator=draw), dim=1)

    def mixed(one: torch.Tensor, other: torch.Tensor, cosine: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(cosine * one + (1 - cosine**2).sqrt() * other, dim=1)

    centres = unit(size // 32)
    weights = torch.arange(1, len(centres) + 1).float() ** -0.7
    cluster = torch.multinomial(weights, size, replacement=True, generator=draw)
    a = mixed(centres[cluster], unit(size), 0.8 * torch.rand(size, 1, generator=draw))
    b = mixed(a, unit(size), 0.97 * torch.rand(size, 1, generator=draw).sqrt())
    new = torch.nonzero(torch.rand(size, generator=draw) < 0.3)[:, 0]
    b[new] = mixed(centres[cluster[new]], unit(len(new)), 0.8 * torch.rand(len(new), 1, generator=draw))
    return a.numpy(), b[torch.randperm(size, generator=draw)].numpy()


def operations_per_second(width: int, dtype: torch.dtype) -> float:
    """What this machine does in a product of matrices of this shape, at best of five."""
    one, other = torch.randn(512, width).to(dtype), torch.randn(8_192, width).to(dtype).T
    best = min(seconds(lambda: one @ other) for _ in range(5))
    return 2 * 512 * 8_192 * width / best


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
