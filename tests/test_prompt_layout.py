"""Of a judge's prompts all but the example is computed once: on the demo's real text, in its chat format."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.prompt_layout import REQUIRED, SCORER, share, text_first
from interp_assets.scores.wording import wording_of
from resources.language_models.prefix_share import prefix_share
from resources.partition_files import Partition


@pytest.mark.parametrize("method", ["detection", "fuzzing"])
def test_a_prefix_cache_serves_four_fifths_of_the_prompts(method: str) -> None:
    wording = wording_of(method, SCORER)
    assert share(method, 3, wording).cacheable_share >= REQUIRED
    # Control: with the text first there is hardly anything to serve.
    assert share(method, 3, text_first(wording)).repeated_share < 0.2


def by_comparison(prompts: list[list[int]], block: int) -> int:
    """Plainly: the longest common beginning with each earlier prompt."""
    found = 0
    for i, prompt in enumerate(prompts):
        common = 0
        for earlier in prompts[:i]:
            same = next((k for k, (a, b) in enumerate(zip(prompt, earlier, strict=False)) if a != b), None)
            common = max(common, min(len(prompt), len(earlier)) if same is None else same)
        found += min(common, len(prompt) - 1) // block * block
    return found


def test_shares_equal_plain_comparison() -> None:
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, 2, draw.integers(1, 40)).tolist() for _ in range(60)]
    prompts += [*prompts[:5], [*prompts[7], 1, 1, 0]]
    found = prefix_share(prompts, block=4)
    assert found.tokens == sum(map(len, prompts))
    assert found.cacheable == by_comparison(prompts, 4) > 0
    assert found.repeated == by_comparison(prompts, 1) > found.cacheable
    assert prefix_share([]).cacheable_share == 0.0


def test_the_share_is_shown_beside_the_scores(tiny_tables: dict[str, Partition]) -> None:
    for method in ("scores/detection", "scores/fuzzing"):
        assert 0.5 < tiny_tables[method].metadata["cacheable_share"] < 1
    assert "cacheable_share" not in tiny_tables["explanations"].metadata
