"""How much more alike the latents of neighbouring layers are where their SAEs started from the same random numbers.

The demo's SAEs of layers 8, 9 and 10 did, and saw the same tokens in the same order. Beside them stands layer 9 from
another start:

    python demo/train_saes.py --layers 9 --seed 1 --folder demo/saes_other_start
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.measuring import show
from interp_assets.alignment.blocks import Blocks
from interp_assets.alignment.directions import Directions, Products
from interp_assets.alignment.matching import Matching, best_matching
from interp_assets.study import PROJECT

SHARED, OTHER = PROJECT / "demo" / "saes", PROJECT / "demo" / "saes_other_start"


def main() -> None:
    if not (OTHER / "layers.9").exists():
        sys.exit(f"{OTHER} is not there; make it with: python demo/train_saes.py --layers 9 --seed 1 --folder {OTHER}")
    means = {}
    for name, nine in (("shared_start", SHARED), ("other_start", OTHER)):
        found = [matched(SHARED / "layers.8", nine / "layers.9"), matched(nine / "layers.9", SHARED / "layers.10")]
        for pair, each in zip(("8_9", "9_10"), found, strict=True):
            show(f"{name}_layers_{pair}_mean_cosine", float(each.similarity.mean()))
            show(f"{name}_layers_{pair}_same_number_share", float((each.row == each.column).mean()))
        means[name] = float(np.mean([each.similarity.mean() for each in found]))
    same = matched(SHARED / "layers.9", OTHER / "layers.9")
    show("layer_9_from_two_starts_mean_cosine", float(same.similarity.mean()))
    show("shared_over_other_start_mean_cosine_ratio", means["shared_start"] / means["other_start"])


def matched(one: Path, other: Path) -> Matching:
    sides = (
        Directions.unit(load_file(folder / "sae.safetensors")["W_dec"].astype(np.float32)) for folder in (one, other)
    )
    return best_matching(Products(*sides), Blocks("cosines"))


if __name__ == "__main__":
    main()
