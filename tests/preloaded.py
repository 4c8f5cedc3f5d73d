"""What `interp run` imports, once for all commands that the tests start: importing it takes longer than they do."""

from __future__ import annotations

import importlib
import os
import threading

from interp_assets.running import quiet_libraries

quiet_libraries()
for stage in ("activations", "corpus", "examples", "explanations", "report", "scores"):
    importlib.import_module(f"interp_assets.{stage}.assets")
importlib.import_module("interp_assets.dagster_runs")

assert threading.active_count() == 1, "a process with threads must not be forked"
assert os.environ["HF_HUB_OFFLINE"] == "1"
