"""Scores from vectors of tokens: brute force, what is taken away from vectors, evidence, marks, and whose latents decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sklearn.metrics import roc_auc_score

from interp_assets.examples.rendering import Rendering
from interp_assets.freshness import Freshness
from interp_assets.job import Inputs
from interp_assets.scores import pending
from interp_assets.scores.token_embedding import TokenComparing, TokenEmbedding, TokenFuzzing
from interp_assets.scores.token_vectors import TokenSpace, maxsim, scaled
from interp_assets.scores.trials import Subject
from interp_assets.study import Study, load_study
from resources.errors import UnusableInput
from resources.partition_files import Partition
from resources.text_embedder import TextEmbedder
from tests.conftest import make_all
from tests.methods_study import make_bag_of_words
from tests.oracle import OracleModels
from tests.tiny import WORDS, make_study, make_tokenizer
from tests.vocabularies import KINDS, loaded

SCORERS = {name: {"model": "./embedder", "reference_windows": 40} for name in ("token_embedding", "token_fuzzing")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("tokens")
    make_bag_of_words(root / "embedder")
    scorers = SCORERS | {"embedding": {"model": "./embedder"}}
    examples = {"window": 16, "min_windows": 8, "latents": 8}
    return load_study(
        make_study(root, examples=examples, explainers={"quotes": {"kind": "extractive"}}, scorers=scorers)
    )


@pytest.fixture(scope="module")
def made(study: Study) -> dict[str, Partition]:
    return make_all(study, OracleModels())


@pytest.fixture(scope="module")
def embedder(study: Study) -> TextEmbedder:
    return TextEmbedder(study.file.parent / "embedder", device="cpu")


def subjects(study: Study, method: TokenComparing) -> tuple[list[Subject], list[list[int]]]:  # type: ignore[type-arg]
    freshness = Freshness(study)
    inputs = Inputs(study, freshness.assets[f"scores/{method.name}"], study.layers[0].key, freshness)
    examples = method.examples(inputs)
    tested = pending.tested_of(inputs, method, examples)
    return pending.subjects_of(method, tested, examples, list(tested)), method.reference_windows(inputs)


def test_tokens_are_the_models_own_and_stand_where_it_says(study: Study, embedder: TextEmbedder) -> None:
    model = SentenceTransformer(str(study.file.parent / "embedder"), device="cpu")
    texts = [f"{WORDS[3]}  {WORDS[4]} {WORDS[9]}", WORDS[7], ""]
    found = dict(embedder.stream_tokens(texts))
    for text in texts:
        vectors, spans = found[text]
        assert [text[begin:end] for begin, end in spans] == text.split()
        if text:
            own = model.encode([text], output_value="token_embeddings", show_progress_bar=False)[0].numpy()
            np.testing.assert_allclose(vectors, own, atol=1e-5)
    # The texts' own vectors came of the same pass.
    assert embedder.new({"document": texts}) == 0
    np.testing.assert_allclose(
        embedder.embed(texts), model.encode(texts, normalize_embeddings=True, show_progress_bar=False), atol=1e-5
    )


def test_the_similarity_is_what_loops_say() -> None:
    draw = np.random.default_rng(0)
    space = TokenSpace.of(draw.normal(2, 1, (200, 8)).astype(np.float32))
    said, seen = (draw.normal(2, 1, (n, 8)).astype(np.float32) for n in (14, 6))
    match = maxsim(space.units(said), space.units(seen))
    assert match is not None
    cosines = {}
    for i, one in enumerate(said):
        for j, other in enumerate(seen):
            a, b = (
                (v - space.mean) - ((v - space.mean) @ space.directions[0]) * space.directions[0] for v in (one, other)
            )
            cosines[i, j] = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    largest = sorted(((*max((cosines[i, j], j) for j in range(6)), i) for i in range(14)), reverse=True)
    assert match.score == pytest.approx(np.mean([value for value, _, _ in largest[:10]]), abs=1e-5)
    assert (match.window_token, match.explanation_token) == largest[0][1:]
    assert maxsim(space.units(said), space.units(seen[:0])) is None


def test_the_kind_of_text_says_nothing() -> None:
    """Latents fire on prose, explanations are prose, half of the corpus is code: another latent's explanation is near."""
    draw = np.random.default_rng(0)
    kind = np.zeros(32, np.float32)
    kind[0] = 6

    def text(prose: bool) -> np.ndarray:
        return (draw.normal(1, 1, (12, 32)) + (kind if prose else -kind)).astype(np.float32)

    reference = np.concatenate([text(prose) for prose in (True, False) for _ in range(30)])
    prose = np.arange(200) % 2 == 0
    windows, explanations = [text(bool(each)) for each in prose], [text(True) for _ in range(8)]

    def auroc(taken_away: int) -> float:
        space = TokenSpace.of(reference, taken_away)
        seen, said = [space.units(each) for each in windows], [space.units(each) for each in explanations]
        scores = [[maxsim(one, each).score for each in seen] for one in said]  # type: ignore[union-attr]
        return float(np.mean([roc_auc_score(prose, each) for each in scores]))

    assert auroc(1) == pytest.approx(0.5, abs=0.1)
    assert auroc(0) > 0.99  # the control: without it the kind of text alone tells them apart


def test_scores_are_those_of_each_explanation_alone(
    study: Study, made: dict[str, Partition], embedder: TextEmbedder
) -> None:
    method = TokenEmbedding(study)
    every, reference = subjects(study, method)
    trials = made["scores/token_embedding"].read("trials")
    for subject in every[:4]:
        alone = Subject(subject.latent, subject.explainer, subject.control, subject.explanation, subject.trials)
        method.compare([alone], reference, embedder, lambda n: None)
        rows = trials.filter(latent=subject.latent, control=subject.control, explainer=subject.explainer)
        keys = ["expected", "example"]
        alike = pl.DataFrame(alone.rows).with_columns(pl.col("example").cast(pl.UInt32)).sort(keys)
        for mine, theirs in zip(alike["probability"], rows.sort(keys)["probability"], strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("method", [TokenEmbedding, TokenFuzzing])
def test_trials_without_tokens_are_left_out_and_have_not_failed(
    study: Study,
    embedder: TextEmbedder,
    method: type[TokenComparing],  # type: ignore[type-arg]
) -> None:
    of = method(study)
    asked, reference = subjects(study, of)
    asked[0].explanation = " "
    of.compare(asked, reference, embedder, lambda count: None)
    without, others = asked[0].rows, [row for subject in asked[1:] for row in subject.rows]
    assert {(row["status"], row["reason"]) for row in without} == {("left_out", of.nothing_there)}
    assert {row["status"] for row in others} == {"ok"}


def test_the_token_that_decided_is_kept(study: Study, made: dict[str, Partition]) -> None:
    explanations = dict(made["explanations"].read("explanations").select("latent", "explanation").iter_rows())
    trials = made["scores/token_embedding"].read("trials").filter(control="none")
    assert set(trials["status"]) == {"ok"}
    method = TokenEmbedding(study)
    texts = {
        (subject.latent, trial.example, trial.expected): method.rendering.text(trial.tokens)
        for subject in subjects(study, method)[0]
        for trial in subject.trials
    }
    for row in trials.iter_rows(named=True):
        text = texts[row["latent"], row["example"], row["expected"]]
        assert text[row["window_character"] :].startswith(row["window_token"])
        assert row["explanation_token"] in explanations[row["latent"]]
    decided = trials.filter("expected")
    assert (decided["window_token"] == decided["explanation_token"]).mean() > 0.9


def test_marked_tokens_alone_are_looked_at(study: Study, made: dict[str, Partition]) -> None:
    method = TokenFuzzing(study)
    trials = made["scores/token_fuzzing"].read("trials").filter(status="ok")
    shown = {(s.latent, t.example, t.expected): t for s in subjects(study, method)[0] for t in s.trials}
    assert len(trials)
    for row in trials.iter_rows(named=True):
        trial = shown[row["latent"], row["example"], row["expected"]]
        marked = [token for token, mark in zip(trial.tokens, trial.marked or [], strict=True) if mark]
        assert row["window_token"] in method.rendering.text(marked)
    # The very patterns of marks that fuzzing shows, right and wrong equally often.
    patterns = trials.group_by("latent", "explainer", "control", "expected", "marked").len()
    sides = patterns.with_columns(pl.col("marked").cast(pl.List(pl.String)).list.join(" "))
    right, wrong = (sides.filter(expected=side).drop("expected").sort(pl.all()) for side in (True, False))
    assert right.equals(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_marked_characters_are_those_between_the_signs(kind: str) -> None:
    rendering, draw = Rendering(loaded(kind), bos=False), np.random.default_rng(0)
    tokens = rendering.tokenizer("The boats came home 🌊 and 日本の川, naïve café", add_special_tokens=False)[
        "input_ids"
    ]
    for _ in range(20):
        marks = (draw.random(len(tokens)) < 0.3).tolist()
        text, signs = rendering.text(tokens), rendering.with_marks(tokens, marks)
        for begin, end in reversed(rendering.marked_characters(tokens, marks)):
            text = f"{text[:begin]}<<{text[begin:end]}>>{text[end:]}"
        assert text == signs


def test_a_model_without_vectors_of_tokens_is_refused(tmp_path: Path) -> None:
    words = StaticEmbedding(make_tokenizer(["<s>", "<unk>", *WORDS]).backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path / "static"))
    embedder = TextEmbedder(tmp_path / "static", device="cpu")
    with pytest.raises(UnusableInput, match=r"static: has no vectors of single tokens; name an embedder that is"):
        list(embedder.stream_tokens([WORDS[0]]))


def test_vectors_of_length_0_stay() -> None:
    assert (scaled(np.zeros((2, 3), np.float32)) == 0).all()
    same = TokenSpace.of(np.ones((5, 3), np.float32)).units(np.ones((4, 3), np.float32))
    assert maxsim(same, same)[0] == 0  # type: ignore[index]
