"""The plan's tokens are those that calls took where some were made, and counted in prompts like them where none were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from interp_assets import plan
from interp_assets.plan import Listed
from interp_assets.study import Study, load_study
from resources.partition_files import Partition
from tests.changed_study import changed

SERVED = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "other"}
OTHER_EXAMPLES = {"examples.explain.n": 9}
"Examples are made anew first, so that no prompt can be built yet."


@pytest.fixture
def study(tiny_file: Path, tiny_tables: dict[str, Partition], tmp_path: Path) -> Study:
    assert tiny_tables
    return load_study(shutil.copytree(tiny_file.parent, tmp_path / "world") / "study.yaml")


def planned(study: Study, changes: dict[str, object], name: str) -> Listed:
    other = load_study(changed(study.file, changes))
    return {each.state.asset: each for each in plan.plan(other)}[name]


def mean_tokens(table: Partition) -> tuple[float, int]:
    """Of the calls behind a table, by hand."""
    taken: dict[str, int] = {}
    for prompt, tokens in table.read("trials").select("prompt_hash", "prompt_tokens").drop_nulls().iter_rows():
        taken[prompt] = max(tokens, taken.get(prompt, 0))
    return sum(taken.values()) / len(taken), len(taken)


@pytest.mark.parametrize("method", ["detection", "fuzzing"])
def test_calls_are_reckoned_as_they_were_recorded(
    study: Study, tiny_tables: dict[str, Partition], method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"scores/{method}"
    mean, calls = mean_tokens(tiny_tables[name])
    work = planned(study, OTHER_EXAMPLES, name).work
    assert work.llm_calls is not None and not work.exact
    assert work.prompt_tokens == pytest.approx(mean * work.llm_calls, abs=1)
    assert work.tokens_of_a_call == (f"{name} {mean:,.0f}, as recorded of {calls:,} calls",)
    other = load_study(changed(study.file, OTHER_EXAMPLES))
    plan.print_plan(other, plan.plan(other))
    said = capsys.readouterr().out
    assert f"tokens of a prompt: {work.tokens_of_a_call[0]}" in said
    assert "calls, about " in said


@pytest.mark.parametrize(
    "changes",
    [{"scorers.detection.instructions": "Decide, and say it in one word."}, {"examples.window": 12}],
    ids=["other instructions", "longer windows"],
)
def test_what_other_prompts_took_says_nothing(
    study: Study, tiny_tables: dict[str, Partition], changes: dict[str, object]
) -> None:
    work = planned(study, OTHER_EXAMPLES | changes, "scores/detection").work
    (told,) = work.tokens_of_a_call
    assert told.endswith(", by 20 made-up prompts")
    assert work.prompt_tokens == planned(study, OTHER_EXAMPLES | changes, "scores/detection").work.prompt_tokens
    mean, _ = mean_tokens(tiny_tables["scores/detection"])
    assert work.llm_calls and work.prompt_tokens
    assert 0.3 * mean < work.prompt_tokens / work.llm_calls < 3 * mean


def test_fewer_trials_are_the_same_prompts(study: Study) -> None:
    work = planned(study, OTHER_EXAMPLES | {"scorers.detection.activating": 3}, "scores/detection").work
    assert "as recorded of" in work.tokens_of_a_call[0]


def test_prompts_of_a_server_are_reckoned_by_what_is_known(study: Study, tiny_tables: dict[str, Partition]) -> None:
    """Its tokenizer is not here; that its prompts lie ready tells their characters only."""
    mean, _ = mean_tokens(tiny_tables["scores/detection"])
    work = planned(study, {"engines.oracle": SERVED}, "explanations").work
    assert "explanations by llm" in work.tokens_of_a_call[0] and "as recorded of" in work.tokens_of_a_call[0]
    scores = planned(study, {"engines.oracle": SERVED}, "scores/detection").work
    assert scores.prompt_tokens == pytest.approx(mean * (scores.llm_calls or 0), abs=1)
    told = {"engines.oracle": SERVED, "scorers.detection.instructions": "Decide."}
    assert planned(study, told, "scores/detection").work.tokens_of_a_call[0].endswith(" prompts")
