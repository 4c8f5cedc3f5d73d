"""What `interp run` imports, once for all commands that the tests start: importing it takes longer than they do."""

from __future__ import annotations

import os
import threading

from interp_assets.running import quiet_libraries

quiet_libraries()

import interp_assets.activations.assets
import interp_assets.cli
import interp_assets.corpus.assets
import interp_assets.dagster_runs
import interp_assets.examples.assets
import interp_assets.explanations.assets
import interp_assets.report.assets
import interp_assets.scores.assets  # noqa: F401

assert threading.active_count() == 1, "a process with threads must not be forked"
assert os.environ["HF_HUB_OFFLINE"] == "1"
