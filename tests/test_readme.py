"""The README's commands do what it says: those for one's own study, and the UI on a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import polars as pl
import pytest

from interp_assets.study import PROJECT, load_study
from resources.errors import install_command
from tests.tiny import make_study, write_study

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
BIN = Path(sys.executable).parent


def commands(block: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in block.splitlines())
    return [line for line in lines if line]


LATER = [command for block in BLOCKS[2:] for command in commands(block)]
"What the README says can be done with a study that has been run."


def test_every_command_of_the_readme_is_run_somewhere() -> None:
    ci = (PROJECT / ".ci" / "run").read_text()
    own = commands(BLOCKS[1])
    for command in [command for block in BLOCKS for command in commands(block)]:
        by_ci = command in ci
        by_test = command == "make ui" or command in own or command in LATER
        assert by_ci or by_test, command
    assert len(own) <= 15


def test_messages_install_as_the_readme_does() -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("vllm", "quantized"):
        assert extra in extras and f"`{install_command(extra)}`" in README
    assert "datasets" in extras


def test_ones_own_study_in_the_readmes_words(tmp_path: Path) -> None:
    """The block is run as it stands, with tiny weights where the reader puts theirs."""
    make_study(tmp_path)
    studies = tmp_path / "studies"
    studies.mkdir()
    changes = {"explainers": {"extractive": {"kind": "extractive"}}, "scorers": {}, "engines": {}}
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"INTERP_STUDIES": str(studies), "DAGSTER_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    begin, *rest = commands(BLOCKS[1]) + LATER
    assert begin == ".venv/bin/interp init path/to/mine"
    (tmp_path / "saes").rename(tmp_path / "mine")
    given = ["--model", str(tmp_path / "model"), "--corpus", str(tmp_path / "corpus.parquet")]
    words = ["init", str(tmp_path / "mine"), *given]
    done = subprocess.run([sys.executable, "-m", "interp_assets.cli", *words], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert [layer.key for layer in load_study(studies / "mine.yaml").layers] == ["embed_tokens"]
    saes = [{"path": "mine", "hookpoints": ["embed_tokens"]}]
    write_study(studies / "mine.yaml", name="mine", saes=saes, **changes)
    printed: dict[str, str] = {}
    for command in rest:
        words = shlex.split(command.replace("layers.8", "embed_tokens"))
        assert words[0] == ".venv/bin/interp"
        done = subprocess.run(
            [sys.executable, "-m", "interp_assets.cli", *words[1:]], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        printed[words[1]] = done.stdout
    explanations = pl.scan_parquet(printed["path"].strip()).collect()
    assert (explanations["status"] == "ok").sum() >= 40
    assert printed["plan"].startswith("mine: 7 fresh")


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_make_ui_serves_the_assets_of_every_study(tmp_path: Path, port: int) -> None:
    """The recipe of `make ui` itself, on a home of its own; asked over GraphQL what it shows."""
    recipe = subprocess.run(
        ["make", "--no-print-directory", "-n", "ui", f"PORT={port}", f"BIN={BIN}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    command = recipe.stdout.strip().splitlines()[-1]
    assert "-h 127.0.0.1" in command
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    # The study as it is, but that nothing is made by itself while the test looks.
    (tmp_path / "studies").mkdir()
    study = (PROJECT / "studies" / "smollm2_demo.yaml").read_text()
    (tmp_path / "studies" / "smollm2_demo.yaml").write_text(f"{study}\nautomation: {{enabled: false}}\n")
    (tmp_path / "demo").symlink_to(PROJECT / "demo")
    command = command.replace("DAGSTER_HOME=", f"DAGSTER_HOME={tmp_path}")
    server = subprocess.Popen(  # noqa: S602
        command,
        shell=True,
        cwd=PROJECT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"INTERP_STUDIES": str(tmp_path / "studies")},
    )
    try:
        query = "{assetNodes{assetKey{path} groupName description kinds dependencyKeys{path}}}"
        nodes = {"/".join(node["assetKey"]["path"]): node for node in ask(port, query)["data"]["assetNodes"]}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    for name in ("activation_cache", "examples", "scores/fuzzing", "score_report"):
        node = nodes[f"smollm2_demo/{name}"]
        assert node["description"]
        assert node["kinds"]
    parents = {"/".join(key["path"]) for key in nodes["smollm2_demo/examples"]["dependencyKeys"]}
    assert parents == {f"smollm2_demo/{name}" for name in ("activation_cache", "corpus", "layer_matching")}


def ask(port: int, query: str) -> dict:  # type: ignore[type-arg]
    """The server's answer, once it is up and has loaded the studies."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 90
    while True:
        try:
            answer = json.loads(urllib.request.urlopen(request, timeout=10).read())  # noqa: S310 - our own server
            if answer["data"]["assetNodes"]:
                return answer
        except (OSError, KeyError, ValueError):
            pass
        assert time.monotonic() < deadline, "the UI did not come up"
        time.sleep(1)
