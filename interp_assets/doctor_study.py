"""`interp doctor STUDY`: start each engine, say what it can do and how fast it is, and what the whole study will take."""

from __future__ import annotations

from interp_assets.budget import Purse
from interp_assets.doctor import line
from interp_assets.engine_needs import check_needs
from interp_assets.engine_trial import Speed, asked_in, measure, roles
from interp_assets.forecast import Forecast, forecast
from interp_assets.freshness import Freshness
from interp_assets.job import say_waiting
from interp_assets.models import logged_engine
from interp_assets.study import Study
from resources.errors import NotNow, UnusableInput
from resources.loaded_models import LoadedModels


def examine_study(study: Study) -> int:
    """Print what was found; 1 where an engine cannot do what the study asks of it."""
    models, faults = LoadedModels(), 0
    line("study", f"{study.name}: {study.file}")
    if not study.engines:
        line("engines", "none: nothing in this study asks a language model")
    for name, settings in study.engines.items():
        slots = ["gpu", "llm"] if settings.in_process else ["llm"]
        try:
            with models.slots(slots, f"interp doctor {study.name}", say_waiting):
                examine_engine(Freshness(study), models, name)
        except (NotNow, UnusableInput) as error:
            line(f"engine {name}", f"not usable: {error}")
            faults += 1
        finally:
            models.release()
    show_budget(study)
    print(f"not ready: {faults} of {len(study.engines)} engines" if faults else "ready")
    return 1 if faults else 0


def examine_engine(freshness: Freshness, models: LoadedModels, name: str) -> None:
    label = f"engine {name}"
    engine = logged_engine(freshness, models, name).load()
    forms = f"; holds replies to: {', '.join(sorted(engine.forms))}" if engine.forms else "; holds replies to no form"
    line(label, f"{engine.name} can {', '.join(sorted(engine.capabilities))}{forms}")
    for verb, why in getattr(engine, "lacks", {}).items():
        line(label, f"cannot {verb}: {why}")
    check_needs(freshness.study, name, engine, freshness.assets)
    used = roles(freshness.study, name)
    if not used:
        line(label, "no explainer and no scorer of the study uses it")
    seconds: float | None = 0.0
    total = Forecast(0)
    for role in used:
        speed = measure(freshness, models, name, role)
        line(label, in_words(speed))
        look = Freshness(freshness.study)
        work = sum((forecast(look, state, name) for state in asked_in(look, name, role)), Forecast(0))
        total += work
        known = seconds is not None and work.llm_calls is not None
        seconds = seconds + (work.llm_calls or 0) / speed.calls_per_second if known and seconds is not None else None
    if used:
        line(label, in_all(total, seconds, freshness.study.engines[name].price is not None))


def in_words(speed: Speed) -> str:
    prompts = "prompts of this study" if speed.real else "made-up prompts"
    tokens = speed.prompt_tokens + speed.completion_tokens
    cached = speed.cached_tokens / max(1, speed.prompt_tokens)
    said = (
        f"{speed.role} {speed.prompts} {prompts} took {speed.seconds:.1f} s: {speed.calls_per_second:,.3g} requests/s, "
        f"{tokens / speed.seconds:,.4g} tokens/s, {cached:.0%} of the prompts cached"
    )
    return said if speed.refused is None else f"{said}; not all were answered: {speed.refused}"


def in_all(work: Forecast, seconds: float | None, priced: bool) -> str:
    if work.llm_calls is None or seconds is None:
        return (
            "left in this study: a number of calls that is known once the examples are drawn (or set examples.latents)"
        )
    most = "" if work.exact else "at most "
    said = f"left in this study: {most}{work.llm_calls:,} calls, {most}{seconds / 3600:,.2g} hours at this speed"
    about = "about" if work.tokens_of_a_call else "at most"
    return f"{said}, {about} {work.cost:,.2f} at the study's prices" if priced and work.cost is not None else said


def show_budget(study: Study) -> None:
    if study.budget is not None:
        purse = Purse(study, Freshness(study).log)
        bill = purse.bill()
        limits = [f"{study.budget.tokens:,} tokens" if study.budget.tokens is not None else ""]
        limits += [f"{study.budget.money:,.2f}" if study.budget.money is not None else ""]
        spent = f"{bill.tokens:,} tokens and {bill.money:,.2f} spent"
        line(
            "budget",
            f"{' and '.join(filter(None, limits)) or 'none'}; {spent}{'; nothing is left' if purse.empty() else ''}",
        )
