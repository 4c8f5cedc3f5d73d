"""`interp doctor`: is this machine ready? One line for each thing that can be wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from pathlib import Path

PACKAGES = ("dagster", "torch", "transformers", "polars", "pyarrow", "sentence-transformers", "scipy", "vllm")
OPTIONAL = {"vllm": "optional: pip install 'interp-assets[vllm]'"}
UI_PORT = 3000


def examine(project: Path) -> int:
    """Print what was found; 1 where something is missing that every study needs."""
    bad = 0
    print(f"python       {platform.python_version()}")
    for package in PACKAGES:
        try:
            print(f"{package:12} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            bad += package not in OPTIONAL
            print(f"{package:12} missing ({OPTIONAL.get(package, 'run: make install')})")
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(
        f"{'devices':12} {', '.join(devices) if devices else 'cpu only'}; {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    )
    free = shutil.disk_usage(project).free / 2**30
    print(f"{'disk':12} {free:,.1f} GB free")
    for name in ("SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"):
        folder = project / "demo" / "weights" / name
        print(f"{'demo weights':12} {name}: {'there' if folder.is_dir() else 'not unpacked (run: make demo)'}")
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", UI_PORT)) == 0
    print(
        f"{'port':12} {UI_PORT}: {'in use (a UI may be running; another: make ui PORT=3001)' if taken else 'free for make ui'}"
    )
    print("ready" if not bad else f"{bad} packages missing")
    return 1 if bad else 0
