"""A report where scores are missing: every method, each of its statistics gone in turn, makes a page of sound lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TextIO

import polars as pl
import pytest
from matplotlib.figure import Figure

from interp_assets.examples.rendering import Rendering
from interp_assets.freshness import Freshness
from interp_assets.job import Inputs
from interp_assets.report.alignment import tables_of_pairs
from interp_assets.report.assets import gathered, in_words
from interp_assets.report.chains import Pair
from interp_assets.report.evidence import NO_TRIALS, Evidence, Tables, scores_of, tables_of
from interp_assets.report.gallery import best_and_worst
from interp_assets.report.headline import HEADLINE
from interp_assets.report.page import render
from interp_assets.settings import Scorers
from interp_assets.study import Study, load_study
from interp_assets.tables import LAYER_MATCHING, LEFT_OVER, NEXT_BEST
from tests.conftest import make_all
from tests.methods_study import ADDED, make_bag_of_words
from tests.oracle import OracleModels
from tests.planted_effects import INTERVENTION
from tests.test_report import Elements
from tests.tiny import make_reranker, make_study

METHODS = sorted(Scorers.model_fields)
"All scoring methods that a study can choose."
EVERY: dict[str, dict[str, Any]] = ADDED | {
    "detection": {"engine": "oracle", "activating": 5, "non_activating": 5},
    "fuzzing": {"engine": "oracle", "activating": 5, "non_activating": 5},
    "embedding": {"model": "./embedder", "activating": 5, "non_activating": 5},
    "intervention": INTERVENTION | {"latents": 6, "target_kl": [0.01, 0.1]},
    "intruder": {"engine": "oracle", "activating": 10, "non_activating": 10, "shown": 2},
}
NONSENSE = re.compile(
    r"\bnan\b|\binf\b|\bNone\b(?! of these)|\bnull\b|: \.|\(\)|  ,|\b1 layers\b|\b1 latents\b(?! and)"
)
"No number, no reason, no plural where there is one."
LAYER = "embed_tokens"
REASON = "no usable answer came"
DRAWN = ("one latent", "only controls")
"Of which pictures are drawn to the end; drawing takes longest, and most are alike."


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("every")
    make_bag_of_words(root / "embedder")
    make_reranker(root / "reranker")
    examples = {
        "window": 16,
        "min_windows": 8,
        "latents": 8,
        "explain": {"n": 10},
        "test": {"activating": 10, "non_activating": 10},
    }
    return load_study(make_study(root, examples=examples, scorers=EVERY))


@pytest.fixture(scope="module")
def evidence(study: Study) -> Evidence:
    """What every method found of a few latents, judged by the oracle."""
    make_all(study, OracleModels())
    freshness = Freshness(study)
    return gathered(Inputs(study, freshness.assets["score_report"], None, freshness))


def scored_by(evidence: Evidence, method: str, scores: pl.DataFrame) -> Evidence:
    """The evidence of one method, with other scores."""
    parts = {(method, layer): scores.filter(layer=layer) for layer in sorted({LAYER, *scores["layer"]})}
    return replace(
        evidence,
        layers=[layer for _, layer in parts],
        scores=scores_of(parts),
        trials=evidence.trials.filter(method=method),
        score_tables=list(parts),
    )


def variants(rows: pl.DataFrame, headline: str) -> Iterator[tuple[str, pl.DataFrame]]:
    """The scores of one method with something missing, each way by name."""
    value = pl.col("value")
    failed = {"value": None, "low": None, "high": None, "status": "failed", "reason": REASON}
    failed_rows = rows.with_columns(pl.lit(each).alias(name) for name, each in failed.items())
    for statistic in rows["statistic"].unique().sort():
        yield f"without {statistic}", rows.filter(pl.col("statistic") != statistic)
    other = pl.col("statistic") != headline
    yield "NaN", rows.with_columns(value=pl.when(other).then(value).otherwise(float("nan")))
    yield "headline alone", rows.filter(~other)
    control = other | (pl.col("control") == "none")
    yield "failed in the control", pl.concat([rows.filter(control), failed_rows.filter(~control)])
    yield "no rows", rows.clear()
    yield "only failed rows", failed_rows
    yield "infinite", rows.with_columns(value=float("-inf"))
    yield "only controls", rows.filter(pl.col("control") != "none")
    yield "no controls", rows.filter(control="none")
    yield "one latent", rows.filter(latent=rows["latent"].min())
    yield "two latents", rows.filter(pl.col("latent").is_in(sorted(set(rows["latent"]))[:2]))
    elsewhere = rows.filter(control="none").with_columns(layer=pl.lit("layers.7"))
    yield "one layer without a control", pl.concat([rows, elsewhere])
    yield "one layer without scores", pl.concat([rows, failed_rows.with_columns(layer=pl.lit("layers.7"))])
    yield "nothing but a control subject", rows.with_columns(layer=pl.lit(f"{LAYER}@random"))


def test_every_method_of_the_settings_is_tried(study: Study, evidence: Evidence) -> None:
    assert set(METHODS) == set(study.scorers.chosen()) == set(HEADLINE) == set(evidence.scores["method"])


@pytest.mark.parametrize("method", METHODS)
def test_whatever_is_missing_the_page_says_so(
    study: Study, evidence: Evidence, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = evidence.scores.filter(method=method).drop("method")
    for name, scores in variants(rows, HEADLINE[method]):
        part = scored_by(evidence, method, scores)
        tables = tables_of(part, study)
        with monkeypatch.context() as patch:
            if name not in DRAWN:
                patch.setattr(Figure, "savefig", write_nothing)
            text = words_of(render(part, tables, Rendering.of(study)))
        told = in_words(tables)
        for said in (text, told):
            assert not (found := NONSENSE.findall(said)), f"{name}: {found} in {said}"
        assert_spoken_of(part, tables, text, told, name)


def assert_spoken_of(part: Evidence, tables: Tables, text: str, told: str, name: str) -> None:
    """Each layer and explainer is either compared or has one line that says why not, and which is right."""
    (method,) = {method for method, _ in part.score_tables}
    lines = told.splitlines()
    assert told == "no scores" or len(lines) == len(set(lines)) == len(tables.differences) + len(tables.gaps), name
    ok = part.scores.filter((pl.col("statistic") == HEADLINE[method]) & pl.col("value").is_not_null())
    for layer, explainer in part.scores.select("layer", "explainer").unique().iter_rows():
        mine = ok.filter(layer=layer, explainer=explainer)
        by = {kind: set(mine.filter(control=kind)["latent"]) for kind in ("none", "shuffled")}
        gap = [each for each in tables.gaps if (each.layer, each.explainer) == (layer, explainer)]
        assert len(gap) == (not by["none"] & by["shuffled"]), f"{name}: {gap}"
        for each in gap:
            assert each.reason in text, name
            assert each.reason.startswith("mean " if by["none"] else "no "), f"{name}: {each.reason}"
            if by["none"]:
                shown = re.search(r" (-?\d+\.\d{3})", each.reason)
                # A mean halfway between two last digits may be rounded to either.
                assert shown and float(shown[1]) == pytest.approx(mine.filter(control="none")["value"].mean(), abs=6e-4)
    for layer in sorted({layer for _, layer in part.score_tables} - set(part.scores["layer"])):
        assert f"{method} on {layer}: nothing was scored." in text, name
        assert f"{method} on {layer}: nothing was scored." in told, name


def test_f1_without_auroc_makes_a_page(study: Study, evidence: Evidence) -> None:
    """One dense latent under detection: no negatives, so no AUROC, but an f1."""
    f1 = evidence.scores.filter(method="detection", statistic="f1", latent=evidence.scores["latent"].min())
    part = scored_by(evidence, "detection", f1.drop("method"))
    part = replace(part, trials=NO_TRIALS)
    tables = tables_of(part, study)
    assert in_words(tables) == f"- detection of llm explanations on {LAYER}: no AUROC (there is f1)."
    assert "All numbers" in words_of(render(part, tables, Rendering.of(study)))
    # The control: what chose the latents to show found the method by values of any statistic.
    chosen = part.scores.filter(pl.col("value").is_not_null()).filter(pl.col("statistic") == "auroc")
    with pytest.raises(pl.exceptions.OutOfBoundsError):
        chosen.group_by("method", "explainer").len().row(0)


def test_without_its_control_a_score_is_told_with_its_mean(study: Study, evidence: Evidence) -> None:
    rows = evidence.scores.filter(method="embedding", control="none").drop("method")
    part = scored_by(evidence, "embedding", rows)
    tables = tables_of(part, study)
    mean = rows.filter(statistic="auroc")["value"].mean()
    assert in_words(tables) == (
        f"- embedding of llm explanations on {LAYER}: mean AUROC {mean:.3f}, with no control to compare it with."
    )
    # The control: of differences alone there is nothing to say, which was told as "no scores".
    assert tables.differences == []


def test_what_was_not_explained_or_drawn_is_left_out_of_the_gallery(
    study: Study, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", write_nothing)
    for missing in ({"explanations": {}}, {"examples": {}}, {"explanations": {}, "examples": {}, "counts": {}}):
        part = replace(evidence, **missing)
        text = words_of(render(part, tables_of(part, study), Rendering.of(study)))
        assert ("The best and the worst" in text) == ("examples" not in missing)
    nothing = replace(part, trials=part.trials.clear(), scores=part.scores.clear(), score_tables=())
    text = words_of(render(nothing, tables_of(nothing, study), Rendering.of(study)))
    assert "No scores yet." in text
    assert "How many latents" not in text


@pytest.mark.parametrize(("latents", "best", "worst"), [(1, 0, 0), (2, 1, 1), (5, 3, 2), (30, 6, 6)])
def test_no_latent_is_among_the_best_and_the_worst(
    study: Study, evidence: Evidence, latents: int, best: int, worst: int
) -> None:
    rows = evidence.scores.filter(method="embedding", control="none", statistic="auroc").head(1)
    rows = rows.select(pl.all().repeat_by(latents).explode()).with_columns(
        latent=pl.int_range(latents, dtype=pl.UInt32)
    )
    groups = best_and_worst(rows, evidence.explanations, evidence.examples, {}, Rendering.of(study))
    shown = [[card["latent"] for card in group["cards"]] for group in groups]
    assert [len(each) for each in shown] == ([1] if latents == 1 else [best, worst])
    assert len({latent for each in shown for latent in each}) == sum(map(len, shown))
    assert "1 latents" not in "".join(group["title"] for group in groups)


def write_nothing(_figure: Figure, file: TextIO, **_how: object) -> None:
    file.write("<svg></svg>")


def test_layers_of_which_nothing_is_matched_make_a_page(study: Study, evidence: Evidence) -> None:
    """No latent of either layer fires."""
    schemas = (LAYER_MATCHING, LEFT_OVER, NEXT_BEST)
    pairs = [Pair(LAYER, "layers.1", *(pl.DataFrame(schema=schema) for schema in schemas))]
    of_pairs = tables_of_pairs(pairs, {}, {})
    part = replace(evidence, scores=evidence.scores.clear(), trials=NO_TRIALS, pairs=pairs, of_pairs=of_pairs)
    text = words_of(render(part, tables_of(part, study), Rendering.of(study)))
    assert "What persists from layer to layer" in text
    assert "How long latents persist" not in text
    assert not NONSENSE.findall(text)


def words_of(page: str) -> str:
    """What is read in a page: its text without styles and pictures."""
    return " ".join(Elements(re.sub(r"<svg.*?</svg>|<style.*?</style>", " ", page, flags=re.DOTALL)).text.split())
