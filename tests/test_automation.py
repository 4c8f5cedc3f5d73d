"""What the automation requests, on made-up studies and a Dagster instance of their own; the daemon is in `slow`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from interp_assets import automation, due
from interp_assets.automation import DueNow, automation_allowed, automation_of, study_is_held
from interp_assets.dagster_assets import WHY_TAG, asset_key, definitions_of, set_up_pools
from interp_assets.definitions import load_all
from interp_assets.due import FINGERPRINT_TAG, TRY_TAG, Outlook
from interp_assets.freshness import Freshness
from interp_assets.partitions import partitions_of
from interp_assets.run_processes import PROCESS_TAG, end_runs_of_killed_processes, process_name
from interp_assets.running import STUDY_LEASE, study_lease
from interp_assets.study import Study, load_study
from tests.changed_study import changed
from tests.seeded import make_up, read_all_files, record, seed, unmade_study
from tests.tiny import make_sae

LAYERS = ["embed_tokens", "layers.0", "layers.1"]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return unmade_study(tmp_path, LAYERS)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "home")) as instance:
        yield instance


def requested(study: Study, instance: dg.DagsterInstance) -> list[str]:
    """What Dagster's own evaluation of the condition requests."""
    condition = DueNow(study)
    result = dg.evaluate_automation_conditions(definitions_of(study, condition_of=lambda _: condition), instance)
    return [
        f"{asset.name}[{layer}]" if layer else asset.name
        for asset in Freshness(study).assets.values()
        for layer in partitions_of(study, asset)
        if layer in result.get_requested_partitions(asset_key(study, asset.name))
    ]


def of(asset: str, *layers: str) -> list[str]:
    return [f"{asset}[{layer}]" for layer in layers or LAYERS]


def edit(study: Study, **settings: object) -> None:
    changed(study.file, {key.replace("__", "."): value for key, value in settings.items()}, study.file.name)


def a_run(
    study: Study, instance: dg.DagsterInstance, asset: str, layer: str | None, status: dg.DagsterRunStatus, **tags: str
) -> dg.DagsterRun:
    """A run of one partition that has come as far as `status`."""
    job = definitions_of(study).resolve_implicit_global_asset_job_def()
    key = asset_key(study, asset)
    run = instance.create_run_for_job(
        job.get_subset(asset_selection={key}),
        tags=tags | ({"dagster/partition": layer} if layer else {}),
        asset_selection=frozenset({key}),
        status=dg.DagsterRunStatus.STARTED,
    )
    end(instance, run, status)
    return run


def end(instance: dg.DagsterInstance, run: dg.DagsterRun, status: dg.DagsterRunStatus) -> None:
    if status == dg.DagsterRunStatus.FAILURE:
        instance.report_run_failed(run)
    elif status == dg.DagsterRunStatus.CANCELED:
        instance.report_run_canceled(run)
    elif status == dg.DagsterRunStatus.SUCCESS:
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
        instance.report_dagster_event(event, run.run_id)


STARTED, SUCCESS = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS
FAILURE, CANCELED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED


def test_nothing_is_due_where_all_is_made_and_recorded(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    assert requested(study, instance) == []


def test_a_chain_is_requested_step_by_step(study: Study, instance: dg.DagsterInstance) -> None:
    """Each asset waits for what it is made from; the report for all."""
    seed(study, instance, until="corpus")
    steps = []
    while step := requested(study, instance):
        steps.append(step)
        freshness = Freshness(study)
        for label in step:
            name, _, layer = label.partition("[")
            make_up(freshness, freshness.assets[name], layer.rstrip("]") or None)
            record(freshness, freshness.assets[name], layer.rstrip("]") or None, instance)
    assert steps == [
        ["corpus"],
        of("activation_cache"),
        [*of("latent_statistics"), *of("examples")],
        of("explanations"),
        [*of("scores/detection"), *of("scores/fuzzing")],
        ["score_report"],
    ]


def test_a_setting_concerns_what_reads_it(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    edit(study, scorers__detection__activating=9)
    assert requested(study, instance) == of("scores/detection")
    edit(study, scorers__detection__activating=10)
    assert requested(study, instance) == []


def test_what_dagster_has_no_record_of_is_requested(study: Study, instance: dg.DagsterInstance) -> None:
    """A harvest, or an `interp run` on another instance, made it; its own run only records."""
    seed(study, instance)
    freshness = Freshness(study)
    explanations = freshness.assets["explanations"]
    make_up(freshness, explanations, "layers.0", content="other words")
    assert requested(study, instance) == of("explanations", "layers.0")
    record(freshness, explanations, "layers.0", instance)
    assert requested(study, instance) == of("scores/detection", "layers.0") + of("scores/fuzzing", "layers.0")


def test_a_change_during_a_run_is_not_lost(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    run = a_run(study, instance, "examples", "layers.0", STARTED)
    edit(study, examples__seed=1)
    assert requested(study, instance) == of("examples", "embed_tokens", "layers.1")
    end(instance, run, SUCCESS)
    assert requested(study, instance) == of("examples")


def test_what_reads_a_running_partition_waits(study: Study, instance: dg.DagsterInstance) -> None:
    """Across partitions that are fresh themselves."""
    seed(study, instance)
    run = a_run(study, instance, "activation_cache", "layers.0", STARTED)
    edit(study, scorers__detection__activating=9)
    assert requested(study, instance) == of("scores/detection", "embed_tokens", "layers.1")
    end(instance, run, SUCCESS)
    assert requested(study, instance) == of("scores/detection")


def test_a_failed_input_holds_its_layer_and_the_report_goes_on(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    edit(study, proof_of_load__tokens=512)
    current = load_study(study.file)
    freshness = Freshness(current)
    cache = freshness.assets["activation_cache"]
    for layer in LAYERS[1:]:
        make_up(freshness, cache, layer)
        record(freshness, cache, layer, instance)
    fingerprint = freshness.fingerprint(cache, LAYERS[0]).value
    freshness.store.write_note("failed", "activation_cache", LAYERS[0], fingerprint, {"reason": "bad weights"})
    assert requested(study, instance) == ["score_report"]
    freshness.store.remove_note("failed", "activation_cache", LAYERS[0], fingerprint)
    assert requested(study, instance) == of("activation_cache", LAYERS[0])


@pytest.fixture
def undone(study: Study, instance: dg.DagsterInstance) -> tuple[str, str]:
    """A study in which only the fuzzing scores of one layer are to be made: its layer, its fingerprint."""
    seed(study, instance)
    freshness = Freshness(study)
    partition = freshness.current("scores/fuzzing", "layers.0")
    assert partition is not None
    (partition.folder / "manifest.json").unlink()
    assert requested(study, instance) == of("scores/fuzzing", "layers.0")
    return "layers.0", partition.fingerprint


def fail(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str], attempt: int, status: Any = FAILURE
) -> None:
    layer, fingerprint = undone
    tags = {FINGERPRINT_TAG: fingerprint, TRY_TAG: str(attempt)}
    a_run(study, instance, "scores/fuzzing", layer, status, **tags)


def test_three_tries_with_growing_pauses(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    passed = 0.0
    monkeypatch.setattr(due.time, "time", lambda: now + passed)
    monkeypatch.setattr(due, "BACK_OFF_SECONDS", 60)
    for attempt, pause in ((1, 60), (2, 300)):
        fail(study, instance, undone, attempt)
        passed = pause - 10
        assert requested(study, instance) == []
        passed = pause + 10
        outlook = Outlook(study, instance)
        assert [(each.asset, each.attempt) for each in outlook.due] == [("scores/fuzzing", attempt + 1)]
        passed = 0
    fail(study, instance, undone, 3)
    passed = 1e6
    outlook = Outlook(study, instance)
    assert outlook.given_up == of("scores/fuzzing", "layers.0")
    # The report waits no longer, and shows what is missing.
    assert [each.asset for each in outlook.due] == ["score_report"]

    # The schedule begins anew; so does another fingerprint.
    assert [each.attempt for each in Outlook(study, instance, forget_failures=True).due] == [1]
    edit(study, scorers__fuzzing__activating=9)
    outlook = Outlook(load_study(study.file), instance)
    assert {(each.partition, each.attempt) for each in outlook.due} == {(layer, 1) for layer in LAYERS}


def test_a_cancelled_run_is_not_started_again(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "BACK_OFF_SECONDS", 0)
    fail(study, instance, undone, 1)
    assert requested(study, instance) == of("scores/fuzzing", "layers.0")
    fail(study, instance, undone, 2, CANCELED)
    assert requested(study, instance) == ["score_report"]


def test_no_loop_of_runs_that_succeed(study: Study, instance: dg.DagsterInstance, undone: tuple[str, str]) -> None:
    for _ in range(due.RUNS_AN_HOUR - 1):
        fail(study, instance, undone, 1, SUCCESS)
    assert requested(study, instance) == of("scores/fuzzing", "layers.0")
    fail(study, instance, undone, 1, SUCCESS)
    assert requested(study, instance) == ["score_report"]


def test_runs_of_other_partitions_do_not_count(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str]
) -> None:
    """Control for the above; another study can share a fingerprint."""
    tags = {FINGERPRINT_TAG: undone[1], TRY_TAG: "3"}
    a_run(study, instance, "scores/detection", "layers.0", FAILURE, **tags)
    a_run(study, instance, "scores/fuzzing", "layers.1", FAILURE, **tags)
    a_run(study, instance, "scores/fuzzing", "layers.0", FAILURE)
    assert requested(study, instance) == of("scores/fuzzing", "layers.0")


def test_files_that_the_watcher_has_yet_to_read(study: Study, instance: dg.DagsterInstance) -> None:
    """Nothing is read in a tick; the layer waits, the others go on, and the report waits for it."""
    seed(study, instance)
    edit(study, scorers__detection__activating=9)
    os.utime(study.root / "saes" / "layers.0" / "sae.safetensors")
    before = (study.root / "store" / "file_hashes.json").read_bytes()
    assert requested(study, instance) == of("scores/detection", "embed_tokens", "layers.1")
    assert Outlook(load_study(study.file), instance).verdicts["score_report", None] == "moving"
    assert (study.root / "store" / "file_hashes.json").read_bytes() == before
    read_all_files(study)
    assert requested(study, instance) == of("scores/detection")


def test_a_file_that_cannot_be_read_holds_its_layer_only(
    study: Study, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(study, instance)
    os.utime(study.root / "saes" / "layers.0" / "sae.safetensors")
    monkeypatch.setattr(due.os, "access", lambda file, mode: "layers.0" not in str(file))
    edit(study, scorers__detection__activating=9)
    assert requested(study, instance) == of("scores/detection", "embed_tokens", "layers.1")
    verdicts = Outlook(load_study(study.file), instance).verdicts
    assert (verdicts["sae_weights", "layers.0"], verdicts["scores/fuzzing", "layers.0"]) == ("held", "held")


def test_sae_weights_are_left_to_the_watcher(study: Study, instance: dg.DagsterInstance) -> None:
    read_all_files(study)
    assert requested(study, instance) == ["corpus"]


# The sensor and the schedule


def tick(study: Study, instance: dg.DagsterInstance, name: str, cursor: str | None = None) -> Any:
    """One tick of a sensor, as the code server evaluates it."""
    condition = DueNow(study)
    defs = dg.Definitions.merge(
        definitions_of(study, condition_of=lambda _: condition), automation_of(study, condition)
    )
    repository = defs.get_repository_def()
    sensor = repository.get_sensor_def(name)
    context = dg.build_sensor_context(instance, cursor=cursor, repository_def=repository, sensor_name=name)
    return sensor.evaluate_tick(context)


def test_each_partition_gets_a_run_of_its_own_that_says_why(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    edit(study, scorers__detection__activating=9, scorers__fuzzing__activating=9)
    found = tick(study, instance, "tiny_automation")
    runs = {(run.asset_selection[0], run.partition_key): run for run in found.run_requests}
    assert len(found.run_requests) == len(runs) == 2 * len(LAYERS)
    assert all(len(run.asset_selection) == 1 for run in found.run_requests)
    freshness = Freshness(load_study(study.file))
    asset = freshness.assets["scores/detection"]
    run = runs[asset_key(study, asset.name), "layers.0"]
    assert run.tags["dagster/partition"] == "layers.0"
    assert run.tags[WHY_TAG] == "scorer.activating: 10 -> 9"
    assert run.tags[FINGERPRINT_TAG] == freshness.fingerprint(asset, "layers.0").value
    assert run.tags[TRY_TAG] == "1"
    assert {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()} == {"gpu": 1, "llm": 1}


def test_where_nothing_is_requested_the_sensor_says_how_things_stand(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str]
) -> None:
    fail(study, instance, undone, 3)
    freshness = Freshness(study)
    make_up(freshness, freshness.assets["score_report"], None)
    record(freshness, freshness.assets["score_report"], None, instance)
    said = tick(study, instance, "tiny_automation").skip_message
    assert said == "nothing is due; given up until the schedule or a change: scores/fuzzing[layers.0]"
    a_run(study, instance, "scores/detection", "layers.1", STARTED)
    said = tick(study, instance, "tiny_automation").skip_message
    assert said.startswith("being made or waiting for others: 2; given up")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"saes.0.hookpoints": [*LAYERS, "layers.2"]}, "new layers: layers.2"),
        ({"saes.0.hookpoints": LAYERS[:2]}, "layers that are gone: layers.1"),
        ({"scorers.embedding": {"model": "./model"}}, "new assets: scores/embedding"),
        ({"name": "other"}, "the study is called other now"),
    ],
)
@pytest.mark.parametrize("sensor", ["tiny_automation", "tiny_files"])
def test_what_was_not_loaded_is_not_requested(
    study: Study, instance: dg.DagsterInstance, sensor: str, settings: dict[str, Any], said: str
) -> None:
    seed(study, instance)
    make_sae(study.root / "saes", "layers.2")
    changed(study.file, settings | {"examples.seed": 1}, study.file.name)
    found = tick(study, instance, sensor)
    assert found.skip_message == f"{said}; reload the code location (in the UI: Deployment, Reload)"
    assert not found.run_requests
    assert not found.asset_events
    assert requested(study, instance) == []
    reloaded = load_study(study.file)
    assert "reload" not in (tick(reloaded, instance, f"{reloaded.name}_automation").skip_message or "")


def test_other_code_on_disk_pauses_the_automation(
    study: Study, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(study, instance)
    edit(study, examples__seed=1)
    assert tick(study, instance, "tiny_automation").run_requests
    wording = automation.PROJECT / "interp_assets" / "explanations" / "wording.py"
    monkeypatch.setitem(automation.LOADED_CODE, wording, "another")
    said = tick(study, instance, "tiny_automation").skip_message
    assert "the code on disk (interp_assets/explanations/wording.py) is not the one that was loaded; reload" in said


def test_all_code_that_decides_freshness_is_watched() -> None:
    """What a fresh process loads to tell fingerprints."""
    listing = (
        "import sys; import interp_assets.freshness, interp_assets.graph; "
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith(('interp_assets', 'resources'))), sep='\\n')"
    )
    found = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout
    decide = {Path(file) for file in found.splitlines()}
    assert automation.PROJECT / "resources" / "language_models" / "protocol.py" in decide
    assert decide <= set(automation.LOADED_CODE)


def test_operational_settings_need_no_reload(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    edit(study, subject_model__batch_tokens=64, engines__oracle__batch_size=2)
    assert tick(study, instance, "tiny_automation").skip_message == "nothing is due"
    edit(study, automation__watch_seconds=5)
    said = tick(study, instance, "tiny_automation").skip_message
    assert said == "nothing is due; new settings of the automation take effect with a reload"


def test_a_study_that_cannot_be_read_or_is_switched_off(study: Study, instance: dg.DagsterInstance) -> None:
    seed(study, instance)
    edit(study, examples__seed=1, automation__enabled=False)
    assert tick(study, instance, "tiny_automation").skip_message == "automation.enabled is false"
    edit(study, automation__enabled=True)
    assert tick(study, instance, "tiny_automation").run_requests
    study.file.write_text("saes: [")
    for sensor in ("tiny_automation", "tiny_files"):
        said = tick(study, instance, sensor).skip_message
        assert "not valid YAML" in said
        assert str(study.file) in said


def test_the_schedule_requests_what_was_given_up(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str]
) -> None:
    fail(study, instance, undone, 3)
    definitions = dg.Definitions.merge(definitions_of(study), automation_of(study, DueNow(study)))
    repository = definitions.get_repository_def()
    schedule = repository.get_schedule_def("tiny_check")
    assert schedule.cron_schedule == "0 3 * * *"
    context = dg.build_schedule_context(
        instance, scheduled_execution_time=datetime(2026, 1, 1, 3, tzinfo=UTC), repository_def=repository
    )
    edit(study, corpus__tokens=4096)
    found = schedule.evaluate_tick(context).run_requests
    assert [(run.asset_selection, run.partition_key) for run in found] == [([asset_key(study, "corpus")], None)]
    edit(study, corpus__tokens=8192)
    (run,) = schedule.evaluate_tick(context).run_requests
    assert (run.asset_selection, run.partition_key) == ([asset_key(study, "scores/fuzzing")], "layers.0")
    assert run.tags[TRY_TAG] == "1"
    assert run.tags["dagster/partition"] == "layers.0"


def test_no_schedule_where_none_is_wanted(study: Study) -> None:
    edit(study, automation__schedule=None)
    current = load_study(study.file)
    assert not list(automation_of(current, DueNow(current)).schedules or ())


# Around the runs


def test_a_run_whose_process_is_gone_is_asked_for_again(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a loss of power: nobody was left to say that it had failed."""
    monkeypatch.setattr(due, "BACK_OFF_SECONDS", 0)
    tags = {FINGERPRINT_TAG: undone[1], TRY_TAG: "1"}
    alive = {PROCESS_TAG: process_name(psutil.Process())}
    run = a_run(study, instance, "scores/fuzzing", "layers.0", STARTED, **tags, **alive)
    assert not tick(study, instance, "tiny_automation").run_requests
    instance.add_run_tags(run.run_id, {PROCESS_TAG: f"{socket.gethostname()} 1 1.00"})
    (again,) = tick(study, instance, "tiny_automation").run_requests
    assert again.tags[TRY_TAG] == "2"


def test_pools_keep_the_limit_that_somebody_chose(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots("gpu", 4)
    set_up_pools(instance)
    set_up_pools(instance)
    assert {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()} == {"gpu": 4, "llm": 1}


def test_a_run_carried_out_again_is_not_taken_for_the_first(study: Study, instance: dg.DagsterInstance) -> None:
    """It inherits the tag that names the process of the first, which is dead."""
    dead = {PROCESS_TAG: f"{socket.gethostname()} 1 1.00"}
    first = a_run(study, instance, "corpus", None, STARTED, **dead)
    job = definitions_of(study).resolve_implicit_global_asset_job_def()
    again = instance.create_run_for_job(
        job, tags=dead, status=STARTED, parent_run_id=first.run_id, root_run_id=first.run_id
    )
    end_runs_of_killed_processes(instance)
    statuses = [instance.get_run_by_id(run.run_id).status for run in (first, again)]  # type: ignore[union-attr]
    assert statuses == [FAILURE, STARTED]


def test_a_materialisation_says_why_and_from_what(study: Study, instance: dg.DagsterInstance) -> None:
    edit(study, corpus__tokens=256)
    job = definitions_of(study).resolve_implicit_global_asset_job_def()
    key = asset_key(study, "corpus")
    shown = []
    for tags in ({WHY_TAG: "the corpus is new"}, {}):
        run = job.execute_in_process(instance=instance, asset_selection=[key], tags=tags)
        (event,) = run.asset_materializations_for_node("tiny__corpus")
        shown.append({name: value.value for name, value in event.metadata.items()})
        assert PROCESS_TAG in instance.get_run_by_id(run.run_id).tags  # type: ignore[union-attr]
    first, again = shown
    assert (first["why"], first["asked_for_because"], first["reused"]) == ("never made", "the corpus is new", False)
    assert (again["why"], again["asked_for_because"], again["reused"]) == ("never made", "asked for by hand", True)
    assert first["fingerprint"] == again["fingerprint"]
    assert set(first["inputs"]) == {"corpus", "tokenizer"}
    assert first["versions"]["dagster"] == again["versions"]["dagster"] == dg.__version__


def test_a_study_with_pairs_of_layers_loads(tmp_path: Path) -> None:
    """No job may be built of assets with layers and with pairs: Dagster refuses it, and with it the whole location."""
    study = unmade_study(tmp_path, ["layers.0", "layers.1"], alignment={})
    repository = load_all(study.file.parent).get_repository_def()
    repository.load_all_definitions()
    assert repository.get_schedule_def("tiny_check").job_name == "__ASSET_JOB"
    graph = repository.asset_graph
    pairs = graph.get(asset_key(study, "layer_matching")).partitions_def
    assert pairs is not None
    assert pairs.get_partition_keys() == ["layers.0__layers.1"]


def test_what_costs_money_needs_a_budget_and_a_persons_first_run(study: Study) -> None:
    assert automation_allowed(study) is None  # control: nothing here has a price
    edit(study, engines__oracle__price={"input": 1.0})
    assert "has a price: the automation needs a budget" in str(automation_allowed(load_study(study.file)))
    edit(study, budget={"money": 5.0})
    assert f"begins after one completed interp run {study.file}" in str(automation_allowed(load_study(study.file)))
    seed(load_study(study.file))
    assert automation_allowed(load_study(study.file)) is None


def test_nothing_is_requested_while_an_interp_run_is_at_the_study(
    study: Study, instance: dg.DagsterInstance, undone: tuple[str, str]
) -> None:
    assert undone
    with study_lease(study).acquire(STUDY_LEASE):
        assert not tick(study, instance, "tiny_automation").run_requests
        assert "an interp run is at it" in str(study_is_held(study))
    assert tick(study, instance, "tiny_automation").run_requests
