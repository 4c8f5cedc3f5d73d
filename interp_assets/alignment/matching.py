"""The one-to-one matching of two layers' latents whose similarities add up to most."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.optimize import linear_sum_assignment

from interp_assets.tables import LAYER_MATCHING, conform
from resources.errors import UnusableInput

LARGEST = 16_384
"Latents on a side whose similarities still fit in memory as one matrix."


def match(first: np.ndarray, second: np.ndarray, latents_a: np.ndarray, latents_b: np.ndarray) -> pl.DataFrame:
    """The table `tables.LAYER_MATCHING`; of unequal numbers of latents some of the larger side are left over.

    Args:
        first, second: directions float32 [latents, d] of the two layers.
        latents_a, latents_b: int64, the numbers of the latents to be matched, rows of `first` and `second`.

    Raises:
        UnusableInput: too many latents, or directions of different length.
    """
    if first.shape[1] != second.shape[1]:
        raise UnusableInput(f"directions of {first.shape[1]} and of {second.shape[1]} numbers cannot be compared")
    if max(len(latents_a), len(latents_b)) > LARGEST:
        raise UnusableInput(f"{max(len(latents_a), len(latents_b))} latents; up to {LARGEST} can be matched")
    similarity = unit_rows(first[latents_a]) @ unit_rows(second[latents_b]).T
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    found = similarity[rows, columns]
    nearest = (similarity[rows].argmax(1) == columns) & (similarity[:, columns].argmax(0) == rows)
    table = {
        "latent_a": latents_a[rows],
        "latent_b": latents_b[columns],
        "similarity": found,
        "mutual_nearest": nearest,
    }
    return conform(pl.DataFrame(table), LAYER_MATCHING).sort("latent_a")


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
