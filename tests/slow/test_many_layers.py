"""150 layers: more partitions than those beyond which Dagster no longer looks at staleness itself (100)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from interp_assets.automation import DueNow
from interp_assets.dagster_assets import asset_key, definitions_of
from interp_assets.file_watcher import watch
from interp_assets.freshness import Freshness
from interp_assets.study import Study, load_study
from tests.changed_study import changed
from tests.daemon import Daemon, dagster_home
from tests.seeded import make_up, record, seed, unmade_study

LAYERS = [f"layers.{number}" for number in range(150)]
SECONDS_A_TICK = 5


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return unmade_study(tmp_path_factory.mktemp("many"), LAYERS)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


def requested(study: Study, instance: dg.DagsterInstance) -> dict[str, int]:
    """How many partitions of each asset one tick requests; in less than five seconds."""
    condition = DueNow(study)
    definitions = definitions_of(study, condition_of=lambda _: condition)
    before = time.monotonic()
    found = dg.evaluate_automation_conditions(definitions, instance)
    assert time.monotonic() - before < SECONDS_A_TICK
    counted = {name: found.get_num_requested(asset_key(study, name)) for name in Freshness(study).assets}
    return {name: count for name, count in counted.items() if count}


def test_the_watcher_takes_them_up_in_one_tick(study: Study, instance: dg.DagsterInstance) -> None:
    first = watch(study, instance, {})
    before = time.monotonic()
    second = watch(study, instance, first.seen)
    assert time.monotonic() - before < 30
    assert [event.partition for event in second.events] == LAYERS


def test_aggregates_become_stale_through_the_condition(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    assert requested(study, instance) == {}
    freshness = Freshness(study)
    scores = freshness.assets["scores/detection"]
    make_up(freshness, scores, LAYERS[-1], content="other scores")
    assert requested(study, instance) == {"scores/detection": 1}
    record(freshness, scores, LAYERS[-1], instance)
    assert requested(study, instance) == {"score_report": 1}


def test_a_tick_with_everything_due(study: Study, instance: dg.DagsterInstance) -> None:
    file = study.file
    before = file.read_text()
    changed(file, {"examples.seed": 1}, file.name)
    assert requested(study, instance) == {"examples": 150}
    changed(file, {"examples.seed": 0, "corpus.tokens": 4096}, file.name)
    assert requested(study, instance) == {"corpus": 1}
    file.write_text(before)
    assert load_study(file) == study


def test_the_daemon_requests_what_150_layers_feed(tmp_path: Path) -> None:
    """A real daemon process on manifests that are made up: of a layer's new scores the report follows, and nothing else."""
    study = unmade_study(tmp_path, LAYERS)
    dagster_home(tmp_path)
    daemon = Daemon(tmp_path)
    seed(study, daemon.instance)
    daemon.mark()
    daemon.start()
    try:
        daemon.wait_until(lambda: "nothing is due" in daemon.said().get("tiny_automation", ""), "a first look")
        assert daemon.runs() == []
        freshness = Freshness(study)
        scores = freshness.assets["scores/detection"]
        make_up(freshness, scores, LAYERS[-1], content="other scores")
        record(freshness, scores, LAYERS[-1], daemon.instance)
        daemon.wait_until(daemon.runs, "a run of the report")
        # There are no tables behind the manifests, so the run itself can but fail.
        assert {label.split(" ")[0] for label in daemon.runs()} == {"score_report"}
        ticks = [tick for tick in daemon.ticks("tiny_automation", 20) if tick.end_timestamp]
        assert len(ticks) >= 2
        assert max(tick.end_timestamp - tick.timestamp for tick in ticks) < SECONDS_A_TICK
    finally:
        daemon.stop()
