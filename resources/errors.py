"""The two ways in which something that is asked for cannot be had: not with this input, or not now."""

from __future__ import annotations

from typing import Any

LONGEST, LEFT_OUT = 2_000, " ... "
"Characters of a message, and what stands where more have been left out."


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


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text that may quote files of others, for a terminal: one line of bounded length that moves no cursor.

    What does not print is written out as in Python (`\\x1b`). Of a longer text the middle is left out: it begins with
    the thing and ends with what to do.
    """
    line = cut(" ".join(each.strip() for each in text.strip().splitlines()), longest)
    return cut("".join(char if char.isprintable() else repr(char)[1:-1] for char in line), longest)


def install_command(extra: str) -> str:
    """How the README installs what only some users need; extras are those of pyproject.toml."""
    return f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"


def cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    kept = longest - len(LEFT_OUT)
    return text[: kept - kept // 3] + LEFT_OUT + text[len(text) - kept // 3 :]
