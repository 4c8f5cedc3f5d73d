"""The activation cache holds exactly what was given to it, whatever the sizes of runs and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from interp_assets.activations import cache_file
from tests.synthetic_cache import firings, write_cache


@pytest.mark.parametrize(("run", "file"), [(1_000_000, 1_000_000), (500, 700), (37, 100)])
def test_equals_the_dense_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int, file: int) -> None:
    monkeypatch.setattr(cache_file, "ENTRIES_PER_RUN", run)
    monkeypatch.setattr(cache_file, "ENTRIES_PER_FILE", file)
    monkeypatch.setattr(cache_file, "ROWS_PER_GROUP", 64)
    dense = firings()
    reader = write_cache(tmp_path, dense)
    assert (len(reader.files) > 1) == (file < 1_000_000)
    for latent in range(dense.shape[2]):
        context, position = np.nonzero(dense[:, :, latent])
        got = reader.latent(latent)
        np.testing.assert_array_equal(got.context, context)
        np.testing.assert_array_equal(got.position, position)
        np.testing.assert_array_equal(got.activation, dense[context, position, latent])
    together = [entries.latent for _, entries in reader.blocks()]
    np.testing.assert_array_equal(np.concatenate(together), np.sort(np.nonzero(dense)[2]))
    assert next(latents.start for latents, _ in reader.blocks()) == 0
    assert [latents.stop for latents, _ in reader.blocks()][-1] == dense.shape[2]


def test_content_hash_does_not_depend_on_runs_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = firings()
    whole = write_cache(tmp_path / "a", dense).partition.content_hash
    monkeypatch.setattr(cache_file, "ENTRIES_PER_RUN", 300)
    assert write_cache(tmp_path / "b", dense).partition.content_hash == whole
    monkeypatch.setattr(cache_file, "ENTRIES_PER_FILE", 200)
    in_many = write_cache(tmp_path / "c", dense).partition
    assert (
        in_many.tables["activations"]["columns"]
        == write_cache(tmp_path / "a", dense).partition.tables["activations"]["columns"]
    )
    changed = dense.copy()
    changed[changed > 0] *= 1.0001
    assert write_cache(tmp_path / "d", changed).partition.content_hash != whole
