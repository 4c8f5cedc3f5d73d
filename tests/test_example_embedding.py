"""Example embedding against plain embedding of each text, one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer

from interp_assets.scores.example_embedding import ExampleEmbedding, spread
from interp_assets.study import load_study
from tests.conftest import make_all
from tests.methods_study import ADDED, make_bag_of_words
from tests.oracle import OracleModels
from tests.tiny import make_study


def test_cosines_are_the_plain_ones_and_the_query_shares_no_context(tmp_path: Path) -> None:
    make_bag_of_words(tmp_path / "embedder")
    settings = ADDED["example_embedding"] | {"examples": 4}
    study = load_study(
        make_study(tmp_path, explainers={"quotes": {"kind": "extractive"}}, scorers={"example_embedding": settings})
    )
    made = make_all(study, OracleModels())
    trials = made["scores/example_embedding"].read("trials")
    assert set(trials["explainer"]) == {"none"}
    examples, rendering = made["examples"].read("examples"), ExampleEmbedding(study).rendering
    model = SentenceTransformer(str(tmp_path / "embedder"), device="cpu")

    def vector(tokens: list[int], start: int) -> np.ndarray:
        return model.encode(
            [rendering.text(rendering.window(tokens, start))], normalize_embeddings=True, show_progress_bar=False
        )[0]

    latent = int(trials["latent"][0])
    mine = examples.filter(latent=latent)
    explain = mine.filter(purpose="explain").sort("peak_activation", "example", descending=[True, False])
    query = np.mean([vector(*window) for window in spread(explain, 4).select("tokens", "start").rows()], axis=0)
    query /= np.linalg.norm(query)
    tests = {
        (row["example"], row["kind"] == "activating"): (row["tokens"], row["start"])
        for row in mine.filter(purpose="test").iter_rows(named=True)
    }
    own = trials.filter(latent=latent, control="none")
    assert len(own) == 20
    for row in own.iter_rows(named=True):
        plain = float(vector(*tests[row["example"], row["expected"]]) @ query)
        assert row["probability"] == pytest.approx(plain, abs=1e-5)
    # Control: the query of another latent gives others.
    other = trials.filter(latent=latent, control="shuffled")
    assert np.abs(other["probability"].to_numpy() - own["probability"].to_numpy()).max() > 1e-3


@pytest.mark.parametrize(
    ("there", "count", "places"), [(10, 5, [0, 2, 4, 6, 8]), (3, 5, [0, 1, 2]), (7, 3, [0, 3, 5]), (4, 1, [0])]
)
def test_windows_are_spread_over_their_order(there: int, count: int, places: list[int]) -> None:
    table = pl.DataFrame({"latent": [7] * there + [8] * there, "place": [*range(there)] * 2})
    assert spread(table, count)["place"].to_list() == places * 2
