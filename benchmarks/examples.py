"""Examples: latents per second from cache to finished table, beside a plain loop over latents."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measuring import (
    CONTEXT_LENGTH,
    LATENTS,
    arguments,
    median_seconds,
    random_tokens,
    report,
    seconds,
    write_cache,
)
from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples.drawing import draw_examples
from interp_assets.settings import Examples, ExplainExamples, TestExamples

CONTEXTS = 512
WINDOW = 32


def settings(placement: str = "aligned", negatives: str = "random") -> Examples:
    return Examples(
        min_windows=20,
        placement=placement,  # type: ignore[arg-type]
        explain=ExplainExamples(n=40),
        test=TestExamples(activating=50, non_activating=50, negatives=negatives),  # type: ignore[arg-type]
    )


def plain_loop(cache: CacheReader, tokens: np.ndarray, latents: range) -> int:
    """The same kind of draw, one latent and one window at a time."""
    draw = np.random.default_rng(0)
    rows = 0
    for latent in latents:
        entries = cache.latent(latent)
        windows: dict[tuple[int, int], np.ndarray] = {}
        for context, position, activation in zip(entries.context, entries.position, entries.activation, strict=True):
            key = (int(context), int(position) // WINDOW)
            windows.setdefault(key, np.zeros(WINDOW, dtype=np.float32))[int(position) % WINDOW] = activation
        ordered = sorted(windows, key=lambda key: windows[key].max())
        chosen = [ordered[i] for i in draw.permutation(len(ordered))[:90]]
        while len(chosen) < 140:
            key = (int(draw.integers(CONTEXTS)), int(draw.integers(CONTEXT_LENGTH // WINDOW)))
            if key not in windows:
                chosen.append(key)
        frame = pl.DataFrame({"tokens": [tokens[c, w * WINDOW : (w + 1) * WINDOW].tolist() for c, w in chosen]})
        rows += len(frame)
    return rows


def main() -> None:
    repeat = 3 if arguments(__doc__).quick else 7
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(Path(folder), CONTEXTS)
        tokens = random_tokens(CONTEXTS)
        rows = len(draw_examples(cache, tokens, settings()))
        report("tokens", tokens.size)
        report("examples", rows)
        for name, placement, negatives in (
            ("centred", "centred", "random"),
            ("neighbour_negatives", "aligned", "neighbour"),
            ("aligned", "aligned", "random"),
        ):
            near = None
            if negatives == "neighbour":
                near = np.random.default_rng(2).integers(0, LATENTS, (LATENTS, 10))
            spent = median_seconds(
                lambda p=placement, n=negatives, near=near: draw_examples(cache, tokens, settings(p, n), near), repeat
            )
            report(f"{name}_latents_per_second", LATENTS / spent)
        few = range(0, 64)
        plain = seconds(lambda: plain_loop(cache, tokens, few)) / len(few)
        report("plain_loop_latents_per_second", 1 / plain)
        report("speed_ratio", plain * LATENTS / spent)


if __name__ == "__main__":
    main()
