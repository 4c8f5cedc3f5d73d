"""`interp doctor STUDY --judge`: what a study's judges are worth where the answers are known, before they cost money.

Each engine that detection or fuzzing asks is asked about planted concepts (`planted/concepts.yaml`) in the study's own
prompts and protocol. Replies go through the reply log like all others: asked again, nothing is paid twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from interp_assets.doctor import line
from interp_assets.forecast import Forecast, of_requests
from interp_assets.freshness import Freshness
from interp_assets.job import Inputs, say_waiting
from interp_assets.models import logged_engine
from interp_assets.planted.concepts import concepts, rendering
from interp_assets.planted.exam import Exam, graded, subjects
from interp_assets.progress import Progress
from interp_assets.scores.calibration import SINGLE, of_size
from interp_assets.scores.judged import Judged
from interp_assets.scores.methods import methods_of
from interp_assets.scores.trials import Subject
from interp_assets.study import Study
from resources.errors import NotNow, UnusableInput
from resources.language_models.logged import LoggedEngine
from resources.language_models.protocol import require
from resources.loaded_models import LoadedModels

TEXTS = 5
"Of each concept that carry it, and as many that do not: 120 trials a method."
GOOD, USABLE = 0.9, 0.75
"AUROC from which single latents can be told apart, and from which means over latents can."
MOST_BIAS = 0.15
"By which the share of Yes may differ from one half."


def examine_judges(study: Study) -> int:
    """Print what was found; 1 where a judge is not there or no better than chance."""
    asked = [method for method in methods_of(study).values() if isinstance(method, Judged)]
    if not asked:
        line("judge", "none: neither detection nor fuzzing is among the study's scorers")
        return 0
    models, faults = LoadedModels(), 0
    line("study", f"{study.name}: {study.file}")
    for name in dict.fromkeys(method.engine for method in asked):
        slots = ["gpu", "llm"] if study.engines[name].in_process else ["llm"]
        try:
            with models.slots(slots, f"interp doctor {study.name}", say_waiting):
                for method in (each for each in asked if each.engine == name):
                    faults += not examine_judge(Freshness(study), models, planted(method))
        except (NotNow, UnusableInput) as error:
            line(f"judge {name}", f"not usable: {error}")
            faults += 1
        finally:
            models.release()
    return 1 if faults else 0


def planted(method: Judged) -> Judged:
    """The method as it asks about the planted concepts: all of their trials, shown by words."""
    settings = of_size(method.settings, SINGLE) if method.settings.list_sizes else method.settings
    changes = {"activating": TEXTS, "non_activating": TEXTS, "sequential": None}
    found = type(method)(method.study, settings.model_copy(update=changes))
    found.rendering = rendering()
    return found


def examine_judge(freshness: Freshness, models: LoadedModels, method: Judged) -> bool:
    """Whether the judge is better than chance."""
    label, study = f"judge {method.engine}", freshness.study
    model, asked = logged_engine(freshness, models, method.engine), subjects(method.trials, TEXTS)
    inputs = Inputs(study, freshness.assets[f"scores/{method.name}"], study.layers[0].key, freshness)
    work = of_requests(inputs, method.engine, [*method.requests(asked)])
    said = in_prospect(work, study.engines[method.engine].price is not None)
    line(label, f"{method.name}: {len(concepts())} planted concepts, {said}")
    for verb in method.verbs:
        require(model, verb, f"scorers.{method.name}.engine")
    exam, seconds = answered(asked, method, model)
    for said in in_words(exam, seconds):
        line(label, f"{method.name}: {said}")
    bad, verdict = verdict_on(exam)
    line(label, f"{method.name}: {verdict}")
    return not bad


def in_prospect(work: Forecast, priced: bool) -> str:
    """What asking will take."""
    calls, most = work.llm_calls or 0, "" if work.exact else "about "
    said = f"{calls + work.replies_reused:,} calls"
    said += f", {work.replies_reused:,} of them answered in the log already" if work.replies_reused else ""
    said += f"; {most}{work.prompt_tokens or 0:,} prompt tokens for the rest" if calls else ""
    return f"{said}, at most {work.cost or 0:,.2f} at the study's prices" if priced and calls else said


def answered(asked: list[Subject], method: Judged, model: LoggedEngine) -> tuple[Exam, float | None]:
    """What the answers are worth, and the seconds that a trial took; None where all came from the log."""
    total = sum(trial.left_out is None for subject in asked for trial in subject.trials)
    began = time.monotonic()
    with Progress(f"judge {method.engine} {method.name}", total, "trials") as progress:
        method.ask(asked, model, progress.advance)
    exam = graded(asked)
    # Of a list's calls each answers several trials.
    share = model.calls_made / max(1, model.calls_made + model.replies_reused)
    return exam, (time.monotonic() - began) / (share * exam.trials) if share else None


def in_words(exam: Exam, seconds: float | None) -> Iterator[str]:
    auroc = exam.auroc
    took = "" if seconds is None else f"; {seconds:.2g} s a trial"
    failed = f", {exam.failed} of them not answered" if exam.failed else ""
    yield (
        f"AUROC {auroc.value:.2f} (95 % interval {auroc.low:.2f} to {auroc.high:.2f}, mean over concepts), Yes to "
        f"{exam.share_yes:.0%}, balanced accuracy {exam.balanced_accuracy:.2f}; {exam.trials} trials{failed}{took}"
    )
    if exam.bins:
        bins = ", ".join(f"{each.said:.2f} where {each.were:.2f} ({each.trials})" for each in exam.bins)
        yield f"calibration: Brier {exam.brier:.2f}, expected error {exam.calibration_error:.2f}; says Yes with {bins} are Yes"


def verdict_on(exam: Exam) -> tuple[bool, str]:
    """Whether it is no judge, and in one line what it is and what to do."""
    auroc = exam.auroc
    if exam.trials == exam.failed:
        return (
            True,
            "no judge: it answered nothing; the reasons stand in its replies: run `interp doctor` without --judge",
        )
    if not auroc.low > 0.5:
        return True, "no judge: not shown to be better than chance; name a larger model under `engines`"
    bias = exam.share_yes - 0.5
    leaning = f"it leans to {'Yes' if bias > 0 else 'No'}: read AUROC, not balanced accuracy"
    tail = f"; {leaning}" if abs(bias) > MOST_BIAS else ""
    if auroc.value >= GOOD:
        return False, f"good: scores of single latents mean something{tail}"
    if auroc.value >= USABLE:
        return False, f"usable: trust means over many latents beside their shuffled control, not single latents{tail}"
    return False, f"weak: only large differences from the shuffled control mean something; better a larger model{tail}"
