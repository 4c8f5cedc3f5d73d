"""Repeated measurements and their output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np


def quick() -> bool:
    return "--quick" in sys.argv[1:]


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_seconds(run: Callable[[], object], times: int) -> float:
    """The median of some runs, after one that counts for nothing."""
    run()
    return float(np.median([seconds(run) for _ in range(times)]))


def show(name: str, value: float) -> None:
    print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", flush=True)
