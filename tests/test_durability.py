"""Whatever stops a write leaves no half of a table: full disks, changing files, other writers. And what is made is
made alike again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from interp_assets.activations import assets as activation_assets
from interp_assets.corpus import assets as corpus_assets
from interp_assets.freshness import Freshness
from interp_assets.job import COMPUTES, InputChanged, Made, make_partition
from interp_assets.study import Study, load_study
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition
from resources.table_store import Busy
from tests.changed_study import changed
from tests.conftest import make_all
from tests.refusals import GOOD, make

assert activation_assets and corpus_assets  # imported for what they register
MODELS = LoadedModels()


@pytest.fixture
def world(two_layers: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_layers.parent, tmp_path / "world")


@pytest.fixture(scope="module")
def ready(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """All that the activation caches are made from."""
    root = shutil.copytree(two_layers.parent, tmp_path_factory.mktemp("ready") / "world")
    make(root, "corpus")
    for layer in (GOOD, "layers.0"):
        make(root, "sae_weights", layer)
    return load_study(root / "study.yaml")


def state_of(study: Study, asset: str, layer: str | None) -> str:
    freshness = Freshness(study)
    return freshness.own_state(freshness.assets[asset], layer)[0]


def files_of(study: Study, asset: str, layer: str | None) -> set[str]:
    folder = Freshness(study).store.folder(asset, layer)
    return {file.name for file in folder.rglob("*") if file.is_file()}


class FullDisk:
    """Lets some flushes to the disk pass, then every further one fails."""

    def __init__(self, passing: int) -> None:
        self.left = passing
        self.real = os.fsync

    def __call__(self, descriptor: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.real(descriptor)


def attempt(study: Study, passing: int) -> Made | OSError:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(passing))
        try:
            return make_partition(study, "activation_cache", GOOD, MODELS)
        except OSError as error:
            return error


def test_a_disk_that_fills_up_at_any_moment(ready: Study) -> None:
    """At each flush in turn: all of the partition is there or none, no held failure; once there is room all is well."""
    freshness = Freshness(ready)
    corpus = freshness.current("corpus", None)
    assert corpus is not None
    fingerprint = freshness.fingerprint(freshness.assets["activation_cache"], GOOD).value
    complete: list[bool] = []
    while not isinstance(made := attempt(ready, len(complete)), Made):
        assert made.errno == errno.ENOSPC
        committed = freshness.store.partition("activation_cache", GOOD, fingerprint)
        tables = {"manifest.json", *table_files(committed)} if committed else set()
        assert files_of(ready, "activation_cache", GOOD) == {".lock", *tables}
        assert state_of(ready, "activation_cache", GOOD) == ("fresh" if committed else "missing")
        assert len(corpus.read("corpus")) == 128
        complete.append(committed is not None)
    # Once it is committed, only the pointer to it can fail.
    assert complete == sorted(complete)
    assert complete.count(False) >= 6
    assert made.partition.metadata["tokens_used"] == 8192
    assert state_of(ready, "activation_cache", GOOD) == "fresh"


def table_files(partition: Partition) -> set[str]:
    return {file.name for table in partition.tables for file in partition.files(table)}


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), MemoryError("no memory"), KeyboardInterrupt()]
)
def test_the_machines_trouble_is_not_held_against_the_input(
    world: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(job: Any) -> None:
        job.draft.write("corpus", pl.DataFrame({"context": [1]}))
        raise error

    study = load_study(world / "study.yaml")
    with monkeypatch.context() as patch:
        patch.setitem(COMPUTES, "corpus", fails)
        with pytest.raises(type(error)):
            make_partition(study, "corpus", None, MODELS)
    assert files_of(study, "corpus", None) == {".lock"}
    assert state_of(study, "corpus", None) == "missing"
    assert not make_partition(study, "corpus", None, MODELS).reused


def test_garbage_of_a_killed_run_is_swept(world: Path) -> None:
    """What no manifest lists goes when the partition is next written; what one lists stays."""
    study = load_study(world / "study.yaml")
    freshness = Freshness(study)
    fingerprint = freshness.fingerprint(freshness.assets["corpus"], None).value
    folder = freshness.store.folder("corpus", None, fingerprint)
    folder.mkdir(parents=True)
    for name in (".spill.part", "corpus-0123.parquet", "manifest.json"):
        (folder / name).write_text("half a tab")
    made = make_partition(study, "corpus", None, MODELS).partition
    assert files_of(study, "corpus", None) == {".lock", "manifest.json", *table_files(made)}
    with freshness.store.draft("corpus", None, fingerprint):
        (folder / ".more.part").write_text("x")
    assert files_of(study, "corpus", None) == {".lock", "manifest.json", *table_files(made)}
    assert make_partition(study, "corpus", None, MODELS).reused


def test_a_table_deleted_by_hand_is_made_again(world: Path) -> None:
    study = load_study(world / "study.yaml")
    made = make_partition(study, "corpus", None, MODELS).partition
    for file in made.files("corpus"):
        file.unlink()
    assert state_of(study, "corpus", None) == "missing"
    again = make_partition(study, "corpus", None, MODELS)
    assert (again.reused, again.partition.content_hash) == (False, made.content_hash)


def test_the_second_writer_is_told_who_is_first(ready: Study) -> None:
    """And a pass over several layers goes on without the one that another process is making."""
    study = load_study(changed(ready.file, {"proof_of_load.tokens": 512}, "busy.yaml"))
    freshness = Freshness(study)
    asset = freshness.assets["activation_cache"]
    layers = [GOOD, "layers.0"]
    with freshness.store.draft(asset.name, GOOD, freshness.fingerprint(asset, GOOD).value):
        with pytest.raises(Busy) as caught:
            make_partition(study, asset.name, GOOD, MODELS, layers, waiting=None)
        assert str(caught.value).startswith("activation_cache[embed_tokens] is being made by another process")
        make_partition(study, asset.name, "layers.0", MODELS, layers)
    states = [state_of(study, asset.name, layer) == "fresh" for layer in layers]
    assert states == [False, True]
    assert not make_partition(study, asset.name, GOOD, MODELS, layers).reused


def during(asset: str, act: Callable[[], object], patch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """Have something happen while an asset is made, just before its table is complete."""
    compute = COMPUTES[asset]

    def made_meanwhile(job: Any) -> Any:
        result = compute(job)
        act()
        if error is not None:
            raise error
        return result

    patch.setitem(COMPUTES, asset, made_meanwhile)


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize(
    ("asset", "layer", "file", "name"),
    [
        ("corpus", None, "corpus.parquet", "corpus"),
        ("corpus", None, "model/tokenizer.json", "tokenizer"),
        ("activation_cache", GOOD, "saes/embed_tokens/sae.safetensors", "sae"),
        ("activation_cache", GOOD, "model/model.safetensors", "subject_model"),
    ],
)
@pytest.mark.parametrize("error", [None, UnusableInput("the file makes no sense")])
def test_a_file_that_changes_while_it_is_read(
    world: Path, patch: pytest.MonkeyPatch, asset: str, layer: str | None, file: str, name: str, error: Exception | None
) -> None:
    """Neither its table nor its failure belongs to what was there at the beginning."""
    if asset != "corpus":
        make(world, "corpus")
        make(world, "sae_weights", GOOD)
    study = load_study(world / "study.yaml")
    content = (world / file).read_bytes()
    during(asset, lambda: (world / file).write_bytes(content + b"\n"), patch, error)
    with pytest.raises(InputChanged, match=rf"{name} file changed while it was being made; the result was thrown away"):
        make_partition(study, asset, layer, MODELS)
    assert files_of(study, asset, layer) == {".lock"}
    patch.undo()
    (world / file).write_bytes(content)
    assert not make_partition(study, asset, layer, MODELS).reused


def test_control_a_file_that_is_only_touched_has_not_changed(world: Path, patch: pytest.MonkeyPatch) -> None:
    study = load_study(world / "study.yaml")
    file = world / "corpus.parquet"
    content = file.read_bytes()
    during("corpus", lambda: file.write_bytes(content), patch)
    assert not make_partition(study, "corpus", None, MODELS).reused
    assert state_of(study, "corpus", None) == "fresh"


def test_the_same_study_gives_the_same_tables(tiny_file: Path, tiny_tables: dict[str, Partition]) -> None:
    """In another store, and with other batches: every column of every table of every asset."""
    changes = {"storage": "again", "subject_model.batch_tokens": 192}
    again = make_all(load_study(changed(tiny_file, changes, "again.yaml")))
    assert {name: made.content_hash for name, made in again.items()} == {
        name: made.content_hash for name, made in tiny_tables.items()
    }
    seeded = load_study(changed(tiny_file, {"examples.seed": 1}, "seeded.yaml"))
    control = make_partition(seeded, "examples", GOOD, MODELS).partition
    assert control.content_hash != tiny_tables["examples"].content_hash
    make_partition(load_study(tiny_file), "examples", GOOD, MODELS)  # what the study points at, as it was
