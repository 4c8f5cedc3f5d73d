"""Matching at sizes that take seconds: against scipy's dense optimum, and a run that is killed in the middle of it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_assets.freshness import Freshness
from interp_assets.partitions import pair_key
from interp_assets.study import load_study
from resources.partition_files import Partition
from tests.changed_study import changed
from tests.commands import Command, settle_in
from tests.matching_instances import check, cosines, exact, instance, sparse

PAIR = ("embed_tokens", "layers.0")
LATENTS = 8_000


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [
        ("random", 4_096, 4_096),
        ("clustered", 4_096, 4_096),
        ("near_tied", 4_096, 4_096),
        ("duplicated_rows", 4_096, 4_096),
        ("clustered", 3_000, 4_096),
        ("duplicated_rows", 4_096, 3_500),
    ],
)
def test_four_thousand_latents(kind: str, rows: int, columns: int) -> None:
    similarities = cosines(*instance(kind, rows, columns, 64))
    check(sparse(similarities), exact(similarities))


@pytest.fixture
def study(two_layers: Path, tmp_path: Path) -> Path:
    """Two layers of thousands of latents, nothing made yet."""
    file = settle_in(tmp_path / "world", two_layers, "wide")
    for number, layer in enumerate(PAIR):
        sae = tmp_path / "world" / "saes" / layer / "sae.safetensors"
        width = load_file(sae)["W_dec"].shape[1]
        rows = torch.from_numpy(instance("clustered", LATENTS, LATENTS, width)[number])
        weights = {"encoder.weight": rows, "encoder.bias": torch.zeros(LATENTS), "W_dec": rows.clone()}
        save_file({**weights, "b_dec": torch.zeros(width)}, sae)
        settings = json.loads(sae.with_name("cfg.json").read_text())
        sae.with_name("cfg.json").write_text(json.dumps(settings | {"num_latents": LATENTS}))
    return changed(file, {"alignment": {"pairs": [list(PAIR)], "dead": "matched"}}, "wide.yaml")


def matching_of(file: Path) -> Partition:
    freshness = Freshness(load_study(file))
    found = freshness.current("layer_matching", pair_key(*PAIR))
    assert found is not None
    return found


def test_a_run_that_is_killed_while_it_matches_goes_on_from_the_last_block(study: Path, tmp_path: Path) -> None:
    command = ("run", "wide", "--until", "layer_matching")
    whole = shutil.copytree(tmp_path / "world", tmp_path / "undisturbed")
    end = Command(whole, command).end()
    assert end.returncode == 0, end.stderr

    root = tmp_path / "world"

    def blocks(kind: str) -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in root.rglob(f"blocks/{kind}*.npz")}

    kept: dict[Path, int] = {}
    for moment in ("candidates_of_rows-2", "candidates_of_columns", "better_pairs", "certificate"):
        running = Command(root, command)
        running.wait_until(lambda moment=moment: blocks(moment))
        running.send(signal.SIGKILL)
        assert running.end().returncode == -signal.SIGKILL
        now = blocks("")
        assert kept.items() < now.items()  # none was made again, and there are more
        kept = now
    end = Command(root, command).end()
    assert end.returncode == 0, end.stderr
    assert not blocks("")
    assert matching_of(study).content_hash == matching_of(whole / study.relative_to(root)).content_hash
    assert np.isclose(matching_of(study).metadata["certified_gap"], 0)
