"""A corpus or a model at fault: one clear line, recorded until the input changes, and nothing else is harmed."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from interp_assets.corpus.contexts import documents
from interp_assets.freshness import Freshness
from interp_assets.settings import Corpus
from interp_assets.study import load_study
from resources.errors import NotNow, UnusableInput
from resources.tokenizers import load_tokenizer, vocabulary_size
from tests.changed_study import changed
from tests.refusals import GOOD, cut, make, refused
from tests.tiny import VOCABULARY, make_model, make_tokenizer

Damage = Callable[[Path], object]


@pytest.fixture
def world(two_layers: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a sound study with two layers, to be damaged."""
    return shutil.copytree(two_layers.parent, tmp_path / "world")


@pytest.fixture(scope="module")
def ready(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its corpus and the hashes of its SAEs."""
    root = shutil.copytree(two_layers.parent, tmp_path_factory.mktemp("ready") / "world")
    make(root, "corpus")
    for layer in (GOOD, "layers.0"):
        make(root, "sae_weights", layer)
    return root


def save_texts(root: Path, texts: list[str | None], column: str = "text") -> None:
    pl.DataFrame({column: texts}, schema={column: pl.String}).write_parquet(root / "corpus.parquet")


def damage_pages(file: Path) -> None:
    """The footer stays sound, what it points to does not."""
    content = bytearray(file.read_bytes())
    content[4:2000] = b"\xff" * 1996
    file.write_bytes(content)


def as_jsonl(root: Path, lines: list[str]) -> None:
    (root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    changed(root / "study.yaml", {"corpus.path": "corpus.jsonl"}, "study.yaml")


def row(text: str | None) -> str:
    return json.dumps({"text": text, "id": 1})


CORPORA: dict[str, tuple[Damage, str]] = {
    "empty": (lambda root: save_texts(root, []), "holds 0 tokens in whole contexts, corpus.tokens asks for 8,192; the corpus is empty"),
    "blank": (lambda root: save_texts(root, ["", " \n", None]), "holds 0 tokens in whole contexts"),
    "short": (
        lambda root: save_texts(root, ["kaba lode " * 500]),
        "holds 960 tokens in whole contexts, corpus.tokens asks for 8,192; lower it or give more text",
    ),
    "column": (lambda root: save_texts(root, ["kaba"], "body"), "no column 'text'; there are: body"),
    "numbers": (
        lambda root: pl.DataFrame({"text": [1, 2]}).write_parquet(root / "corpus.parquet"),
        "column 'text' holds int64, not text",
    ),
    "no parquet": (lambda root: (root / "corpus.parquet").write_text("kaba lode"), "not a readable Parquet file"),
    "cut parquet": (lambda root: cut(root / "corpus.parquet", 5000), "not a readable Parquet file"),
    "damaged parquet": (lambda root: damage_pages(root / "corpus.parquet"), "not a readable Parquet file"),
    "broken line": (lambda root: as_jsonl(root, [row("kaba"), "", '{"text": "lo']), "corpus.jsonl: line 3 is not JSON"),
    "line without text": (lambda root: as_jsonl(root, [row("kaba"), '{"id": 2}']), "line 2 has no 'text'; there are: id"),
    "line with a number": (lambda root: as_jsonl(root, [row("kaba"), '{"text": 2}']), "line 2: 'text' is int, not text"),
    "line with a list": (lambda root: as_jsonl(root, ["[1, 2]"]), "line 1 is not an object with a text under 'text'"),
    "tokenizer": (
        lambda root: make_tokenizer([*VOCABULARY[:2], *"abcdefghij", *VOCABULARY[2:]]).save_pretrained(root / "model"),
        "the tokenizer does not fit the model: it gives token id 59, the model's vocabulary ends at 49",
    ),
    "no tokenizer": (lambda root: (root / "model" / "tokenizer.json").unlink(), "no usable tokenizer"),
    "cut tokenizer": (lambda root: cut(root / "model" / "tokenizer.json", 300), "no usable tokenizer"),
    "configuration": (lambda root: cut(root / "model" / "config.json", 60), "no usable"),
}  # fmt: skip


@pytest.mark.parametrize("case", CORPORA)
def test_a_corpus_that_cannot_be_used(world: Path, two_layers: Path, case: str) -> None:
    damage, said = CORPORA[case]
    damage(world)
    reason = refused(world, "corpus")
    assert said in reason
    shutil.copytree(two_layers.parent, world, dirs_exist_ok=True)
    assert make(world, "corpus").manifest["asset"] == "corpus"


MODELS: dict[str, tuple[Damage, str]] = {
    "no weights": (lambda root: (root / "model" / "model.safetensors").unlink(), "no file named model.safetensors"),
    "cut short": (lambda root: cut(root / "model" / "model.safetensors", 9000), "no usable causal language model"),
    "incomplete": (lambda root: drop_tensor(root / "model" / "model.safetensors"), "lack 1 of its tensors, such as lm_head.weight"),
    "other shapes": (lambda root: make_model(root / "model", layers=3) and cut_layers(root), "no usable causal language model"),
}  # fmt: skip


def drop_tensor(file: Path) -> None:
    weights = load_file(file)
    del weights["lm_head.weight"]
    save_file(weights, file, {"format": "pt"})


def cut_layers(root: Path) -> None:
    file = root / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 40}))


@pytest.mark.parametrize("case", MODELS)
def test_a_subject_model_that_cannot_be_used(ready: Path, two_layers: Path, tmp_path: Path, case: str) -> None:
    damage, said = MODELS[case]
    world = shutil.copytree(ready, tmp_path / "world")
    damage(world)
    assert said in refused(world, "activation_cache", GOOD)
    shutil.copytree(two_layers.parent / "model", world / "model", dirs_exist_ok=True)
    freshness = Freshness(load_study(world / "study.yaml"))
    assert freshness.own_state(freshness.assets["activation_cache"], GOOD)[0] == "missing"
    if case == "no weights":
        assert make(world, "activation_cache", GOOD).metadata["fvu"] < 0.1


LEAVES_A_TRACE = """
import pathlib
from transformers import PretrainedConfig, PreTrainedTokenizerFast
pathlib.Path(__file__).with_name("ran").touch()
class Tokenizer(PreTrainedTokenizerFast): pass
class Config(PretrainedConfig): model_type = "own"
"""
OWN_CODE: dict[str, tuple[str, dict[str, Any], Callable[[Path], Any]]] = {
    "tokenizer": ("tokenizer_config.json", {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}}, load_tokenizer),
    "model configuration": ("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, vocabulary_size),
}  # fmt: skip


@pytest.mark.parametrize("what", OWN_CODE)
def test_code_beside_a_model_is_not_run_and_not_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    name, changes, load = OWN_CODE[what]
    model = make_model(tmp_path / "model")
    load(model)  # control
    file = model / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (model / "own.py").write_text(LEAVES_A_TRACE)
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    capfd.readouterr()
    with pytest.raises(UnusableInput) as caught:
        load(model)
    assert str(caught.value).startswith(f"{model}: a {what} that is code of its maker's, which is never run here; ")
    assert not asked and not capfd.readouterr().out
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "ka"}, {"text": [1, 2]}], "corpus owner/texts: row 2: 'text' is list, not text"),
        ([{"text": {"en": "ka"}}], "corpus owner/texts: row 1: 'text' is dict, not text"),
        ([{"other": "ka", "more": 1}], "corpus owner/texts: no column 'text'; there are: other, more"),
    ],
)
def test_a_hub_data_set_that_is_no_text(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], said: str) -> None:
    hub = types.ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", hub)
    corpus = Corpus(path="owner/texts", column="text", tokens=64)
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: [{"text": "ka"}, {"text": None}, {"text": " "}], False)
    assert list(documents(corpus, Path(corpus.path))) == ["ka"], "control"
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(UnusableInput, match=f"^{re.escape(said)}$"):
        list(documents(corpus, Path(corpus.path)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject_model.device": "cuda:7"}, "device cuda:7: this machine has none; there are: cpu"),
        ({"subject_model.path": "owner/model"}, "owner/model: no such folder, and no tokenizer of that name to be had"),
        ({"corpus.path": "owner/texts"}, "corpus owner/texts: "),
    ],
)
def test_what_another_day_may_bring_is_not_held_against_the_input(
    world: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], said: str
) -> None:
    """A device that is missing, a hub that is not reached: nothing is recorded, so the next run tries again."""
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    changed(world / "study.yaml", changes, "study.yaml")
    for _ in range(2):
        with pytest.raises(NotNow, match=said):
            make(world, "activation_cache", GOOD)
    assert not list((world / "store").rglob("failed.json"))
    assert "failed" not in {state.state for state in Freshness(load_study(world / "study.yaml")).states()}


def test_all_formats_give_the_same_contexts(world: Path) -> None:
    texts = pl.read_parquet(world / "corpus.parquet")["text"].to_list()
    texts[5] += "\n" + texts[6]  # a line break within a document
    texts[7:7] = ["", "  "]
    save_texts(world, texts)
    hashes = [make(world, "corpus").content_hash]
    (world / "corpus.txt").write_text("\n\n".join(texts) + "\n")
    (world / "corpus.jsonl").write_text("".join(row(text) + "\n" for text in texts) + row(None) + "\n")
    for name in ("corpus.txt", "corpus.jsonl"):
        changed(world / "study.yaml", {"corpus.path": name}, "study.yaml")
        hashes.append(make(world, "corpus").content_hash)
    assert len(set(hashes)) == 1
    (world / "corpus.txt").write_text("\n\n".join(texts[1:] + texts))
    changed(world / "study.yaml", {"corpus.path": "corpus.txt"}, "study.yaml")
    assert make(world, "corpus").content_hash not in hashes  # control
    assert pq.read_metadata(world / "corpus.parquet").num_rows == len(texts)


def test_shards_and_packed_files_are_known_by_their_content(world: Path) -> None:
    texts = pl.read_parquet(world / "corpus.parquet")["text"].to_list()
    hashes = {make(world, "corpus").content_hash}

    def state(path: str) -> str:
        changed(world / "study.yaml", {"corpus.path": path}, "study.yaml")
        freshness = Freshness(load_study(world / "study.yaml"))
        return freshness.own_state(freshness.assets["corpus"], None)[0]

    shards = world / "shards"
    shards.mkdir()
    third = len(texts) // 3
    for number in range(3):
        part = texts[number * third : (number + 1) * third if number < 2 else None]
        content = "".join(row(text) + "\n" for text in part).encode()
        (shards / f"part-{number}.jsonl.gz").write_bytes(gzip.compress(content))
    assert state("shards") == "stale"
    hashes.add(make(world, "corpus").content_hash)
    assert len(hashes) == 1
    assert state("shards") == "fresh"
    shards.rename(world / "renamed")
    assert state("renamed") == "fresh"
    (world / "renamed" / "README.md").write_text("not text of the corpus")
    assert state("renamed") == "fresh"
    shard = world / "renamed" / "part-1.jsonl.gz"
    sound = shard.read_bytes()
    shard.write_bytes(gzip.compress(gzip.decompress(sound).replace(b"kaba", b"lode", 1)))
    assert state("renamed") == "stale"
    shard.write_bytes(sound)
    assert state("renamed") == "fresh"
    (world / "renamed" / "part-3.jsonl.gz").write_bytes(gzip.compress(row("kaba").encode()))
    assert state("renamed") == "stale"
    # Of a single packed file the name says what is in it.
    shutil.copy(shard, world / "c.jsonl.gz")
    shutil.copy(shard, world / "c.txt.gz")
    changed(world / "study.yaml", {"corpus.path": "c.jsonl.gz", "corpus.tokens": 1024}, "study.yaml")
    make(world, "corpus")
    assert state("c.jsonl.gz") == "fresh"
    assert state("c.txt.gz") == "stale"
