"""Shared fixtures: a tiny study on disk, and its assets made without Dagster."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# Whoever runs the tests in the background hands down an ignored SIGINT, and commands that are interrupted would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The matrices of the tests are tiny: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests keep models in memory, and with them the device's slot, while commands that they start wait for it.
os.environ["INTERP_SLOTS"] = "gpu=64,llm=64"

from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.partitions import partitions_of
from interp_assets.study import Study, load_study
from resources.language_models.given_up import GIVEN_UP
from resources.partition_files import Partition
from tests import interruptions
from tests.changed_study import changed
from tests.commands import end_all
from tests.interruptions import Story
from tests.methods_study import ADDED
from tests.oracle import OracleModels
from tests.planted_effects import INTERVENTION
from tests.tiny import make_reranker, make_sae, make_study


def make_all(study: Study, models: OracleModels | None = None) -> dict[str, Partition]:
    """Every asset of the first layer, in order."""
    models = models or OracleModels()
    made = {}
    for name, asset in Freshness(study).assets.items():
        made[name] = make_partition(study, name, partitions_of(study, asset)[0], models).partition
    return made


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file that is complete; tests that change something copy its folder."""
    return make_study(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_file: Path) -> Study:
    return load_study(tiny_file)


@pytest.fixture(scope="session")
def tiny_tables(tiny: Study) -> dict[str, Partition]:
    """The tiny study carried through, judged by the oracle."""
    return make_all(tiny)


@pytest.fixture(scope="session")
def complete_file(tiny_file: Path, tiny_tables: dict[str, Partition], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with its tables, in a folder of its own, with every section that a study can have."""
    root = tmp_path_factory.mktemp("complete") / "world"
    shutil.copytree(tiny_file.parent, root)
    make_sae(root / "saes", "layers.0")
    shutil.copytree(root / "model", root / "embedder")
    make_reranker(root / "reranker")
    additions: dict[str, Any] = {
        "explainers.quotes": {"kind": "extractive"},
        "scorers.embedding": {"model": "./embedder"},
    }
    additions |= {f"scorers.{method}": settings for method, settings in ADDED.items()}
    additions["scorers.intruder"] = {"engine": "oracle", "activating": 10, "non_activating": 10, "shown": 2}
    additions["scorers.intervention"] = INTERVENTION | {"latents": 2, "target_kl": [0.01, 0.1]}
    return changed(root / "study.yaml", additions, "study.yaml")


@pytest.fixture(scope="session")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound study of two layers without LLM parts, nothing made yet; tests copy its folder."""
    root = tmp_path_factory.mktemp("two_layers")
    make_sae(root / "saes", "layers.0")
    saes = [{"path": "saes", "hookpoints": ["embed_tokens", "layers.0"]}]
    return make_study(root, saes=saes, engines={}, explainers={"quotes": {"kind": "extractive"}}, scorers={})


@pytest.fixture(scope="session")
def long_study(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interruptions.long_study(two_layers, tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="session")
def stories(long_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Story]]]:
    """What happens to commands that are stopped; told in the background, since starting them takes long."""
    with ThreadPoolExecutor(1) as pool:
        told = {}
        for tell in (interruptions.full_disk_then_killed, interruptions.interrupted):
            root = interruptions.copy_of(long_study, tmp_path_factory.mktemp(tell.__name__) / "world")
            told[tell.__name__] = pool.submit(tell, root)
        yield told
        pool.shutdown(wait=False, cancel_futures=True)
        end_all()


@pytest.fixture(autouse=True)
def no_server_given_up() -> Iterator[None]:
    """A process remembers servers that it waited for in vain, and tests share one."""
    yield
    GIVEN_UP.clear()


@pytest.fixture(scope="session", autouse=True)
def begin_early(request: pytest.FixtureRequest) -> None:
    """The stories begin with the session where a test of it asks for them."""
    if any("stories" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("stories")
