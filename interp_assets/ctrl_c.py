"""What Ctrl-C does: one line, and the exit code that shells expect. Imports nothing that takes time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

GOES_ON = "What was finished is kept; the same command goes on from there."


def stopped() -> int:
    print(f"\nstopped. {GOES_ON}", file=sys.stderr, flush=True)
    return 130


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """For imports: in the middle of one KeyboardInterrupt is swallowed, or comes out as a library's own error."""
    in_background = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if in_background or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(stopped()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
