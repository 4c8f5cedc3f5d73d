"""Which files the watcher takes up, and when."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import torch
from dagster._utils.schedules import is_valid_cron_string
from safetensors.torch import load_file, save

from interp_assets import file_watcher
from interp_assets.file_watcher import Stamp, is_complete, watch
from interp_assets.freshness import Freshness
from interp_assets.setting_errors import StudyError
from interp_assets.settings import is_cron
from interp_assets.study import Study, load_study
from tests.changed_study import changed
from tests.seeded import unmade_study

LAYERS = ["embed_tokens", "layers.0"]


class Ticks:
    """Ticks of the watcher, one after the other, each event stored as the daemon would store it."""

    def __init__(self, study: Study, instance: dg.DagsterInstance) -> None:
        self.study = study
        self.instance = instance
        self.seen: dict[str, Stamp] = {}
        self.notes: list[str] = []

    def tick(self) -> list[str | None]:
        """The layers whose `sae_weights` were made."""
        found = watch(self.study, self.instance, json.loads(json.dumps(self.seen)))
        self.seen, self.notes = found.seen, found.notes
        for event in found.events:
            self.instance.report_runless_asset_event(event)
        return [event.partition for event in found.events]


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    (tmp_path / "home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "home")) as instance:
        yield Ticks(unmade_study(tmp_path, LAYERS), instance)


@pytest.fixture
def settled(ticks: Ticks) -> Ticks:
    assert [ticks.tick(), ticks.tick(), ticks.tick()] == [[], LAYERS, []]
    assert (ticks.seen, ticks.notes) == ({}, [])
    return ticks


def weights(study: Study, layer: str = "layers.0") -> Path:
    return study.root / "saes" / layer / "sae.safetensors"


def other_sae(study: Study, seed: int = 1) -> bytes:
    tensors = load_file(weights(study))
    tensors["encoder.bias"] = torch.full_like(tensors["encoder.bias"], seed / 10)
    return save(tensors)


def test_at_first_everything_is_new_and_must_hold_still(ticks: Ticks) -> None:
    assert ticks.tick() == []
    assert "layers.0: sae.safetensors has changed; it is read once it holds still" in ticks.notes
    assert not Freshness(ticks.study).file_hashes.known
    assert ticks.tick() == LAYERS
    events = ticks.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "sae_weights"]))
    assert events is not None
    freshness = Freshness(ticks.study)
    stored = freshness.current("sae_weights", "layers.0")
    assert stored is not None
    materialisation = events.asset_materialization
    assert materialisation is not None
    assert (materialisation.tags or {})["dagster/data_version"] == stored.content_hash
    assert materialisation.metadata["why"].value == "never made"
    # Models and corpus are read too, so that no tick of the automation has to.
    known = {Path(file).name for file in freshness.file_hashes.known}
    assert {"corpus.parquet", "model.safetensors", "tokenizer.json", "cfg.json"} <= known


def test_a_changed_file_is_taken_up_once(settled: Ticks) -> None:
    weights(settled.study).write_bytes(other_sae(settled.study))
    assert [settled.tick() for _ in range(4)] == [[], ["layers.0"], [], []]


def test_a_file_that_keeps_changing_waits(settled: Ticks) -> None:
    for seed in range(3):
        weights(settled.study).write_bytes(other_sae(settled.study, seed + 1))
        assert settled.tick() == []
    assert settled.tick() == ["layers.0"]


def test_the_same_content_again_is_no_change(settled: Ticks) -> None:
    os.utime(weights(settled.study))
    assert [settled.tick() for _ in range(3)] == [[], [], []]
    assert settled.seen == {}


def test_half_a_file_is_not_taken_up(settled: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    content = other_sae(settled.study)
    weights(settled.study).write_bytes(content[:-1])
    read = dict(Freshness(settled.study).file_hashes.known)
    assert [settled.tick() for _ in range(4)] == [[], [], [], []]
    assert settled.notes == ["layers.0: sae.safetensors is not as long as its header says; is it still being copied?"]
    assert Freshness(settled.study).file_hashes.known == read
    weights(settled.study).write_bytes(content)
    assert [settled.tick(), settled.tick()] == [[], ["layers.0"]]

    # One that nobody completes is taken as it is after a while, so that its error is seen.
    weights(settled.study).write_bytes(content[:-1])
    assert [settled.tick(), settled.tick()] == [[], []]
    monkeypatch.setattr(file_watcher, "GIVEN_TO_COPY_SECONDS", 0)
    assert settled.tick() == ["layers.0"]


def test_what_is_read_in_one_tick_is_limited(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watcher, "BYTES_A_TICK", 1)
    assert ticks.tick() == []
    read = []
    made: list[str | None] = []
    for _ in range(40):
        made += ticks.tick()
        read.append(len(Freshness(ticks.study).file_hashes.known))
    assert made == LAYERS
    assert {after - before for before, after in itertools.pairwise([0, *read])} == {0, 1}
    assert ticks.seen == {}


def test_what_dagster_has_no_record_of_is_reported(settled: Ticks) -> None:
    """As after an `interp run` on another instance, or a daemon that was killed between making and reporting."""
    settled.instance.wipe_assets([dg.AssetKey(["tiny", "sae_weights"])])
    assert [settled.tick(), settled.tick(), settled.tick()] == [[], LAYERS, []]


def test_an_unreadable_sae_stops_its_layer_only(settled: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in LAYERS:
        weights(settled.study, layer).write_bytes(other_sae(settled.study))
    real = Path.open

    def refuse(self: Path, *arguments: object, **more: object) -> object:
        if self == weights(settled.study):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    assert [settled.tick(), settled.tick()] == [[], ["embed_tokens"]]
    assert any("Permission denied" in note for note in settled.notes)


def test_an_sae_that_is_gone_stops_its_layer_only(settled: Ticks) -> None:
    weights(settled.study, "layers.0").write_bytes(other_sae(settled.study))
    shutil.rmtree(weights(settled.study, "embed_tokens").parent)
    settled.study = load_study(settled.study.file)
    assert [settled.tick(), settled.tick()] == [[], ["layers.0"]]
    assert any("no SAE for 'embed_tokens'" in note for note in settled.notes)


def test_a_file_is_complete_when_it_ends_where_its_header_says(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    whole = save({"a": torch.zeros(3), "b": torch.ones(2, 2)}, metadata={"made": "here"})
    for content, complete in [
        (whole, True),
        (save({}), True),
        (whole[:-1], False),
        (whole + b"\0", False),
        (whole[:20], False),
        (whole[:4], False),
        (b"", False),
        (b"{}" * 100, False),
        ((2).to_bytes(8, "little") + b"[]", False),
    ]:
        file.write_bytes(content)
        assert is_complete(file) == complete, content
    file.write_bytes(whole[:-1])
    os.utime(file, (0, time.time() - 3600))
    assert is_complete(file)
    other = tmp_path / "x.npz"
    other.write_bytes(b"PK")
    assert is_complete(other)


# The settings of the automation


def test_cron_lines_are_those_that_dagster_takes() -> None:
    fields = ["*", "*/5", "0", "7", "59", "60", "23", "24", "1-5", "5-1", "1,2,3", "*/0", "x", "-1", "3-", "1-9/2"]
    lines = [
        " ".join([*["*"] * place, field, *["*"] * (4 - place)]) for place, field in itertools.product(range(5), fields)
    ]
    lines += [
        "",
        "* * * *",
        "* * * * * *",
        "0 3 * * *",
        "@hourly",
        "0 3 * * 1-5",
        "0 0 31 2 *",
        "0 0 * * 7",
        "0 0 * * mon",
    ]
    assert sum(map(is_cron, lines)) > 30
    assert [line for line in lines if is_cron(line) and not is_valid_cron_string(line)] == []
    # Dagster takes some more, that nobody needs.
    more = [line for line in lines if is_valid_cron_string(line) and not is_cron(line)]
    assert [line for line in more if "5-1" not in line] == ["@hourly", "0 0 * * mon"]


def test_a_bad_schedule_is_a_clear_error(tmp_path: Path) -> None:
    study = unmade_study(tmp_path, LAYERS)
    with pytest.raises(StudyError) as error:
        load_study(changed(study.file, {"automation.schedule": "0 25 * * *"}))
    assert str(error.value).endswith(
        "automation.schedule: '0 25 * * *': it must be five fields of cron in numbers (UTC), as in '0 3 * * *', or null for none"
    )
    with pytest.raises(StudyError, match="watch_seconds: 0: it must be a whole number, at least 1"):
        load_study(changed(study.file, {"automation.watch_seconds": 0}))


def test_the_shards_of_a_corpus_are_watched(ticks: Ticks) -> None:
    folder = ticks.study.root / "shards"
    folder.mkdir()
    for number in range(2):
        (folder / f"part-{number}.jsonl").write_text('{"text": "kaba"}\n')
    ticks.study = load_study(changed(ticks.study.file, {"corpus.path": "shards"}, ticks.study.file.name))

    def read() -> set[str]:
        known = map(Path, Freshness(ticks.study).file_hashes.known)
        return {file.name for file in known if file.parent == folder}

    assert [ticks.tick(), ticks.tick()] == [[], LAYERS]
    assert read() == {"part-0.jsonl", "part-1.jsonl"}
    before = Freshness(ticks.study).content(sorted(folder.iterdir()))
    (folder / "part-1.jsonl").write_text('{"text": "another text"}\n')
    assert ticks.tick() == []
    assert any(note.endswith("part-1.jsonl has changed; it is read once it holds still") for note in ticks.notes)
    ticks.tick()
    assert Freshness(ticks.study).content(sorted(folder.iterdir())) != before
    (folder / "part-2.jsonl").write_text('{"text": "one more"}\n')
    assert [ticks.tick(), ticks.tick()] == [[], []]
    assert "part-2.jsonl" in read()
