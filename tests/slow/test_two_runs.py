"""Two `interp run` of one study at once: the second says what it waits for, and no call is made twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from interp_assets.freshness import Freshness
from interp_assets.study import load_study
from tests.commands import Command, settle_in


def test_two_runs_of_one_study(tiny_file: Path, tmp_path: Path) -> None:
    file = settle_in(tmp_path / "world", tiny_file)
    root = file.parents[1]
    first = Command(root, ("run", "tiny"))
    first.wait_until(lambda: list((root / "store").rglob("interp_run.0")))
    second = Command(root, ("run", "tiny"))
    ends = [first.end(), second.end()]
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert f"waiting for interp_run: slot 0 is held by process {first.process.pid} (interp run tiny)" in ends[1].stderr
    assert "waiting" not in ends[0].stderr
    assert "9 made" in ends[0].stdout
    assert "9 fresh" in ends[1].stdout
    assert {state.state for state in Freshness(load_study(file)).states()} == {"fresh"}
    with sqlite3.connect(root / "store" / "replies.sqlite") as log:
        (calls,) = log.execute("select sum(calls) from totals").fetchone()
        (replies,) = log.execute("select count(*) from replies").fetchone()
    assert calls == replies > 40


def test_two_studies_with_one_storage_share_the_replies(tiny_file: Path, tmp_path: Path) -> None:
    file = settle_in(tmp_path / "world", tiny_file)
    root = file.parents[1]
    other = file.with_name("other.yaml")
    other.write_text(file.read_text().replace("name: tiny", "name: other"))
    commands = [Command(root, ("run", name)) for name in ("tiny", "other")]
    ends = [command.end() for command in commands]
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    with sqlite3.connect(root / "store" / "replies.sqlite") as log:
        (calls,) = log.execute("select sum(calls) from totals").fetchone()
        (replies,) = log.execute("select count(*) from replies").fetchone()
    assert calls == replies > 40
