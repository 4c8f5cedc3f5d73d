"""Servers that this process has waited for in vain: whoever asks them next learns it at once."""

from __future__ import annotations

GIVEN_UP: dict[str, str] = {}
"By base URL: in one line, why it was given up."
