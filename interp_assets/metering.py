"""What is said of an engine at work: how fast it is, what its cache saves, what fails, what it costs."""

from __future__ import annotations

from collections.abc import Callable

from interp_assets.settings import Price
from resources.language_models.logged import LoggedEngine


def meter(engine: LoggedEngine, price: Price | None) -> Callable[[float], str]:
    """The rest of a progress line, from the share of the work that is done; nothing where all came from the log."""

    def said(share: float) -> str:
        made = engine.made
        if not made.calls or not engine.seconds:
            return ""
        tokens = made.prompt_tokens + made.completion_tokens
        parts = [
            f"{made.calls / engine.seconds:,.3g} requests/s",
            f"{tokens / engine.seconds:,.4g} tokens/s",
            f"{made.cached_tokens / max(1, made.prompt_tokens):.0%} of the prompts cached",
        ]
        if engine.retries:
            parts.append(f"{engine.retries:,} sent again")
        if engine.refused:
            parts.append(f"{engine.refused:,} refused")
        if price is not None:
            cost = price.of(made.prompt_tokens, made.cached_tokens, made.completion_tokens)
            parts.append(f"cost {cost:,.2f} of about {cost / share:,.2f}" if share else f"cost {cost:,.2f}")
        return f" ({', '.join(parts)})"

    return said
