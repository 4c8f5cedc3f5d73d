"""A layer may have more distinct texts than an embedder remembers: each is embedded once all the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from interp_assets.study import load_study
from resources import text_embedder
from resources.text_embedder import TextEmbedder
from tests.conftest import make_all
from tests.methods_study import make_bag_of_words
from tests.oracle import OracleModels
from tests.tiny import WORDS, make_study

METHODS = ("embedding", "example_embedding", "token_embedding")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text went through the model."""
    counted: Counter[str] = Counter()
    for name in ("_vectors", "_tokens"):
        original = getattr(TextEmbedder, name)

        def counting(self: TextEmbedder, texts: list[str], treatment: Any, original: Any = original) -> Any:
            counted.update(texts)
            return original(self, texts, treatment)

        monkeypatch.setattr(TextEmbedder, name, counting)
    return counted


@pytest.mark.parametrize("method", METHODS)
def test_each_text_of_a_layer_is_embedded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Counter[str], method: str
) -> None:
    monkeypatch.setattr(text_embedder, "REMEMBERED_TEXTS", 20)
    make_bag_of_words(tmp_path / "embedder")
    study = load_study(
        make_study(
            tmp_path,
            explainers={"quotes": {"kind": "extractive"}},
            examples={"window": 16, "min_windows": 8, "latents": 8},
            scorers={method: {"model": "./embedder"}},
        )
    )
    made = make_all(study, OracleModels())[f"scores/{method}"]
    assert len(encoded) > 5 * 20
    assert not {text for text, times in encoded.items() if times > 1}
    assert made.metadata["texts_embedded"] == encoded.total()


def test_what_is_remembered_is_bounded_and_what_is_asked_for_stays(
    monkeypatch: pytest.MonkeyPatch, encoded: Counter[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(text_embedder, "REMEMBERED_TEXTS", 20)
    embedder = TextEmbedder(make_bag_of_words(tmp_path / "embedder"), device="cpu", batch_size=2)
    embedder.embed(WORDS[:15])
    first = embedder.embed(WORDS[10:40])
    assert encoded.total() == 40
    assert len(embedder._known) == 20
    # The five that were known were not embedded again, and those that are remembered now are not either.
    assert (embedder.embed(WORDS[10:20]) == first[:10]).all()
    assert encoded.total() == 40
