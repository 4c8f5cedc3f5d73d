"""Fingerprints: identity settings decide them, operational ones never do, and nothing that is read is left out."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interp_assets.freshness import Freshness
from interp_assets.job import COMPUTES, load_stage, make_partition
from interp_assets.partitions import pair_key, partitions_of
from interp_assets.settings import Settings, mark
from interp_assets.study import Layer, load_study
from resources.partition_files import Partition
from tests.changed_study import IDENTITY, OPERATIONAL, changed
from tests.conftest import make_all
from tests.oracle import OracleModels
from tests.tiny import make_embedder


@pytest.fixture(scope="module")
def file(complete_file: Path) -> Path:
    """The complete study, with a second engine, and all that it refers to in a second place."""
    root = complete_file.parent
    engines = {"oracle": {"path": "./model"}, "second": {"path": "./model", "dtype": "float16"}}
    engines |= {"served": {"kind": "openai", "base_url": "https://host/v1", "model": "small"}}
    engines |= {"local": {"kind": "vllm", "path": "./model"}}
    asked = {f"explainers.{name}": {"kind": "llm", "engine": name} for name in ("served", "local")}
    drawn = {"examples.test.non_activating": 20, "examples.test.negatives": ["random", "similar_text"]}
    drawn |= {"examples.similar_text": {"model": "./embedder", "windows": 200}}
    base = changed(complete_file, {"engines": engines, **asked, **drawn}, "marks.yaml")
    shutil.rmtree(root / "embedder")
    make_embedder(root / "embedder")
    make_partition(load_study(base), "text_index", None, OracleModels())
    for name in ("model", "embedder", "reranker", "saes"):
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
        asset.name: freshness.fingerprint(asset, partitions_of(freshness.study, asset)[0]).value
        for asset in freshness.assets.values()
        if partitions_of(freshness.study, asset)
    }


def test_operational_settings_never_change_a_fingerprint(file: Path) -> None:
    before = fingerprints(file)
    assert len(before) == 20
    for key, value in OPERATIONAL.items():
        assert fingerprints(changed(file, {key: value})) == before, key


def test_identity_settings_change_fingerprints(file: Path) -> None:
    before = fingerprints(file)
    for key, value in IDENTITY.items():
        after = fingerprints(changed(file, {key: value}))
        assert [name for name in before if after[name] != before[name]], key


BY_COMPARING = ("embedding", "example_embedding", "token_embedding", "token_fuzzing", "reranker")
TESTED_ON_WINDOWS = {f"scores/{method}" for method in ("detection", "fuzzing", "surprisal", *BY_COMPARING)}
"They weigh trials by the share of windows on which a latent fires."


@pytest.mark.parametrize(
    ("key", "reached"),
    [
        ("examples.window", {"text_index", "examples", "scores/intervention", *TESTED_ON_WINDOWS}),
        ("corpus.tokens", {"corpus"}),
        ("proof_of_load.tokens", {"activation_cache"}),
        ("explainers.quotes.words", {"explanations"}),
        ("scorers.detection.protocol", {"scores/detection"}),
        ("name", {"score_report"}),
    ],
)
def test_a_setting_reaches_those_who_read_it(file: Path, key: str, reached: set[str]) -> None:
    """What lies behind them changes only when their tables do."""
    before, after = fingerprints(file), fingerprints(changed(file, {key: IDENTITY[key]}))
    assert {name for name in before if after[name] != before[name]} == reached


ASK_THE_ORACLE = ("detection", "fuzzing", "surprisal", "simulation", "generation")
"Which knows what to make of explanations of its own alone."
BACK = {"examples.test.negatives": "random"} | {f"scorers.{m}.explainers": None for m in ASK_THE_ORACLE}
"Where the study that is watched has the other value already."


ONLY_SHOWN = {("examples", "corpus.bos"), ("examples", "subject_model.revision")}
"Read to show some examples as text, not to make the table."
ON_WINDOWS = ("detection", "fuzzing", "surprisal", "simulation", "intruder", *BY_COMPARING)
IN_THE_TABLE = {(f"scores/{method}", "examples.test.negatives") for method in ON_WINDOWS}
"Says which kinds there are to choose from; the examples table holds these kinds, so it changes with them."


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
    only_llm = {f"scorers.{method}.explainers": ["llm"] for method in ASK_THE_ORACLE}
    changes = {
        "storage": "watched",
        "examples.test.non_activating": 30,
        "examples.test.negatives": ["random", "neighbour", "similar_text"],
        **only_llm,
    }
    study = load_study(changed(file, changes, "watched.yaml"))
    keys = {id(settings): key for key, settings in settings_objects(study)}
    read: dict[str, set[str]] = {}
    watching: list[str] = []

    def watched_getattribute(self: Settings, name: str) -> Any:
        fields = type(self).model_fields
        if watching and id(self) in keys and name in fields and mark(fields[name]) == "identity":
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
    for key in sorted(set.union(*read.values()) & set(IDENTITY) - {"name"}):
        after = fingerprints(changed(study.file, {key: BACK.get(key, IDENTITY[key])}))
        overlooked = [asset for asset in read if key in read[asset] and after[asset] == before[asset]]
        assert not [asset for asset in overlooked if (asset, key) not in ONLY_SHOWN | IN_THE_TABLE], key


def test_the_name_of_a_hub_model_decides_the_corpus(file: Path) -> None:
    """There are no files to hash, so the name must tell two tokenizers apart."""
    one, other = (
        Freshness(load_study(changed(file, {"subject_model.path": name}, f"hub{i}.yaml")))
        for i, name in enumerate(("owner/one", "owner/other"))
    )
    assert one.fingerprint(one.assets["corpus"], None).value != other.fingerprint(other.assets["corpus"], None).value


BY_EXPLANATION = {f"scores/{method}" for method in (*BY_COMPARING, *ASK_THE_ORACLE)} - {"scores/example_embedding"}
WEIGHED = TESTED_ON_WINDOWS
READERS: dict[tuple[str, str, str], set[str]] = {
    # Another decoder with equal examples: what acts on the model or compares weights, and no judge.
    ("sae_weights", "files", "sha256"): {
        "activation_cache", "latent_statistics", "layer_matching", "scores/generation", "scores/intervention",
    },
    ("activation_cache", "activations", "activation"): {"latent_statistics", "examples", "scores/intervention"},
    ("latent_statistics", "statistics", "max_activation"): {"scores/generation", "scores/intervention"},
    ("latent_statistics", "statistics", "dead"): {"layer_matching"},
    ("latent_statistics", "statistics", "promoted_tokens"): set(),  # shown to no explainer of this study
    ("examples", "examples", "tokens"): {"explanations", *(f"scores/{method}" for method in ON_WINDOWS)},
    ("examples", "examples", "decile"): WEIGHED,
    ("examples", "latents", "windows"): {*WEIGHED, "semantic_overlap"},
    ("explanations", "explanations", "explanation"): {*BY_EXPLANATION, "semantic_overlap"},
    ("layer_matching", "matching", "latent_b"): {"semantic_overlap"},
    ("layer_matching", "matching", "similarity"): set(),
    ("explanations", "explanations", "raw_reply"): set(),
    ("text_index", "windows", "vector"): {"examples"},
}  # fmt: skip
"By column of a table of the first layer: who is made anew where it differs, the report left aside."


@pytest.mark.parametrize("column", READERS, ids="/".join)
def test_an_input_reaches_exactly_those_who_read_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, column: tuple[str, str, str]
) -> None:
    places = ["embed_tokens", "layers.0"]
    study = load_study(changed(file, {"saes.0.hookpoints": places, "alignment.pairs": [places]}, "pairs.yaml"))
    make_partition(study, "layer_matching", pair_key(*places), OracleModels())
    before = fingerprints(study.file)
    asset, table, name = column
    current = Freshness.current

    def with_another(self: Freshness, of: str, key: str | None) -> Partition | None:
        partition = current(self, of, key)
        if partition is None or of != asset or key not in (None, "embed_tokens", pair_key(*places)):
            return partition
        manifest = copy.deepcopy(partition.manifest)
        assert name in manifest["tables"][table]["columns"]
        manifest["tables"][table]["columns"][name] = "another"
        return Partition(partition.folder, manifest)

    monkeypatch.setattr(Freshness, "current", with_another)
    after = fingerprints(study.file)
    assert {one for one in before if after[one] != before[one]} - {"score_report"} == READERS[column]
