"""Serve the small judge on this machine, with llama.cpp's server (the package `xllamacpp`).

    python demo/serve_judge.py [--port 8177] [--model FILE] [COMMAND ...]

With a command it is served as long as the command runs, else until Ctrl-C. Studies ask it as an engine of kind `openai` at
http://127.0.0.1:8177/v1, best with `concurrency: 1`: it has one slot, whose keys and values are its prefix cache.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prepare_judge import JUDGE

HOST, PORT = "127.0.0.1", 8177
CONTEXT = 8192
"Tokens of a prompt and its reply."
KEPT_MIB = 1024
"For the keys and values of prompts that are not in the slot now."


def serve(model: Path, port: int) -> Any:
    """A server that answers as long as it is referred to; comes back when the model is loaded."""
    try:
        import xllamacpp
    except ImportError:
        sys.exit("error: the package xllamacpp is missing; run: make demo-judge")
    if not model.is_file():
        sys.exit(f"error: {model} is not there; run: python demo/prepare_judge.py")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            sys.exit(f"error: something answers at {HOST}:{port} already; name another --port")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(model)
    settings.hostnames = [HOST]
    settings.port = port
    settings.n_ctx = CONTEXT
    settings.n_parallel = 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count() or 1
    settings.cache_ram_mib = KEPT_MIB
    settings.verbosity = 1  # warnings and errors
    settings.ui = False
    return xllamacpp.Server(settings)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the small judge while a command runs, or until Ctrl-C.")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--model", type=Path, default=JUDGE, metavar="FILE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    asked = parser.parse_args()
    print(f"loading {asked.model} ...", flush=True)
    server = serve(asked.model, asked.port)
    print(f"serving at http://{HOST}:{asked.port}/v1", flush=True)
    status = 0
    try:
        if asked.command:
            status = subprocess.run(asked.command).returncode
        else:
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        pass
    del server
    sys.stdout.flush()
    os._exit(status)  # threads of the server would wait for one another


if __name__ == "__main__":
    main()
