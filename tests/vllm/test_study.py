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
from tests.vllm.conftest import CONTEXT, DTYPE, SERVED, WEIGHTS, VllmServer, vllm_processes


def write(file: Path, engine: dict[str, Any]) -> None:
    settings = yaml.safe_load(file.read_text()) | {
        "engines": {"judge": engine},
        # What so small a model writes may be no explanation; there are others to judge.
        "explainers": {
            "llm": {"kind": "llm", "engine": "judge", "latents": 3, "max_tokens": 32},
            "quotes": {"kind": "extractive"},
        },
        "scorers": {"detection": {"engine": "judge", "latents": 3, "activating": 4, "non_activating": 4}},
    }
    file.write_text(yaml.safe_dump(settings))


def run(file: Path) -> str:
    root = file.parents[1]
    environment = os.environ | {"INTERP_STUDIES": str(root / "studies"), "DAGSTER_HOME": str(root / "home")}
    command = [str(Path(sys.executable).with_name("interp")), "run", "tiny"]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def check_that_all_was_asked(file: Path) -> None:
    """Every distinct prompt was a call of its own: none was answered from the log."""
    freshness = Freshness(load_study(file))
    explanations = freshness.current("explanations", "embed_tokens")
    detection = freshness.current("scores/detection", "embed_tokens")
    assert explanations is not None and detection is not None
    for made, table in ((explanations, "explanations"), (detection, "trials")):
        calls = {key for keys in made.read(table)["prompt_hash"].drop_nulls() for key in keys.split()}
        assert made.metadata["llm_calls"] == len(calls) >= 3


def test_in_process_and_by_the_server(tiny_file: Path, tmp_path: Path, server: VllmServer) -> None:
    file = settle_in(tmp_path / "world", tiny_file)
    write(
        file,
        {
            "kind": "vllm",
            "path": str(WEIGHTS),
            "dtype": DTYPE,
            "max_model_len": CONTEXT,
            "kv_cache_gb": 0.5,
            "enforce_eager": True,
        },
    )
    before = {process.pid for process in vllm_processes()}
    assert "made     scores/detection[embed_tokens]" in run(file)
    assert {process.pid for process in vllm_processes()} == before
    check_that_all_was_asked(file)
    in_process = file.read_text()

    write(file, {"kind": "openai", "base_url": server.url, "model": SERVED, "concurrency": 8})
    run(file)
    check_that_all_was_asked(file)

    file.write_text(in_process)
    assert {each.state.state for each in plan(load_study(file))} == {"fresh"}, "going back costs nothing"
