"""Generation: what a latent does on a written text is what one plain pass over that text alone says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from interp_assets.layer_sae import sae_of
from interp_assets.scores.generation import read_texts
from interp_assets.scores.reading import strongest_on
from interp_assets.study import Study, load_study
from resources.language_models.protocol import Generated, Usage
from resources.language_models.structured import Unusable
from resources.loaded_models import LoadedModels
from resources.subject_model import SubjectModel
from resources.tokenizers import load_tokenizer
from tests.conftest import make_all
from tests.methods_study import ADDED
from tests.oracle import OracleEngine, OracleModels
from tests.tiny import VOCABULARY, make_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(make_study(tmp_path_factory.mktemp("generation"), scorers={"generation": ADDED["generation"]}))


def test_activations_are_those_of_one_text_at_a_time(study: Study) -> None:
    """Whatever is read beside it, padded to whatever length."""
    path = study.path("model")
    subject, tokenizer = SubjectModel(path, None, "float32", "cpu"), load_tokenizer(path)
    sae = sae_of(study, study.layers[0], LoadedModels())
    texts = {" ".join(VOCABULARY[2 + (i * j) % 48] for j in range(1, 3 + 2 * i)): [2, 3 + i, 9] for i in range(6)}
    texts |= {"": [2], VOCABULARY[2]: [2]}
    for batch_tokens in (1, 64):
        found = strongest_on(
            texts, tokenizer, [0], 1, 12, subject, sae, "embed_tokens", batch_tokens, lambda count: None
        )
        assert len(found) == 20
        for (text, latent), value in found.items():
            ids = [0, *tokenizer(text, add_special_tokens=False)["input_ids"][:11]]
            x = subject.activations(torch.tensor([ids]), ["embed_tokens"])["embed_tokens"][0, 1:]
            own = [top.activations[top.indices == latent] for top in map(sae.encode, x[:, None])]
            assert value == pytest.approx(max((float(each.max()) for each in own if len(each)), default=0.0), abs=1e-5)
        assert found["", 2] == 0.0 < found[VOCABULARY[2], 2]


class Wordless(OracleEngine):
    """Writes one text too few about some words, and texts without the word about others."""

    def answer(self, messages: Any, asked: str) -> str:
        text = super().answer(messages, asked)
        if "texts" in text and '"kaba' in text:
            word = asked.split("the word ")[1].split()[0]
            if word < "m":
                return text.replace('"kaba ' + word + '", ', "")
            if word < "p":
                return text.replace(f" {word}", "")
        return text


def test_bad_replies_are_failed_rows_and_texts_without_the_word_do_not_fire(study: Study, tmp_path: Path) -> None:
    made = make_all(study.model_copy(update={"storage": str(tmp_path)}), OracleModels(Wordless()))["scores/generation"]
    trials = made.read("trials").filter(control="none")
    words = {latent: VOCABULARY[latent] for latent in trials["latent"].unique()}
    failed = trials.filter(status="failed")
    assert {words[latent] < "m" for latent in failed["latent"]} == {True}
    assert set(failed["reason"]) == {"`texts` is not a list of 4 texts"}
    assert failed["text"].null_count() == failed["predicted"].null_count() == len(failed)
    # What was said is kept, once.
    assert failed.filter(pl.col("example") == 0)["raw_reply"].null_count() == 0
    rates = made.read("scores").filter(control="none", statistic="generation_rate")
    for latent, value, status, count in rates.select("latent", "value", "status", "n_failed").iter_rows():
        if words[latent] < "m":
            assert (value, status, count) == (None, "failed", 4)
        else:
            assert value == (0.0 if words[latent] < "p" else 1.0)
    strength = made.read("scores").filter(control="none", statistic="strength", status="ok")
    assert strength["value"].max() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("reply", ['{"texts": ["a"]}', '{"texts": ["a", " "]}', '{"texts": ["a", 2]}', '["a", "b"]'])
def test_only_so_many_texts_are_a_reply(reply: str) -> None:
    with pytest.raises(Unusable):
        read_texts(Generated(reply, True, Usage(0, 0, 0)), 2)
    assert read_texts(Generated('{"texts": ["a", "b"]}', True, Usage(0, 0, 0)), 2) == ["a", "b"]
