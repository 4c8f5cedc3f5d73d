"""Whoever changes the code behind an asset bumps its code version, or records that its results are as they were.

python -m tests.test_code_versions --record [ASSET ...]    (all where none is named)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from interp_assets.graph import assets_of
from interp_assets.study import PROJECT, Study
from resources.language_models.protocol import CODE_VERSIONS
from tests.code_walker import code_behind, own_versions

RECORD = Path(__file__).with_name("code_versions.json")
COMMAND = "python -m tests.test_code_versions --record"
RECORDED_UNDER = (3, 11)
Record = dict[str, dict[str, Any]]


def versions() -> dict[str, str]:
    """The code version of every asset there can be, and of every module that has its own."""
    settings = {
        "name": "everything",
        "subject_model": {"path": "some/model"},
        "saes": [{"path": "saes"}],
        "corpus": {"path": "some/text"},
        "engines": {"judge": {"kind": "transformers", "path": "some/judge"}},
        "explainers": {"llm": {"kind": "llm", "engine": "judge"}},
        "examples": {"similar_text": {"model": "a/b"}, "test": {"negatives": "similar_text"}},
        "alignment": {},
        "scorers": {
            "embedding": {"model": "a/b"},
            "detection": {"engine": "judge"},
            "fuzzing": {"engine": "judge"},
            **{name: {"engine": "judge"} for name in ("surprisal", "simulation", "generation", "intruder")},
            "intervention": {"explainer": "judge", "scorer": "judge"},
            **{
                name: {"model": "a/b"} for name in ("example_embedding", "token_embedding", "token_fuzzing", "reranker")
            },
        },
    }
    study = Study.model_validate({**settings, "file": PROJECT / "studies" / "everything.yaml", "root": PROJECT})
    return {asset.name: asset.code_version for asset in assets_of(study).values()} | own_versions(PROJECT)


def as_it_is() -> Record:
    found, code = versions(), code_behind(PROJECT)
    # Each asset has one compute function, and the study above has all assets.
    assert set(found) == set(code), f"only in one of the two: {sorted(set(found) ^ set(code))}"
    return {name: {"code_version": found[name], "definitions": code[name]} for name in sorted(found)}


def drift(now: Record, recorded: Record) -> list[str]:
    """One line for each asset whose code is not the recorded one, with what to do."""
    lines, nothing = [], {"code_version": "none", "definitions": {}}
    for name in sorted(now.keys() | recorded.keys()):
        new, old = now.get(name, nothing), recorded.get(name, nothing)
        if new["code_version"] != old["code_version"]:
            told = f"code version {old['code_version']} is recorded, it is {new['code_version']}: record that"
        elif changed := differing(new["definitions"], old["definitions"]):
            constant = "its CODE_VERSION" if name.startswith("resources.") else "its code version in graph.py"
            told = f"the code behind it changed ({', '.join(changed)}): bump {constant}, or, if results are unchanged, record that"
        else:
            continue
        lines.append(f"{name}: {told}: {COMMAND} {name}")
    return lines


def differing(new: dict[str, str], old: dict[str, str]) -> list[str]:
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))


@pytest.mark.skipif(sys.version_info[:2] != RECORDED_UNDER, reason="syntax trees are compared under Python 3.11 only")
def test_code_that_changed_has_a_new_version() -> None:
    lines = drift(as_it_is(), json.loads(RECORD.read_text()))
    assert not lines, "\n".join(lines)


def test_engines_have_the_version_that_fingerprints_hold() -> None:
    own = own_versions(PROJECT)
    assert {f"resources.language_models.{name}_engine": version for name, version in CODE_VERSIONS.items()} == own


# A small project: what each file holds, and how a change of it is noticed.
SOURCES = {
    "interp_assets/scores/assets.py": """
from interp_assets.job import computes
from interp_assets.scores import detection
from interp_assets.scores.embedding import compare

@computes("detection")
def detection_scores(job):
    from interp_assets.models import engine
    return ask(detection, engine(job))

@computes("embedding")
def embedding_scores(job):
    return compare(detection.trials(job))

def ask(method, engine):
    return engine.choose(method.QUESTION)
""",
    "interp_assets/scores/detection.py": 'QUESTION = "Is it?"\n\ndef trials(job):\n    return [job]\n',
    "interp_assets/scores/embedding.py": '''
from math import floor as rounded
from resources import embedder
SCALE: dict = {}
SCALE["cosine"] = 2.0

def compare(trials):
    """Of each trial."""
    return rounded(embedder.Embedder().embed(trials) * SCALE["cosine"])  # a number
''',
    "interp_assets/models.py": """
from interp_assets.job import Job

def engine(job: Job):
    from resources.engines.judge import Judge
    return Judge(job)

def unused():
    pass
""",
    "interp_assets/job.py": "class Job:\n    pass\n\ndef computes(asset):\n    return lambda function: function\n",
    "resources/embedder.py": "from .errors import Wrong\nprint(1)\n\nclass Embedder:\n    size = 1\n    wrong = Wrong\n",
    "resources/errors.py": "class Wrong(Exception):\n    pass\n",
    "resources/engines/judge.py": 'from ..embedder import Embedder\nCODE_VERSION = "1"\nclass Judge(Embedder):\n    batch = 1\n',
    "interp_assets/scores/templates/page.html": "<p>",
}
DETECTION, EMBEDDING, MODELS = (
    "interp_assets.scores.detection",
    "interp_assets.scores.embedding",
    "interp_assets.models",
)
JUDGE, PAGE = "resources.engines.judge", "interp_assets/scores/templates/page.html"
CHANGES: list[tuple[str, str, str, dict[str, list[str]]]] = [
    (DETECTION, "Is it?", "Is it so?", {"detection": [f"{DETECTION}.QUESTION"]}),
    (DETECTION, "[job]", "[job, job]", {name: [f"{DETECTION}.trials"] for name in ("detection", "embedding")}),
    (DETECTION, "def trials", "def tried(): ...\n\ndef trials", {"detection": [f"{DETECTION}.tried"]}),
    (EMBEDDING, "= 2.0", "= 3.0", {"embedding": [f"{EMBEDDING}.SCALE"]}),
    (EMBEDDING, "floor", "ceil", {"embedding": [f"{EMBEDDING}.compare"]}),
    (EMBEDDING, "Of each trial", "Of every trial", {}),
    (EMBEDDING, "  # a number", "", {}),
    (EMBEDDING, ".embed(trials)", ".embed(\n        trials,\n    )", {}),
    (MODELS, "Judge(job)", "Judge(None)", {"detection": [f"{MODELS}.engine"]}),
    (MODELS, "pass", "return 1", {}),
    ("interp_assets.job", "pass", "x = 1", {}),
    ("resources.errors", "pass", "x = 1", {}),
    ("resources.embedder", "size = 1", "size = 2", {n: ["resources.embedder.Embedder"] for n in ("embedding", JUDGE)}),
    (
        "resources.embedder",
        "print(1)",
        "print(2)",
        {n: ["resources.embedder.(module level)"] for n in ("embedding", JUDGE)},
    ),
    (JUDGE, "batch = 1", "batch = 2", {JUDGE: [f"{JUDGE}.Judge"]}),
    (PAGE, "<p>", "<b>", {"detection": [PAGE], "embedding": [PAGE]}),
]


@pytest.mark.parametrize(("where", "old", "new", "expected"), CHANGES)
def test_a_change_is_noticed_where_it_matters(
    tmp_path: Path, where: str, old: str, new: str, expected: dict[str, list[str]]
) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_behind(tmp_path)
    assert set(before) == {"detection", "embedding", JUDGE}
    file = tmp_path / (where if where == PAGE else f"{where.replace('.', '/')}.py")
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    after = code_behind(tmp_path)
    assert {name: found for name in after if (found := differing(after[name], before[name]))} == expected


def test_what_is_said_about_it() -> None:
    one, bumped, changed = (
        {"code_version": v, "definitions": {"a.f": f}} for v, f in (("1", "x"), ("2", "y"), ("1", "y"))
    )
    assert drift({"kept": one, "made": bumped}, {"kept": one, "made": bumped}) == []
    assert drift({"a": changed, "resources.b": changed}, {"a": one, "resources.b": one}) == [
        "a: the code behind it changed (a.f): bump its code version in graph.py, or, if results are unchanged, "
        "record that: python -m tests.test_code_versions --record a",
        "resources.b: the code behind it changed (a.f): bump its CODE_VERSION, or, if results are unchanged, "
        "record that: python -m tests.test_code_versions --record resources.b",
    ]
    assert [line.partition(": record")[0] for line in drift({"a": bumped, "b": one}, {"a": one, "c": one})] == [
        "a: code version 1 is recorded, it is 2",
        "b: code version none is recorded, it is 1",
        "c: code version 1 is recorded, it is none",
    ]


def record(names: list[str]) -> None:
    if sys.version_info[:2] != RECORDED_UNDER:
        sys.exit("syntax trees are recorded under Python 3.11 only")
    now, recorded = as_it_is(), json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known = sorted(now.keys() | recorded.keys())
    if unknown := set(names) - set(known):
        sys.exit(f"no asset {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    chosen = {name: now.get(name) if name in (names or known) else recorded.get(name) for name in known}
    RECORD.write_text(json.dumps({name: each for name, each in chosen.items() if each}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.test_code_versions")
    parser.add_argument("--record", nargs="*", metavar="ASSET", required=True)
    record(parser.parse_args().record)
