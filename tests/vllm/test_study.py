"""A study from end to end by the command, with vLLM in process, and then with vLLM's server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from interp_assets.freshness import Freshness
from interp_assets.plan import plan
from interp_assets.study import load_study
from tests.commands import settle_in
from tests.vllm.conftest import CONTEXT, SERVED, WEIGHTS, VllmServer, vllm_processes

ASKED = ("explanations", "scores/detection")


def write(file: Path, engine: dict[str, Any]) -> None:
    settings = yaml.safe_load(file.read_text()) | {
        "engines": {"judge": engine},
        "explainers": {"llm": {"kind": "llm", "engine": "judge", "latents": 3, "max_tokens": 32}},
        "scorers": {"detection": {"engine": "judge", "activating": 4, "non_activating": 4}},
    }
    file.write_text(yaml.safe_dump(settings))


def run(file: Path) -> str:
    root = file.parents[1]
    environment = os.environ | {"INTERP_STUDIES": str(root / "studies"), "DAGSTER_HOME": str(root / "home")}
    command = [str(Path(sys.executable).with_name("interp")), "run", "tiny"]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def spent(file: Path) -> dict[str, tuple[int, int]]:
    """Calls made and replies reused, for each asset that asks."""
    freshness = Freshness(load_study(file))
    made = {name: freshness.current(name, "embed_tokens") for name in ASKED}
    return {name: (each.metadata["llm_calls"], each.metadata["replies_reused"]) for name, each in made.items() if each}


def test_in_process_and_by_the_server(tiny_file: Path, tmp_path: Path, server: VllmServer) -> None:
    file = settle_in(tmp_path / "world", tiny_file)
    write(
        file,
        {"kind": "vllm", "path": str(WEIGHTS), "max_model_len": CONTEXT, "kv_cache_gb": 0.5, "enforce_eager": True},
    )
    before = {process.pid for process in vllm_processes()}
    assert "made     scores/detection[embed_tokens]" in run(file)
    assert {process.pid for process in vllm_processes()} == before
    calls = spent(file)
    assert [reused for _, reused in calls.values()] == [0, 0]
    assert min(made for made, _ in calls.values()) >= 3
    in_process = file.read_text()

    write(file, {"kind": "openai", "base_url": server.url, "model": SERVED, "concurrency": 8})
    run(file)
    assert [reused for _, reused in spent(file).values()] == [0, 0], "they are other engines"
    assert min(made for made, _ in spent(file).values()) >= 3

    file.write_text(in_process)
    assert {each.state.state for each in plan(load_study(file))} == {"fresh"}, "going back costs nothing"
