"""What is said of a changed fingerprint."""

from __future__ import annotations

from typing import Any

import pytest

from interp_assets.differences import differences, in_short

PARTS: dict[str, Any] = {"code": "1", "settings": {"a": {"b": 1}}, "files": {"sae": "x"}, "inputs": {"corpus": "y"}}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"code": "2"}, "code version 1 -> 2"),
        ({"settings": {"a": {"b": 2}}}, "a.b: 1 -> 2"),
        ({"settings": {"a": {"b": "x" * 90}}}, "a.b changed"),
        ({"settings": {"a": {"b": 1, "c": None}}}, "a.c changed"),  # a name that holds nothing
        ({"files": {"sae": "z"}}, "sae file changed"),
        ({"inputs": {"corpus": "z"}}, "corpus changed"),
        ({"inputs": {}}, "corpus is no longer read"),
        ({"states": {"examples[layers.1]": "failed"}}, "examples[layers.1]: fine -> failed"),
    ],
)
def test_every_change_is_named(after: dict[str, Any], said: str) -> None:
    assert differences(PARTS, PARTS | after) == [said]


def test_reasons_that_differ_in_their_partition_are_told_once() -> None:
    reasons = [f"examples[layers.{i}] is to be made anew" for i in range(150)]
    reasons += ["a.b: [1] -> [2]", "scores/fuzzing[layers.3] changed"]
    assert in_short(reasons) == (
        "examples is to be made anew (150 partitions); a.b: [1] -> [2]; scores/fuzzing[layers.3] changed"
    )
    assert in_short(()) == ""
