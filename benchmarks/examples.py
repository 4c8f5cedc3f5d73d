"""From a cache of 2,048 latents on 131k tokens to the examples table, beside a loop over latents in plain numpy."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measuring import median_seconds, quick, seconds, show
from benchmarks.synthetic_cache import CONTEXT_LENGTH, random_tokens, write_cache
from interp_assets.activations.cache_file import CacheReader
from interp_assets.examples.distinct import OFFERS_AT_ONCE
from interp_assets.examples.drawing import draw_examples
from interp_assets.examples.draws import DRAW_NEGATIVE, PICK_WINDOW, SPLIT_CONTEXT, keyed
from interp_assets.examples.negatives import DRAWS_AT_FIRST, LARGEST_ROUND, NEIGHBOURS
from interp_assets.examples.samplers import SPREAD
from interp_assets.settings import Examples, ExplainExamples, TestExamples
from interp_assets.tables import DECILES

LATENTS, K, CONTEXTS, WINDOW = 2048, 32, 512, 32
REFERENCE_LATENTS = 48


def settings(placement: str = "aligned", negatives: str = "random") -> Examples:
    return Examples.model_validate(
        {
            "window": WINDOW,
            "placement": placement,
            "min_windows": 4,
            "explain": ExplainExamples(sampler="quantiles", n=40),
            "test": {**TestExamples(activating=50, non_activating=50).model_dump(), "negatives": negatives},
        }
    )


def main() -> None:
    times = 3 if quick() else 9
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(Path(folder), CONTEXTS, LATENTS, K)
        tokens = random_tokens(CONTEXTS, 49_152)
        neighbours = np.random.default_rng(2).integers(0, LATENTS, (LATENTS, NEIGHBOURS))
        draw = partial(draw_examples, cache, tokens)
        random = median_seconds(lambda: draw(settings()), times)
        one_thread = median_seconds(lambda: draw(settings(), threads=1), times)
        neighbour = median_seconds(lambda: draw(settings(negatives="neighbour"), neighbours), times)
        centred = median_seconds(lambda: draw(settings("centred")), times)
        twice = np.concatenate(
            [tokens[: CONTEXTS // 2], np.roll(tokens[: CONTEXTS // 2].ravel(), 11).reshape(-1, CONTEXT_LENGTH)]
        )
        repeated = median_seconds(lambda: draw_examples(cache, twice, settings()), times)
        some = np.sort(np.random.default_rng(3).permutation(LATENTS)[:REFERENCE_LATENTS])
        rows: list[dict[str, object]] = []
        reference = seconds(lambda: rows.extend(row for latent in some for row in one_by_one(cache, tokens, latent)))
        agree(pl.DataFrame(rows), draw(settings()))
    show("latents", LATENTS)
    show("tokens", CONTEXTS * CONTEXT_LENGTH)
    show("activations", int(cache.entries.sum()))
    show("neighbour_negatives_latents_per_second", LATENTS / neighbour)
    show("centred_windows_latents_per_second", LATENTS / centred)
    show("all_text_twice_latents_per_second", LATENTS / repeated)
    show("one_thread_latents_per_second", LATENTS / one_thread)
    show("latents_per_second", LATENTS / random)
    show("reference_latents_per_second_extrapolated", REFERENCE_LATENTS / reference)
    show("project_over_reference_ratio", LATENTS / random / (REFERENCE_LATENTS / reference))


def one_by_one(cache: CacheReader, tokens: np.ndarray, latent: int) -> list[dict[str, object]]:
    """The reference: the examples of one latent, window by window."""
    _, context, position, activation = cache.latent(latent)
    dense: dict[tuple[int, int], np.ndarray] = {}
    for where, place, value in zip(context.tolist(), position.tolist(), activation.tolist(), strict=True):
        window = dense.setdefault((where, place // WINDOW * WINDOW), np.zeros(WINDOW, dtype=np.float32))
        window[place % WINDOW] = value
    windows = list(dense)
    contexts, starts = np.array(windows).T
    by_peak = sorted(windows, key=lambda window: dense[window].max())
    decile = {window: rank * DECILES // len(windows) for rank, window in enumerate(by_peak)}
    priority = dict(zip(windows, keyed(0, PICK_WINDOW, latent, contexts, starts).tolist(), strict=True))
    explaining = keyed(0, SPLIT_CONTEXT, latent, np.arange(CONTEXTS)) < 2**63
    drawn: list[tuple[str, str, tuple[int, int]]] = []
    for purpose, n in (("explain", 40), ("test", 50)):
        mine = sorted((w for w in windows if explaining[w[0]] == (purpose == "explain")), key=priority.__getitem__)
        turns: list[tuple[int, tuple[int, int]]] = []
        taken = [0] * DECILES
        for window in mine:
            turns.append((taken[decile[window]] * DECILES + int(SPREAD[decile[window]]), window))
            taken[decile[window]] += 1
        drawn += [(purpose, "activating", window) for _, window in sorted(turns)[:n]]
    beside = [start for purpose, _, (_, start) in drawn if purpose == "test"]
    silent = silent_windows(latent, [beside[number % len(beside)] for number in range(50)], explaining, dense)
    drawn += [("test", "random", silent[number]) for number in sorted(silent)]
    nothing = np.zeros(WINDOW, dtype=np.float32)
    return [
        {
            "latent": latent,
            "purpose": purpose,
            "kind": kind,
            "context": where,
            "start": start,
            "tokens": tokens[where, start : start + WINDOW].tolist(),
            "activations": dense.get((where, start), nothing).tolist(),
        }
        for purpose, kind, (where, start) in drawn
    ]


def silent_windows(
    latent: int, starts: list[int], explaining: np.ndarray, dense: dict[tuple[int, int], np.ndarray]
) -> dict[int, tuple[int, int]]:
    """A window (context, start) for each number whose draws hold one; `dense` has the windows that are active."""
    found: dict[int, tuple[int, int]] = {}
    drawn, draws = 0, DRAWS_AT_FIRST
    while drawn < LARGEST_ROUND and len(found) < len(starts):
        offers = {}
        for number in range(len(starts)):
            if number not in found:
                contexts = keyed(0, DRAW_NEGATIVE, latent, number, np.arange(drawn, drawn + draws)) % np.uint64(
                    CONTEXTS
                )
                windows = [(where, starts[number]) for where in contexts.tolist()]
                offers[number] = [window for window in windows if not explaining[window[0]]]
        while any(offers.values()):
            before = set(found.values())
            for number, windows in offers.items():
                free = [w for w in windows[:OFFERS_AT_ONCE] if w not in dense and w not in before]
                offers[number] = windows[windows.index(free[0]) + 1 if free else OFFERS_AT_ONCE :]
                if free and free[0] not in found.values():
                    found[number] = free[0]
                    offers[number] = []
        drawn, draws = drawn + draws, min(2 * draws, LARGEST_ROUND - drawn - draws)
    return found


def agree(rows: pl.DataFrame, table: pl.DataFrame) -> None:
    """What is fast must also be right."""
    ours = table.filter(pl.col("latent").is_in(rows["latent"].implode()), pl.col("status") == "ok")
    assert ours.select(rows.columns).equals(rows.cast(dict(ours.select(rows.columns).schema)))


if __name__ == "__main__":
    main()
