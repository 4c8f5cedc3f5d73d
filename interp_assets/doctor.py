"""`interp doctor`: is this machine ready? One line for each thing that can be wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from pathlib import Path

from resources.errors import NotNow, install_command
from resources.leases import Leases, slot_count, slots_folder

PACKAGES = ("dagster", "torch", "transformers", "polars", "pyarrow", "sentence-transformers", "scipy", "vllm")
OPTIONAL = {"vllm": f"optional: {install_command('vllm')}"}
DEMO_MODELS = ("SmolLM2-135M-Instruct", "all-MiniLM-L6-v2")
UI_PORT = 3000
SLOTS = ("gpu", "llm")


def examine(project: Path) -> int:
    """Print what was found; 1 where something is missing that every study needs."""
    missing = [package for package in PACKAGES if version(package) is None]
    line("python", platform.python_version())
    for package in PACKAGES:
        line(package, version(package) or f"missing ({OPTIONAL.get(package, 'run: make install')})")
    line("devices", devices())
    line("disk", f"{shutil.disk_usage(project).free / 2**30:,.1f} GB free")
    for name in DEMO_MODELS:
        there = (project / "demo" / "weights" / name).is_dir()
        line("demo weights", f"{name}: {'there' if there else 'not unpacked (run: make demo)'}")
    line("port", f"{UI_PORT}: {port_state()}")
    for name in SLOTS:
        line("slot", f"{name}: {slot_state(name)}")
    needed = [package for package in missing if package not in OPTIONAL]
    print(f"not ready: {', '.join(needed)} missing (run: make install)" if needed else "ready")
    return 1 if needed else 0


def line(name: str, text: str) -> None:
    print(f"{name:22} {text}", flush=True)


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def devices() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"unknown: torch cannot be imported ({str(error).splitlines()[0]})"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(names) if names else "cpu only"
    return f"{found}; {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def slot_state(name: str) -> str:
    """Who occupies the device or the language model, in `interp run`, the UI or the daemon."""
    try:
        count, holders = slot_count(name), Leases(slots_folder(), "interp doctor").holders(name)
    except NotNow as error:
        return str(error)
    held = "; ".join(map(str, holders)) or "free"
    return f"{held} ({count} in all; INTERP_SLOTS sets another number, {slots_folder()} holds the locks)"


def port_state() -> str:
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", UI_PORT)) == 0
    return "in use (a UI may be running; another: make ui PORT=3001)" if taken else "free for make ui"
