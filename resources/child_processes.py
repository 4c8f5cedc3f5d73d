"""Processes that a library starts for itself, and that must not outlive this one, however it ends."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import psutil

LOOK_SECONDS = 0.5
GUARD = 'while read -r pid; do pids="$pids $pid"; done; kill -9 $pids 2>/dev/null'
"A shell: it is told process ids for as long as this process lives, then it ends those processes."


class ChildProcesses:
    """All that is started while `watching`, children of children included."""

    def __init__(self) -> None:
        resource_tracker.ensure_running()  # Python's own helper, which stays
        self.found: list[psutil.Process] = []
        # In a session of its own, so that what is sent to this process and its children, Ctrl-C say, passes it by.
        self._guard = subprocess.Popen(["sh", "-c", GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True)
        self._others = set(psutil.Process().children(recursive=True))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look for new ones again and again; whoever is killed meanwhile leaves none behind either."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(LOOK_SECONDS):
                self._look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._look()

    def _look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            if process not in self._others and process not in self.found:
                self.found.append(process)
                assert self._guard.stdin is not None
                print(process.pid, file=self._guard.stdin, flush=True)

    def end(self, seconds: float) -> None:
        """Return when they are gone: of themselves within some time, or else killed."""
        _, left = psutil.wait_procs(self.found, seconds)
        for process in left:
            process.kill()
        psutil.wait_procs(left)
        self.found = []
        self._guard.kill()
        self._guard.communicate()
