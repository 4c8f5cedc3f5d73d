"""A budget ends a study's spending cleanly: what was done is kept, the rest is listed, and more budget goes on there."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from interp_assets import cli
from interp_assets.budget import Purse
from interp_assets.freshness import Freshness
from interp_assets.plan import plan
from interp_assets.study import PROJECT, Study, load_study
from resources.language_models.protocol import NOT_ASKED
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition
from tests.bench_server import BenchServer, Manners, serving
from tests.changed_study import changed
from tests.conftest import make_all

AT_ONCE = 8
PROBE = "water"
LONGEST = 500
"Tokens, as the bench server counts, of the longest prompt and its reply."
ASKING = ("explanations", "scores/detection", "scores/fuzzing")
PRICE = {"input": 2.0, "cached": 1.0, "output": 10.0}


@pytest.fixture
def world(tiny_file: Path, tiny_tables: object, tmp_path: Path) -> Path:
    """The tiny study with all that needs no language model."""
    root = shutil.copytree(tiny_file.parent, tmp_path / "world")
    for name in ("explanations", "scores", "score_report"):
        shutil.rmtree(root / "store" / name)
    for file in root.glob("store/replies.sqlite*"):
        file.unlink()
    return root / "study.yaml"


def served(file: Path, url: str, **budget: float) -> Study:
    engine = {"kind": "openai", "base_url": url, "model": "oracle", "concurrency": AT_ONCE, "price": PRICE}
    return load_study(changed(file, {"engines.oracle": engine} | ({"budget": budget} if budget else {}), "served.yaml"))


def states(study: Study) -> dict[str, str]:
    return {each.asset: each.state for each in Freshness(study).states() if each.asset in ASKING}


def asked(server: BenchServer) -> Counter[str]:
    return Counter(prompt for prompt in server.told().prompts if PROBE not in prompt.lower())


def assert_usage_is_in_the_tables(made: dict[str, Partition], server: BenchServer) -> None:
    """The tokens of all calls behind the rows, and the money, are those that the server counted; probes are no rows."""
    told = server.told()
    probes = [n for prompt, n in zip(told.prompts, told.lengths, strict=True) if PROBE in prompt.lower()]
    counted = {
        "prompt_tokens": told.prompt_tokens - sum(probes),
        "cached_tokens": told.cached_tokens - len(probes),
    }
    written = sum(made[name].metadata["completion_tokens"] for name in ASKING)
    assert written + len(probes) <= told.completion_tokens <= written + 2 * len(probes), (
        "a probe's reply is a word or two"
    )
    money = (
        2.0 * (counted["prompt_tokens"] - counted["cached_tokens"]) + counted["cached_tokens"] + 10.0 * written
    ) / 1e6
    costs = made["score_report"].read("costs")
    columns = ["prompt_hash", *counted]
    calls = pl.concat(
        made[name].read("explanations" if name == "explanations" else "trials").select(columns) for name in ASKING
    )
    assert calls["prompt_hash"].drop_nulls().is_duplicated().any(), "control: some rows share a call"
    calls = calls.drop_nulls("prompt_hash").unique()
    for name, count in counted.items():
        assert calls[name].sum() == count > 0
        assert costs[name].sum() == count
        assert sum(made[each].metadata[name] for each in ASKING) == count
    assert sum(made[each].metadata["cost"] for each in ASKING) == pytest.approx(money)
    assert costs["money"].sum() == pytest.approx(money)


def test_a_budget_is_spent_and_no_call_is_made_twice(world: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(world.parent, tmp_path / "whole") / "study.yaml"
    with serving(Manners(cached_tokens=1)) as server:
        undisturbed = make_all(served(whole, server.url), LoadedModels())
        needed = asked(server)
        assert_usage_is_in_the_tables(undisturbed, server)
    total = sum(undisturbed[name].metadata[f"{kind}_tokens"] for name in ASKING for kind in ("prompt", "completion"))
    seen = []
    with serving(Manners(cached_tokens=1)) as server:
        for share in (0.01, 0.3, 0.6, 2.0):
            study = served(world, server.url, tokens=int(share * total))
            made = make_all(study, LoadedModels())
            spent = Purse(study, Freshness(study).log).bill().tokens
            assert spent <= share * total + AT_ONCE * LONGEST, "no more than what was in flight"
            seen.append(states(study))
            table = made["explanations"].read("explanations")
            waiting = table.filter(pl.col("status") == "not_asked")
            assert len(waiting) == made["explanations"].metadata["not_asked"]
            assert set(waiting["reason"]) <= {NOT_ASKED}
            # What has been judged in part has no score yet.
            scores = made["scores/detection"].read("scores")
            assert scores.filter(pl.col("status") == "not_asked")["value"].null_count() == len(
                scores.filter(pl.col("status") == "not_asked")
            )
        assert asked(server) == needed, "all that is needed, each once"
    assert [each["scores/fuzzing"] for each in seen] == ["partial", "partial", "partial", "fresh"]
    assert seen[0]["explanations"] == "partial"
    assert seen[1]["explanations"] == "fresh"
    assert set(seen[-1].values()) == {"fresh"}
    for name in ASKING:
        assert made[name].content_hash == undisturbed[name].content_hash


def test_money_is_counted_at_the_prices_of_the_study(world: Path) -> None:
    with serving(Manners(cached_tokens=1)) as server:
        study = served(world, server.url, money=0.05)
        make_all(study, LoadedModels())
    log = Freshness(study).log
    (spent,) = log.spent(study.name).values()
    new = spent.prompt_tokens - spent.cached_tokens
    money = (2.0 * new + 1.0 * spent.cached_tokens + 10.0 * spent.completion_tokens) / 1e6
    assert Purse(study, log).bill().money == pytest.approx(money)
    assert 0.05 <= money <= 0.05 + AT_ONCE * LONGEST * 10 / 1e6
    # What is spent stays spent, also where nothing of it is used any more.
    log.forget([])
    assert Purse(study, log).empty() == f"the budget of 0.05 is reached ({money:,.2f} spent)"
    assert Purse(served(world, server.url), log).empty() is None, "control: without a budget there is no end"


def test_interp_run_says_where_it_ended_and_goes_on(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "dagster.yaml", tmp_path)
    with serving(Manners()) as server:
        study = served(world, server.url, tokens=30_000)
        assert cli.main(["run", str(study.file)]) == 1
        said = capsys.readouterr().out
        assert "partial  scores/detection[embed_tokens]: " in said
        assert "rows wait: the budget of 30,000 tokens is reached (" in said
        assert f"with a larger one in {study.file} the next run goes on" in said
        before = asked(server)
        # Nothing is asked while there is no more budget, and what waits is foreseen.
        assert cli.main(["run", str(study.file)]) == 1
        assert "made" not in capsys.readouterr().out
        assert asked(server) == before
        waiting = {each.state.asset: each.work.llm_calls for each in plan(study) if each.state.state == "partial"}
        assert set(waiting) == {"scores/detection", "scores/fuzzing"}
        more = served(world, server.url, tokens=30_000_000)
        assert cli.main(["run", str(more.file)]) == 0
        assert sum(asked(server).values()) - sum(before.values()) == sum(waiting.values())
        assert set(states(more).values()) == {"fresh"}
