"""One line that says what is being done, how far it is, how fast, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """A counter shown on stderr: rewritten in place on a terminal, a new line every few seconds elsewhere."""

    def __init__(self, what: str, total: int, unit: str, more: Callable[[float], str] = lambda share: "") -> None:
        """
        Args:
            more: told what share of the work is done, what else the line says.
        """
        self.more = more
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.started = self.shown = time.monotonic()
        self.on_terminal = sys.stderr.isatty()

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown >= (0.5 if self.on_terminal else SECONDS_BETWEEN_LINES):
            self.shown = now
            self._show("\r\033[K" if self.on_terminal else "", "" if self.on_terminal else "\n")

    def _show(self, before: str, after: str) -> None:
        seconds = time.monotonic() - self.started
        rate = self.done / seconds if seconds > 0 else 0.0
        left = tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
        share = self.done / self.total if self.total else 1.0
        text = f"{self.what}: {self.done:,}/{self.total:,} {self.unit} ({share:.0%}), {rate:,.4g} {self.unit}/s, {left} left{self.more(share)}"
        print(f"{before}  {text}", end=after, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_terminal and self.shown != self.started:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
