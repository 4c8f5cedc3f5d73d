"""`interp plan` and `interp status`: every partition with its state, why, and what it takes or took."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from interp_assets.differences import in_short
from interp_assets.forecast import Forecast, forecast
from interp_assets.freshness import STATES, Freshness, PartitionState, State
from interp_assets.study import Study

WORK: tuple[State, ...] = ("stale", "missing", "partial")
"States of partitions in which something is left to be made."


@dataclass(frozen=True)
class Listed:
    """A partition's state, and what it will take or has taken."""

    state: PartitionState
    work: Forecast
    failed_rows: dict[str, int]
    "Reasons, and how many rows failed for each."

    def as_json(self) -> dict[str, Any]:
        return {
            "asset": self.state.asset,
            "partition": self.state.partition,
            "state": self.state.state,
            "reasons": list(self.state.reasons),
            **asdict(self.work),
            "failed_rows": self.failed_rows,
        }


def plan(study: Study) -> list[Listed]:
    """What `interp run` would do, and what that takes after all that can be reused."""
    freshness = Freshness(study)
    return [
        Listed(state, forecast(freshness, state) if state.state in WORK else Forecast(0), {})
        for state in freshness.states()
    ]


def status(study: Study) -> list[Listed]:
    """What was done."""
    freshness = Freshness(study)
    found = []
    for state in freshness.states():
        partition = freshness.current(state.asset, state.partition)
        metadata = partition.metadata if partition is not None else {}
        done = Forecast(
            metadata.get("explanations_made", metadata.get("explanations_tested")),
            metadata.get("llm_calls", 0),
            metadata.get("replies_reused", 0),
            metadata.get("prompt_tokens", 0),
            metadata.get("cost", 0.0),
        )
        found.append(Listed(state, done, metadata.get("failed_rows", {})))
    return found


def as_json(study: Study, listed: list[Listed]) -> str:
    return json.dumps({"study": study.name, "partitions": [each.as_json() for each in listed]}, indent=1)


def print_plan(study: Study, listed: list[Listed]) -> None:
    due = [each for each in listed if each.state.state != "fresh"]
    print_states(due, total_of)
    total = sum((each.work for each in listed), Forecast(0))
    print(f"{study.name}: {counted(listed)}")
    if any(each.work.llm_calls != 0 or each.work.replies_reused for each in due):
        most = "" if total.exact else "at most "
        calls, tokens = ("unknown" if each is None else f"{each:,}" for each in (total.llm_calls, total.prompt_tokens))
        priced = any(engine.price is not None for engine in study.engines.values())
        about = "about " if total.tokens_of_a_call else ""
        money = (
            f", {about or 'at most '}{total.cost:,.2f} at the study's prices"
            if priced and total.cost is not None
            else ""
        )
        print(f"language models: {most}{calls} calls, {about}{tokens} prompt tokens{money}")
        for told in total.tokens_of_a_call:
            print(f"tokens of a prompt: {told}")
        print(f"replies reused: {total.replies_reused:,}")
    if any(each.state.state in WORK for each in listed):
        print(f"to carry it out: interp run {study.called}")


def print_status(study: Study, listed: list[Listed]) -> None:
    print_states(listed, lambda members: "")
    for each in listed:
        for reason, count in each.failed_rows.items():
            print(f"{count} failed in {each.state.label}: {reason}")
    print(f"{study.name}: {counted(listed)}")
    if any(each.failed_rows or each.state.state == "failed" for each in listed):
        print(f"to ask again for what failed: interp retry {study.called} [ASSET] [LAYER]")


def counted(listed: list[Listed]) -> str:
    counts = Counter(each.state.state for each in listed)
    return ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name]) or "nothing"


def print_states(listed: list[Listed], remark: Callable[[list[Listed]], str]) -> None:
    """One line for each partition; one for an asset whose partitions are all in the same state for the same reasons."""
    lines = []
    for asset, group in groupby(listed, key=lambda each: each.state.asset):
        members = list(group)
        alike = {(each.state.state, without_key(each)) for each in members}
        if len(members) > 1 and len(alike) == 1:
            lines.append((members[0].state.state, f"{asset}[*]", without_key(members[0]), remark(members)))
        else:
            lines += [(e.state.state, e.state.label, in_short(e.state.reasons), remark([e])) for e in members]
    width = max((len(label) for _, label, _, _ in lines), default=0)
    for state, label, reasons, work in lines:
        print(f"{state:8} {label:{width}}  {reasons}{work}".rstrip())
    if lines:
        print()


def without_key(each: Listed) -> str:
    return in_short(each.state.reasons).replace(f"[{each.state.partition}]", "")


def total_of(members: list[Listed]) -> str:
    total = sum((each.work for each in members), Forecast(0))
    most = "" if total.exact else "at most "
    said = [f"{most}{total.latents:,} latent{'s' * (total.latents > 1)}"] if total.latents else []
    if total.llm_calls is None:
        said.append("number of calls unknown")
    elif total.llm_calls or total.replies_reused:
        said.append(f"{most}{total.llm_calls:,} calls, {total.replies_reused:,} replies reused")
    return f"  ({'; '.join(said)})" if said else ""
