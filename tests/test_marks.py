"""Marks mean what they say: identity settings decide fingerprints, operational ones never do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from interp_assets.freshness import Freshness
from interp_assets.graph import layers_of
from interp_assets.job import COMPUTES, load_stage
from interp_assets.settings import Settings, identity, mark
from interp_assets.study import Layer, Study, load_study
from tests.changed_study import changed
from tests.conftest import make_all
from tests.tiny import make_embedder

OPERATIONAL: dict[str, Any] = {
    "storage": "elsewhere",
    "subject_model.path": "./moved/model",
    "subject_model.device": "auto",
    "subject_model.batch_tokens": 64,
    "saes.0.path": "moved/saes",
    "saes.0.format": "sparsify",
    "corpus.path": "moved/corpus.parquet",
    "engines.oracle.path": "moved/model",
    "engines.oracle.device": "auto",
    "engines.oracle.batch_size": 3,
    "scorers.embedding.model": "moved/embedder",
    "scorers.embedding.device": "auto",
    "scorers.embedding.batch_size": 3,
}

JUDGE = {
    "explainers": ["llm"],
    "activating": 9,
    "non_activating": 9,
    "protocol": "list",
    "per_prompt": 4,
    "mark_threshold": 0.4,
    "shuffled_control": False,
}
IDENTITY: dict[str, Any] = {
    "name": "other",
    "saes.0.hookpoints": ["layers.0"],
    "saes.0.label": "wide",
    "subject_model.revision": "main",
    "subject_model.dtype": "bfloat16",
    "corpus.split": "test",
    "corpus.column": "words",
    "corpus.tokens": 4096,
    "corpus.context_length": 32,
    "corpus.bos": False,
    "corpus.separator": "\n",
    "proof_of_load.tokens": 512,
    "proof_of_load.max_fvu": 0.7,
    "proof_of_load.l0_factor": 3,
    "proof_of_load.compare_layers": False,
    "examples.window": 8,
    "examples.placement": "centred",
    "examples.min_windows": 9,
    "examples.latents": 5,
    "examples.seed": 1,
    "examples.explain.sampler": "top",
    "examples.explain.n": 11,
    "examples.explain.pool": 100,
    "examples.test.activating": 20,
    "examples.test.non_activating": 20,
    "examples.test.negatives": "neighbour",
    "engines.oracle.revision": "main",
    "engines.oracle.dtype": "float32",
    "explainers.quotes.words": 4,
    "explainers.quotes.phrases": 4,
    "explainers.llm.engine": "second",
    "explainers.llm.latents": 3,
    "explainers.llm.n_examples": 9,
    "explainers.llm.mark_threshold": 0.4,
    "explainers.llm.show_activations": True,
    "explainers.llm.promoted_tokens": True,
    "explainers.llm.chain_of_thought": True,
    "explainers.llm.max_tokens": 32,
    "scorers.embedding.dtype": "bfloat16",
    "scorers.embedding.explainers": ["llm"],
    "scorers.embedding.activating": 9,
    "scorers.embedding.non_activating": 9,
    "scorers.embedding.shuffled_control": False,
    "scorers.embedding.instruction": "Find: ",
    "scorers.detection.engine": "second",
    "scorers.fuzzing.engine": "second",
    **{f"scorers.{method}.{key}": value for method in ("detection", "fuzzing") for key, value in JUDGE.items()},
}
ONE_VALUE = {"engines.oracle.kind", "explainers.llm.kind", "explainers.quotes.kind"}
"Another value is another class of settings."

# How the walk below names the members of mappings, lists and unions, and how the study above does.
NAMES = {"saes": "saes.0", "engines": "engines.oracle"}
EXPLAINERS = {"ExtractiveExplainer": "explainers.quotes", "LlmExplainer": "explainers.llm"}


def settings_in(annotation: Any) -> list[type[Settings]]:
    """Every class of settings that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for argument in get_args(annotation) for model in settings_in(argument)]


def classes(model: type[Settings]) -> set[type[Settings]]:
    inner = [each for field in model.model_fields.values() for each in settings_in(field.annotation)]
    return {model}.union(*map(classes, inner))


def unmarked(model: type[Settings]) -> list[str]:
    return [name for name, field in model.model_fields.items() if mark(field) not in ("identity", "operational")]


def leaves(model: type[Settings], key: str = "") -> Iterator[tuple[str, str | None]]:
    """Every setting that holds a value, by its dotted key, with its mark."""
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        full = f"{key}.{name}" if key else name
        inner = settings_in(field.annotation)
        for each in inner:
            yield from leaves(each, EXPLAINERS.get(each.__name__) or NAMES.get(full, full))
        if not inner:
            yield full, mark(field)


def test_every_setting_is_marked() -> None:
    assert {Study, Layer} < classes(Study)
    assert len(classes(Study)) >= 15
    assert {model.__name__: unmarked(model) for model in classes(Study) if unmarked(model)} == {}


def test_control_an_unmarked_setting_is_noticed() -> None:
    class Careless(Settings):
        window: int = identity(32)
        stride: int = 16

    assert unmarked(Careless) == ["stride"]


def test_every_setting_is_tried_below() -> None:
    assert {key for key, marked in leaves(Study) if marked == "operational"} == set(OPERATIONAL)
    assert {key for key, marked in leaves(Study) if marked == "identity"} == set(IDENTITY) | ONE_VALUE


@pytest.fixture(scope="module")
def file(complete_file: Path) -> Path:
    """The complete study, with a second engine, and all that it refers to in a second place."""
    root = complete_file.parent
    engines = {"oracle": {"path": "./model"}, "second": {"path": "./model", "dtype": "float16"}}
    base = changed(complete_file, {"engines": engines}, "marks.yaml")
    for name in ("model", "embedder", "saes"):
        shutil.copytree(root / name, root / "moved" / name)
    shutil.copy(root / "corpus.parquet", root / "moved")
    shutil.copytree(root / "store", root / "elsewhere")
    shutil.copytree(root / "store" / "pointers" / "tiny", root / "store" / "pointers" / "other")
    for place in list((root / "store").rglob("embed_tokens")):
        for layer in ("layers.0", "embed_tokens@wide"):
            copy = shutil.copytree if place.is_dir() else shutil.copy
            copy(place, place.with_name(layer))
    return base


def fingerprints(file: Path) -> dict[str, str]:
    """The fingerprint of every asset of the first layer, on the tables that are there."""
    freshness = Freshness(load_study(file))
    return {
        asset.name: freshness.fingerprint(asset, layers_of(freshness.study, asset)[0]).value
        for asset in freshness.assets.values()
    }


def test_operational_settings_never_change_a_fingerprint(file: Path) -> None:
    before = fingerprints(file)
    assert len(before) == 10
    for key, value in OPERATIONAL.items():
        assert fingerprints(changed(file, {key: value})) == before, key


def test_identity_settings_change_fingerprints(file: Path) -> None:
    before = fingerprints(file)
    for key, value in IDENTITY.items():
        after = fingerprints(changed(file, {key: value}))
        assert [name for name in before if after[name] != before[name]], key


@pytest.mark.parametrize(
    ("key", "reached"),
    [
        ("examples.window", {"examples"}),
        ("corpus.tokens", {"corpus"}),
        ("corpus.bos", {"corpus", "activation_cache"}),
        ("proof_of_load.max_fvu", {"activation_cache"}),
        ("explainers.quotes.words", {"explanations"}),
        ("scorers.detection.protocol", {"scores/detection"}),
        ("name", {"score_report"}),
    ],
)
def test_a_setting_reaches_those_who_read_it(file: Path, key: str, reached: set[str]) -> None:
    """What lies behind them changes only when their tables do."""
    before, after = fingerprints(file), fingerprints(changed(file, {key: IDENTITY[key]}))
    assert {name for name in before if after[name] != before[name]} == reached


def settings_objects(settings: Settings, key: str = "") -> Iterator[tuple[str, Settings]]:
    """All settings that a study holds, by dotted key."""
    yield key, settings
    for name in type(settings).model_fields:
        value, full = getattr(settings, name), f"{key}.{name}" if key else name
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
        inner = [("", value)] if isinstance(value, Settings) else inner
        for part, each in inner:
            if isinstance(each, Settings) and not isinstance(each, Layer):
                yield from settings_objects(each, f"{full}.{part}".rstrip("."))


def test_what_a_stage_reads_is_in_its_fingerprint(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every identity setting that is looked at while an asset is made must change that asset's fingerprint."""
    shutil.rmtree(file.parent / "embedder")
    make_embedder(file.parent / "embedder")
    study = load_study(changed(file, {"storage": "watched", "examples.test.negatives": "neighbour"}, "watched.yaml"))
    keys = {id(settings): key for key, settings in settings_objects(study)}
    read: dict[str, set[str]] = {}
    watching: list[str] = []

    def watched_getattribute(self: Settings, name: str) -> Any:
        if watching and id(self) in keys and mark(type(self).model_fields.get(name)) == "identity":
            read[watching[-1]].add(f"{keys[id(self)]}.{name}".lstrip("."))
        return object.__getattribute__(self, name)

    def watched(asset: str, compute: Any) -> Any:
        def run(job: Any) -> Any:
            watching.append(asset)
            read[asset] = set()
            try:
                return compute(job)
            finally:
                watching.pop()

        return run

    for name, asset in Freshness(study).assets.items():
        load_stage(asset)
        monkeypatch.setitem(COMPUTES, name, watched(name, COMPUTES[name]))
    monkeypatch.setattr(Settings, "__getattribute__", watched_getattribute, raising=False)
    make_all(study)
    monkeypatch.undo()

    assert "examples.window" in read["examples"]
    before = fingerprints(study.file)
    for asset, looked_at in read.items():
        for key in looked_at & set(IDENTITY):
            value = "random" if key == "examples.test.negatives" else IDENTITY[key]
            after = fingerprints(changed(study.file, {key: value}))
            assert after[asset] != before[asset], f"{asset} reads {key}"
