"""A CrossEncoder as a score: what the maker's own class says of each pair, and what is no CrossEncoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder

from interp_assets.scores.reranker import Reranker as Method
from interp_assets.study import load_study
from resources.errors import NotNow, UnusableInput
from resources.reranker import Reranker
from tests.conftest import make_all
from tests.oracle import OracleModels
from tests.tiny import make_embedder, make_reranker, make_study


def test_scores_are_the_makers_own(tmp_path: Path) -> None:
    make_reranker(tmp_path / "reranker")
    scorers = {"reranker": {"model": "./reranker", "activating": 3, "non_activating": 3, "latents": 4}}
    study = load_study(make_study(tmp_path, explainers={"quotes": {"kind": "extractive"}}, scorers=scorers))
    made = make_all(study, OracleModels())
    explanations = dict(made["explanations"].read("explanations").select("latent", "explanation").iter_rows())
    examples, rendering = made["examples"].read("examples").filter(purpose="test"), Method(study).rendering
    trials = made["scores/reranker"].read("trials").filter(control="none")
    assert len(trials) == 4 * 6
    model = CrossEncoder(str(tmp_path / "reranker"), device="cpu")
    for row in trials.iter_rows(named=True):
        of_latent = examples.filter(latent=row["latent"], example=row["example"])
        kind = "activating" if row["expected"] else "random"
        ((tokens, start),) = of_latent.filter(kind=kind).select("tokens", "start").rows()
        pair = (explanations[row["latent"]], rendering.text(rendering.window(tokens, start)))
        alone = float(model.predict([pair], show_progress_bar=False)[0])
        # The logit of what `predict` gives.
        assert float(torch.sigmoid(torch.tensor(row["probability"]))) == pytest.approx(alone, abs=1e-6)


def test_what_is_no_cross_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"embedder: no CrossEncoder but BertModel, which scores no pairs; name a"):
        Reranker(make_embedder(tmp_path / "embedder"), device="cpu")
    with pytest.raises(UnusableInput, match=r"three: a CrossEncoder with 3 labels; name one that gives one score"):
        Reranker(make_reranker(tmp_path / "three", 3), device="cpu")
    with pytest.raises(NotNow, match=r"nowhere: no such folder"):
        Reranker(tmp_path / "nowhere", device="cpu")
    # What the files name as activation function is not looked up.
    config = make_reranker(tmp_path / "odd") / "config.json"
    named = {"sentence_transformers": {"activation_fn": "torch.no_such_thing"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    assert Reranker(tmp_path / "odd", device="cpu").scores([("a", "b")])
