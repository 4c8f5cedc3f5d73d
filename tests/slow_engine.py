"""A run in a process of its own whose language model takes its time and notes in a file what it is asked."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from interp_assets.study import load_study
from resources.language_models.protocol import ChooseRequest, Chosen, Generated, GenerateRequest, silent
from tests.oracle import OracleEngine, OracleModels

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.preloaded"])
SECONDS_PER_CALL = 0.002


class SlowOracle(OracleEngine):
    """Answers one request after the other; what it is asked stands in a file before it answers."""

    def __init__(self, asked: Path) -> None:
        super().__init__()
        self.descriptor = os.open(asked, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, request: GenerateRequest | ChooseRequest) -> None:
        digest = hashlib.sha256(repr(request.messages).encode()).hexdigest()
        os.write(self.descriptor, f"{digest}\n".encode())
        time.sleep(SECONDS_PER_CALL)

    def generate(
        self, requests: Sequence[GenerateRequest], arrived: Callable[[int, Generated], None] = silent
    ) -> list[Generated]:
        replies = []
        for i, request in enumerate(requests):
            self.note(request)
            replies += super().generate([request])
            arrived(i, replies[i])
        return replies

    def choose(
        self, requests: Sequence[ChooseRequest], arrived: Callable[[int, Chosen], None] = silent
    ) -> list[Chosen]:
        replies = []
        for i, request in enumerate(requests):
            self.note(request)
            replies += super().choose([request])
            arrived(i, replies[i])
        return replies


def start(file: Path) -> Any:
    """Begin to make all of a study."""
    process = PROCESSES.Process(target=carry_out, args=(file,))
    process.start()
    return process


def carry_out(file: Path) -> None:
    from tests.conftest import make_all

    os.dup2(os.open(file.parent / "said", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    make_all(load_study(file), OracleModels(SlowOracle(file.parent / "asked")))


def asked(file: Path) -> list[str]:
    """Everything that the language model was asked, killed runs included."""
    noted = file.parent / "asked"
    return noted.read_text().split() if noted.exists() else []
