"""Prompts of embedders stand before what they were made for: queries are what is looked for by, windows are documents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from interp_assets.freshness import Freshness
from interp_assets.scores.embedding import Embedding
from interp_assets.scores.trials import Subject
from interp_assets.study import load_study
from resources.embedder_prompts import prompts_by_role, treats_roles_apart
from resources.text_embedder import TextEmbedder
from tests.changed_study import changed
from tests.tiny import WORDS, make_embedder, make_study

QUERY, DOCUMENT = f"{WORDS[40]} {WORDS[41]} ", f"{WORDS[30]} "
TEXTS = [" ".join(WORDS[i : i + n]) for i, n in ((0, 6), (3, 9), (20, 2), (7, 6))]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_embedder(tmp_path_factory.mktemp("embedder") / "plain")


def with_prompts(plain: Path, folder: Path, **settings: Any) -> Path:
    shutil.copytree(plain, folder)
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def encoded(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """Without any prompt of the model's."""
    return model.encode(texts, prompt="", normalize_embeddings=True, show_progress_bar=False)


# embeddings-benchmark/mteb #2871 asks for the same.
def test_a_default_prompt_of_queries_does_not_stand_before_windows(plain: Path, tmp_path: Path) -> None:
    # As embedders have it that are told what to look for, and read what they look in as it is.
    folder = with_prompts(
        plain, tmp_path / "e", prompts={"query": QUERY, "document": DOCUMENT}, default_prompt_name="query"
    )
    embedder, model = TextEmbedder(folder, device="cpu"), SentenceTransformer(str(plain), device="cpu")
    for role, prompt in (("document", DOCUMENT), ("query", QUERY), ("instructed", "")):
        by_hand = encoded(model, [prompt + text for text in TEXTS])
        np.testing.assert_allclose(embedder.embed(TEXTS, role=role), by_hand, atol=1e-5)  # type: ignore[arg-type]
    # What the maker's own class says.
    own = SentenceTransformer(str(folder), device="cpu")
    for role, theirs in (("document", own.encode_document), ("query", own.encode_query)):
        np.testing.assert_allclose(
            embedder.embed(TEXTS, role=role),  # type: ignore[arg-type]
            theirs(TEXTS, normalize_embeddings=True, show_progress_bar=False),
            atol=1e-5,
        )
    # Control: as windows were embedded before.
    before = own.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(before - embedder.embed(TEXTS)).max() > 0.01


def test_embedders_without_prompts_stay_as_they_are_bit_for_bit(plain: Path) -> None:
    embedder, model = TextEmbedder(plain, device="cpu"), SentenceTransformer(str(plain), device="cpu")
    in_order = sorted(TEXTS, key=lambda text: (len(text), text))
    before = model.encode(
        in_order, batch_size=64, normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True
    ).numpy()  # fmt: skip
    counted: list[int] = []
    embedder.embed(TEXTS, counted.append)
    assert counted == [len(TEXTS)]
    for role in ("document", "query", "instructed"):
        assert (embedder.embed(in_order, counted.append, role) == before).all()  # type: ignore[arg-type]
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("prompts", "default", "document", "query"),
    [
        ({}, None, "", ""),
        ({"query": "", "document": ""}, None, "", ""),
        ({"query": None, "document": None, "passage": "passage: "}, None, "passage: ", ""),
        ({"query": "q: ", "passage": "p: "}, None, "p: ", "q: "),
        ({"query": "q: "}, "query", "", "q: "),
        ({"web_search_query": "q: "}, "web_search_query", "", "q: "),
        ({"query": "", "document": "", "sts": "s: "}, "sts", "s: ", "s: "),
        ({"document": "d: ", "query": ""}, "document", "d: ", ""),
        ({"sts": "s: "}, None, "", ""),
    ],
)
def test_prompts_of_the_kinds_that_there_are(
    prompts: dict[str, str | None], default: str | None, document: str, query: str
) -> None:
    assert prompts_by_role(prompts, default) == (document, query)


def test_the_studys_own_instruction_takes_the_place_of_the_query_prompt(plain: Path, tmp_path: Path) -> None:
    with_prompts(plain, tmp_path / "embedder", prompts={"query": QUERY}, default_prompt_name="query")
    scorers = {"embedding": {"model": "./embedder", "device": "cpu", "instruction": f"{WORDS[12]} "}}
    study = load_study(make_study(tmp_path, explainers={"quotes": {"kind": "extractive"}}, scorers=scorers))
    method = Embedding(study)
    subject = Subject.__new__(Subject)
    subject.explanation = TEXTS[0]
    assert (method.role, method.standing_for(subject)) == ("instructed", [f"{WORDS[12]} {TEXTS[0]}"])
    file = changed(study.file, {"scorers.embedding.instruction": ""}, "plain.yaml")
    method = Embedding(load_study(file))
    assert (method.role, method.standing_for(subject)) == ("query", [TEXTS[0]])


def test_only_studies_whose_embedder_treats_roles_apart_become_stale(plain: Path, tmp_path: Path) -> None:
    assert not treats_roles_apart(plain)
    shutil.copytree(plain, tmp_path / "embedder")
    scorers = {"embedding": {"model": "./embedder"}}
    study = load_study(make_study(tmp_path, explainers={"quotes": {"kind": "extractive"}}, scorers=scorers))
    assert "embedder_prompts" not in Freshness(study).assets["scores/embedding"].settings
    shutil.rmtree(tmp_path / "embedder")
    with_prompts(plain, tmp_path / "embedder", prompts={"query": QUERY}, default_prompt_name="query")
    assert Freshness(study).assets["scores/embedding"].settings["embedder_prompts"] == "by role"
    for settings in ({"prompts": {"sts": "s: "}, "default_prompt_name": "sts"}, {"prompts": [1]}, {"prompts": {}}):
        folder = with_prompts(plain, tmp_path / str(len(list(tmp_path.iterdir()))), **settings)
        assert not treats_roles_apart(folder)
    (folder / "config_sentence_transformers.json").write_text("[" * 200_000)
    assert not treats_roles_apart(folder)
