"""The automation: per study a sensor that requests what is due, one that watches files, and a schedule.

They request what `due.py` finds, under Dagster's daemon. Settings are read from the study's file at every tick, as in
every run; where that file asks for other assets than those that were loaded, nothing is requested until a reload.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from weakref import WeakKeyDictionary

import dagster as dg
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.definitions.sensor_definition import SensorExecutionData

from interp_assets.dagster_assets import WHY_TAG, asset_key, set_up_pools
from interp_assets.due import FINGERPRINT_TAG, TRY_TAG, Due, Outlook, ReadFiles
from interp_assets.file_watcher import watch
from interp_assets.freshness import Freshness, partition_label
from interp_assets.graph import assets_of
from interp_assets.run_processes import end_runs_of_killed_processes
from interp_assets.running import STUDY_LEASE, study_lease
from interp_assets.setting_errors import StudyError
from interp_assets.study import PROJECT, Study, load_study

warnings.filterwarnings("ignore", message=".*use_user_code_server", category=dg.BetaWarning)

WHY_LENGTH = 250
"Characters of a reason that fit a run's tag."


class Paused(Exception):
    """The automation requests nothing for a study at present; the message says why."""


def code_on_disk(file: Path) -> str:
    """A hash of a module's file; empty where it is gone."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def project_modules() -> list[Path]:
    """Files of the project's modules that this process has loaded: among them all that decide freshness."""
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    folders = [PROJECT / name for name in ("interp_assets", "resources")]
    files = [Path(file).resolve() for file in loaded if file is not None]
    return sorted({file for file in files if any(folder in file.parents for folder in folders)})


LOADED_CODE = {file: code_on_disk(file) for file in project_modules()}
"A run loads all of it anew, while a sensor keeps what it was loaded with."


def current_study(loaded: Study) -> Study:
    """The study as its file says now.

    Raises:
        Paused: it cannot be read, it needs a reload, its automation is off, or an `interp run` is at it.
    """
    try:
        study = load_study(loaded.file)
    except StudyError as error:
        raise Paused(str(error)) from None
    if why_not := reload_needed(loaded, study) or automation_allowed(study) or study_is_held(study):
        raise Paused(why_not)
    return study


def reload_needed(loaded: Study, study: Study) -> str | None:
    """What differs from what was loaded, in words; else None. Sensor and run would disagree about such a study."""
    differs: list[str] = []
    if other := [str(file.relative_to(PROJECT)) for file, code in LOADED_CODE.items() if code_on_disk(file) != code]:
        differs.append(f"the code on disk ({', '.join(other)}) is not the one that was loaded")
    if study.name != loaded.name:
        differs.append(f"the study is called {study.name} now")
    for kind, before, after in (
        ("layers", [layer.key for layer in loaded.layers], [layer.key for layer in study.layers]),
        ("assets", list(assets_of(loaded)), list(assets_of(study))),
    ):
        differs += [f"new {kind}: {', '.join(new)}"] if (new := [x for x in after if x not in before]) else []
        differs += (
            [f"{kind} that are gone: {', '.join(gone)}"] if (gone := [x for x in before if x not in after]) else []
        )
    return f"{'; '.join(differs)}; reload the code location (in the UI: Deployment, Reload)" if differs else None


def automation_allowed(study: Study) -> str | None:
    """Why a study's automation must not do anything, or None. What costs money needs a limit, and a person's first word."""
    if study.automation.enabled is False:
        return "automation.enabled is false"
    priced = [name for name, engine in study.engines.items() if engine.price is not None]
    if not priced:
        return None
    if study.budget is None:
        return f"engine {priced[0]} has a price: the automation needs a budget in {study.file}"
    if Freshness(study, ReadFiles).store.pointer(study.name, "score_report", None) is None:
        return f"engine {priced[0]} has a price: the automation begins after one completed interp run {study.called}"
    return None


def study_is_held(study: Study) -> str | None:
    """Why a study is left alone at present, or None."""
    holder = study_lease(study).holder(STUDY_LEASE)
    return f"an interp run is at it: {holder}" if holder else None


class DueNow(dg.AutomationCondition):
    """A partition is due now, no other that it is made from is due or running, and nothing speaks against a run."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._outlooks: WeakKeyDictionary[AssetGraphView, Outlook | None] = WeakKeyDictionary()
        self.outlook: Outlook | None = None
        "What the latest tick saw."

    @property
    def name(self) -> str:
        return "due now"

    @property
    def description(self) -> str:
        return "missing, stale or not recorded; nothing that it is made from is due or running; not failed for good"

    @property
    def requires_cursor(self) -> bool:
        return False

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        outlook, view = self._look(context.asset_graph_view), context.asset_graph_view
        asset = "/".join(context.key.path[1:])
        found = outlook.requested(asset) if outlook else set()
        if context.partitions_def is None:
            subset = view.get_full_subset(key=context.key) if found else context.get_empty_subset()
        else:
            layers = {layer for layer in found if layer is not None}
            subset = view.get_subset_from_partition_keys(context.key, context.partitions_def, layers)
        return dg.AutomationResult(context, subset)

    def _look(self, tick: AssetGraphView) -> Outlook | None:
        """One look for all assets of a tick."""
        if tick not in self._outlooks:
            try:
                self.outlook = Outlook(current_study(self.study), tick.instance)
            except Paused:
                self.outlook = None
            self._outlooks[tick] = self.outlook
        return self._outlooks[tick]


class DueSensor(dg.AutomationConditionSensorDefinition):
    """Evaluates the condition for all assets of a study, and requests each partition in a run of its own."""

    def __init__(self, study: Study, condition: DueNow) -> None:
        self.study = study
        self.condition = condition
        super().__init__(
            f"{study.name}_automation",
            target=whole(study),
            description=f"Requests what is due in {study.name}.",
            minimum_interval_seconds=study.automation.watch_seconds,
            default_status=dg.DefaultSensorStatus.RUNNING,
            emit_backfills=False,
            use_user_code_server=True,
        )

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        try:
            study = current_study(self.study)
        except Paused as paused:
            return SensorExecutionData(skip_message=str(paused), cursor=context.cursor)
        set_up_pools(context.instance)
        end_runs_of_killed_processes(context.instance)
        found = super().evaluate_tick(context)
        outlook = self.condition.outlook
        due = {(asset_key(self.study, each.asset), each.partition): each for each in outlook.due} if outlook else {}
        requests = [
            request.with_replaced_attrs(
                asset_selection=[key],
                asset_check_keys=[check for check in request.asset_check_keys or () if check.asset_key == key],
                tags={**request.tags, **tags_of(due[key, request.partition_key])},
            )
            for request in found.run_requests or ()
            for key in request.asset_selection or ()
        ]
        said = None if requests or outlook is None else in_words(outlook)
        if said and study.automation != self.study.automation:
            said += "; new settings of the automation take effect with a reload"
        return SensorExecutionData(
            requests,
            said,
            found.cursor,
            log_key=found.log_key,
            automation_condition_evaluations=found.automation_condition_evaluations,
        )


def whole(study: Study) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(asset_key(study, name) for name in assets_of(study)))


def tags_of(due: Due) -> dict[str, str]:
    return {WHY_TAG: due.why[:WHY_LENGTH], FINGERPRINT_TAG: due.fingerprint, TRY_TAG: str(due.attempt)}


def in_words(outlook: Outlook) -> str:
    """How things stand where nothing is requested."""
    waiting = sum(verdict == "moving" for verdict in outlook.verdicts.values())
    said = f"being made or waiting for others: {waiting}" if waiting else "nothing is due"
    given_up = ", ".join(outlook.given_up)
    return said + (f"; given up until the schedule or a change: {given_up}" if given_up else "")


def watcher(study: Study) -> dg.SensorDefinition:
    """The sensor that looks at the files of a study."""

    @dg.sensor(
        name=f"{study.name}_files",
        target=dg.AssetSelection.assets(asset_key(study, "sae_weights")),
        description=f"Looks at the SAEs and other files of {study.name}; makes sae_weights where one has changed.",
        minimum_interval_seconds=study.automation.watch_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def files(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before = json.loads(context.cursor or "{}")
        try:
            found = watch(current_study(study), context.instance, before)
        except Paused as paused:
            return dg.SensorResult(skip_reason=str(paused), cursor=context.cursor)
        said = "; ".join(found.notes) or "nothing has changed"
        return dg.SensorResult(skip_reason=said, cursor=json.dumps(found.seen), asset_events=found.events)

    return files


def schedule(study: Study, cron: str) -> dg.ScheduleDefinition:
    """The schedule that checks everything, what was given up included."""

    @dg.schedule(
        name=f"{study.name}_check",
        cron_schedule=cron,
        job_name=IMPLICIT_ASSET_JOB_NAME,  # the job of all assets: one of its own could not hold layers and pairs
        description=f"Requests what is due in {study.name}, what was given up included.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def check(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        try:
            outlook = Outlook(current_study(study), context.instance, forget_failures=True)
        except Paused as paused:
            return dg.SkipReason(str(paused))
        time = context.scheduled_execution_time.isoformat()
        requests = [
            dg.RunRequest(
                run_key=f"{time} {partition_label(due.asset, due.partition)}",
                asset_selection=[asset_key(study, due.asset)],
                partition_key=due.partition,
                tags=tags_of(due),
            )
            for due in outlook.due
        ]
        return requests or dg.SkipReason("nothing is due")

    return check


def automation_of(study: Study, condition: DueNow) -> dg.Definitions:
    cron = study.automation.schedule
    return dg.Definitions(
        sensors=[DueSensor(study, condition), watcher(study)], schedules=[schedule(study, cron)] if cron else []
    )
