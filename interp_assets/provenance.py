"""What a result was made with and what it cost; recorded beside it, compared with nothing."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from interp_assets.asset import Asset
from interp_assets.settings import Price
from interp_assets.study import Study

if TYPE_CHECKING:
    from resources.language_models.logged import LoggedEngine


@dataclass
class Spent:
    """Calls of language models, their tokens, and what they cost at the study's prices."""

    llm_calls: int = 0
    replies_reused: int = 0
    "Replies that were there already, those of rows carried over included."
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    requests_refused: int = 0
    requests_sent_again: int = 0
    seconds_asking: float = 0.0

    def add(self, engine: LoggedEngine, price: Price | None) -> None:
        made = engine.made
        self.llm_calls += made.calls
        self.replies_reused += engine.replies_reused
        self.prompt_tokens += made.prompt_tokens
        self.cached_tokens += made.cached_tokens
        self.completion_tokens += made.completion_tokens
        self.requests_refused += engine.refused
        self.requests_sent_again += engine.retries
        self.seconds_asking += engine.seconds
        if price is not None:
            self.cost += price.of(made.prompt_tokens, made.cached_tokens, made.completion_tokens)

    def metadata(self, asset: Asset) -> dict[str, Any]:
        """What the UI shows of it, rates included."""
        if not asset.engines:
            return {}
        rates = {}
        if self.seconds_asking:
            rates = {
                "requests_per_second": round(self.llm_calls / self.seconds_asking, 2),
                "tokens_per_second": round((self.prompt_tokens + self.completion_tokens) / self.seconds_asking, 1),
            }
        if self.prompt_tokens:
            rates["prefix_cache_hit_rate"] = round(self.cached_tokens / self.prompt_tokens, 3)
        return asdict(self) | rates | {"seconds_asking": round(self.seconds_asking, 2)}


LIBRARIES = ("dagster", "numpy", "polars", "sentence-transformers", "torch", "transformers", "vllm")


def provenance(study: Study, asset: Asset) -> dict[str, Any]:
    """Library versions, the seed, and the engines by name and model."""
    found: dict[str, Any] = {"versions": versions(), "seed": study.examples.seed}
    if asset.engines:
        found["engines"] = {name: study.engines[name].model_name for name in asset.engines}
    return found


@cache
def versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
