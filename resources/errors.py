"""The two ways in which something that is asked for cannot be had: not with this input, or not now."""

from __future__ import annotations

from typing import Any


class UnusableInput(Exception):
    """Input at fault; the message is one line that names the thing, what there is and what to do.

    Such a failure is recorded under its fingerprint and holds until the input changes. Anything else that stops a
    run (a kill, a full disk, lack of memory, `NotNow`) leaves the partition as it was, and the next run tries again.
    """

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(one_line(message))
        self.details = details or {}
        "What is recorded beside the message."


class NotNow(Exception):
    """Nothing is wrong with the input, yet it cannot be done at present; the message is one line that says why."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.strip().splitlines())
