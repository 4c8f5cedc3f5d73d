"""Keys of language model servers: they stand in the environment, and in no file that may be shared."""

from __future__ import annotations

import os
import re
from typing import Any

from interp_assets.settings import OpenAIEngine
from resources.errors import NotNow

LOOKS_LIKE_A_KEY = re.compile(r"\b(sk|gsk|xai|hf|r8|nvapi|pplx|AIza)[-_]?[A-Za-z0-9_-]{20,}")
NAMES = re.compile(r"((api|access|auth|secret|openai)[-_]?)*(key|token|secret|password)", re.IGNORECASE)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")


def place_of_key(content: Any, place: str = "") -> str | None:
    """Where in a study file something looks like a key, or None. What it is must not be shown."""
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for name, value in pairs:
            shown = f"[{name}]" if isinstance(content, list) else f".{name}" if place else f"{name}"
            inside = place + shown
            if place.startswith("engines.") and holds_key(str(name), value):
                return inside
            if found := place_of_key(value, inside):
                return found
        return None
    return place if isinstance(content, str) and LOOKS_LIKE_A_KEY.search(content) else None


def holds_key(name: str, value: Any) -> bool:
    """Whether a setting of an engine is a key, or stands where one is easily put by mistake."""
    if name == "key_env":
        return value is not None and not VARIABLE.fullmatch(str(value))
    return bool(NAMES.fullmatch(name)) or (name == "base_url" and bool(re.search("[@?]", str(value))))


def key_of(name: str, engine: OpenAIEngine) -> str | None:
    """The key of an engine, from the environment.

    Raises:
        NotNow: there is none, or it cannot be one.
    """
    if engine.key_env is None:
        return None
    key = os.environ.get(engine.key_env, "").strip()
    if not key:
        raise NotNow(f"engine {name}: the environment variable {engine.key_env} is not set; it holds the server's key")
    if not (key.isascii() and key.isprintable()):
        raise NotNow(f"engine {name}: what the environment variable {engine.key_env} holds is not a key")
    return key
