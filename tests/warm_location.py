"""The code location of the tests: runs are forked from a process that has imported the libraries, not started anew.

All else is as in `interp_assets.definitions`: one process a run, started and watched by Dagster's code server.
"""

import multiprocessing

from dagster._grpc.server import DagsterApiServer

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.preloaded"])
DagsterApiServer._mp_ctx = property(lambda server: FORKED, lambda server, given: None)  # type: ignore[assignment]

from interp_assets.definitions import defs  # noqa: E402

__all__ = ["defs"]
