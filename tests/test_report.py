"""The report: right numbers, plain words where a score shows nothing, and no way in for hostile text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from scipy import stats

from interp_assets.examples.rendering import Rendering
from interp_assets.report.correlations import correlations, disagreements, with_interval
from interp_assets.report.costs import costs
from interp_assets.report.deciles import by_decile, by_negatives
from interp_assets.report.evidence import EFFECTS_READ, NO_TRIALS, Evidence, by_layer, tables_of
from interp_assets.report.page import render
from interp_assets.report.summary import summarise
from interp_assets.report.verdicts import against_control, against_layers, corrected
from interp_assets.settings import InterventionScorer
from interp_assets.settings.engines import Price
from interp_assets.study import Study
from interp_assets.tables import EXAMPLES, EXPLANATIONS, SCORES, conform
from resources.partition_files import Partition
from tests.tiny import VOCABULARY, make_tokenizer

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def scores(shift: float, latents: int = 60) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for latent in range(latents):
        for control in ("none", "shuffled"):
            value = float(np.clip(draw.normal(0.5 + shift * (control == "none"), 0.1), 0, 1))
            rows.append(
                {
                    "latent": latent,
                    "explainer": "llm",
                    "control": control,
                    "statistic": "auroc",
                    "value": value,
                    "n_failed": 1,
                }
            )
    table = conform(pl.DataFrame(rows), SCORES)
    return table.with_columns(layer=pl.lit("layers.3"), method=pl.lit("embedding"))


def test_summary_equals_scipy() -> None:
    table = summarise(scores(0.2))
    values = scores(0.2).filter(pl.col("control") == "none")["value"].to_numpy()
    row = table.filter(pl.col("control") == "none").row(0, named=True)
    # Hardly skewed: nearly Student's t, and never narrower.
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert row["mean"] == pytest.approx(values.mean())
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((low, high), abs=0.002)
    assert row["mean_low"] <= low and high <= row["mean_high"]
    assert row["median"] == pytest.approx(np.median(values))
    exact = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (row["median_low"], row["median_high"]) == (exact.low, exact.high)
    assert (row["n_latents"], row["n_failed_trials"]) == (60, 60)


def test_difference_is_paired_by_latent() -> None:
    wide = scores(0.2).pivot(on="control", index="latent", values="value")
    differences = (wide["none"] - wide["shuffled"]).to_numpy()
    found = against_control(scores(0.2))[0]
    assert found.mean == pytest.approx(differences.mean())
    low, high = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.002)
    assert found.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=2)


def test_a_score_that_shows_nothing_is_called_so(tiny: Study) -> None:
    above, flat = (corrected(against_control(scores(shift)))[0] for shift in (0.2, 0.0))
    assert above.above_control
    assert "above the shuffled control by +0." in above.sentence()
    assert not flat.above_control
    assert "is not above its shuffled control" in flat.sentence()
    for text in ("not shown to be above it", '<td class="flat">not shown</td>'):
        assert text in page(scores(0.0), tiny)
        assert text not in page(scores(0.2), tiny)


def page(table: pl.DataFrame, study: Study, name: str = "study", text: str = "a word", word: str = "kaba") -> str:
    rendering = Rendering(make_tokenizer([*VOCABULARY[:2], word, *VOCABULARY[3:]]))
    window = {"latent": 0, "kind": "activating", "tokens": [2, 3, 2], "activations": [1.0, 0.0, 0.5]}
    examples = conform(pl.DataFrame([window | {"peak_activation": 1.0, "status": "ok"}]), EXAMPLES)
    told = {"latent": 0, "explainer": text, "explanation": text, "status": "ok"}
    explanations = conform(pl.DataFrame([told]), EXPLANATIONS)
    counts, problems = {"layers.3": {text: 3}}, {f"examples[{text}]": text}
    one = {"layers.3": explanations}, {"layers.3": examples}
    evidence = Evidence(name, ["layers.3"], table, NO_TRIALS, *one, counts, problems)
    return render(evidence, tables_of(evidence, study), rendering)


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_is_shown_and_not_run(tiny: Study) -> None:
    """In the study's name, explanations, explainer names, reasons, count names, and in tokens of the corpus."""
    harmless = Elements(page(two_methods(0.9), tiny))
    word = HOSTILE.replace(" ", "/")
    hostile = Elements(page(two_methods(0.9), tiny, HOSTILE, HOSTILE, word))
    assert hostile.tags == harmless.tags
    assert hostile.attributes == harmless.attributes
    assert hostile.text.count("<script>alert") >= 6
    assert word in hostile.text
    # The control: the parser does see elements that are not escaped.
    assert "script" in Elements(f"<p>{HOSTILE}</p>").tags


def test_the_page_needs_nothing_beside_it(tiny_tables: dict[str, Partition]) -> None:
    file = tiny_tables["score_report"].files("page")[0]
    text = file.read_text()
    assert not {"script", "link", "iframe", "img"} & Elements(text).tags
    assert "default-src 'none'" in text
    assert "detection of llm explanations (AUROC)" in text
    assert re.search(r"The judge says Yes to\s+5\d % on embed_tokens", text), "the oracle does not lean"
    report = tiny_tables["score_report"].read("report")
    assert set(report["method"]) == {"detection", "fuzzing"}
    assert set(report["control"]) == {"none", "shuffled"}


def test_the_page_says_what_repeats_and_what_is_lacking(tiny_tables: dict[str, Partition]) -> None:
    text = tiny_tables["score_report"].files("page")[0].read_text()
    latents, short = (tiny_tables["examples"].read(name) for name in ("latents", "shortfalls"))
    repeated, distinct = int(latents["repeated"].sum()), int(latents["windows"].sum())
    assert f"{repeated / (repeated + distinct):.1%}" in text.split("windows of repeated text")[1]
    assert len(short), "the tiny corpus must be too small for some latent"
    assert all(f"{purpose}, {kind}" in text for purpose, kind in short.select("purpose", "kind").iter_rows())
    assert all(reason in text for reason in short["reason"])


def two_methods(rho: float, latents: int = 400) -> pl.DataFrame:
    """Embedding and fuzzing scores of the same explanations, of this correlation; latent 0 is where they differ most."""
    values = np.random.default_rng(5).multivariate_normal([0, 0], [[1, rho], [rho, 1]], latents)
    values[0] = 9, -9
    parts = []
    for column, (method, statistic) in enumerate((("embedding", "auroc"), ("fuzzing", "auroc"))):
        frame = pl.DataFrame({"latent": np.arange(latents), "value": values[:, column] / 20 + 0.5})
        frame = frame.with_columns(
            explainer=pl.lit("llm"), control=pl.lit("none"), statistic=pl.lit(statistic), n_failed=0
        )
        parts.append(conform(frame, SCORES).with_columns(layer=pl.lit("layers.3"), method=pl.lit(method)))
    return pl.concat(parts)


def test_planted_correlations_are_found_as_scipy_finds_them() -> None:
    for rho in (0.0, 0.7):
        table = two_methods(rho).filter(pl.col("latent") > 0)
        x, y = (table.filter(method=method)["value"].to_numpy() for method in ("embedding", "fuzzing"))
        row = correlations(table).row(0, named=True)
        assert row["spearman"] == pytest.approx(stats.spearmanr(x, y)[0])
        low, high = stats.pearsonr(x, y).confidence_interval()
        assert (row["pearson_low"], row["pearson_high"]) == pytest.approx((low, high))
        assert row["pearson_low"] <= rho <= row["pearson_high"]
        assert (row["spearman_low"] > 0) == (rho > 0)
    assert correlations(two_methods(0.7, latents=3)).is_empty()


def test_correlations_of_few_latents_have_a_width_and_stay_inside_their_bounds() -> None:
    """Of latents in one order by chance, as one in 360 of six are; Fisher's interval alone has no width there."""
    for n in (6, 10, 30):
        places = np.arange(n, dtype=float)
        low, high = with_interval(1.0, n, 1.0)[1:]
        assert low < 1 - 1e-4 and high == 1.0
        assert with_interval(-1.0, n, 1.5)[1:] == pytest.approx((-1.0, -with_interval(1.0, n, 1.5)[1]))
        # Next to that, nothing is changed: one pair of neighbours the other way round.
        places[[0, 1]] = places[[1, 0]]
        r = float(stats.spearmanr(np.arange(n), places)[0])
        half = 1.96 * np.sqrt((1 + r * r / 2) / (n - 3))
        assert with_interval(r, n, 1 + r * r / 2)[1] == pytest.approx(np.tanh(np.arctanh(r) - half), abs=1e-4)
    draw = np.random.default_rng(0)
    for n in (6, 10, 30):
        # Discrete, skewed and independent.
        x, y = draw.binomial(4, 0.2, (2, 500, n)) + draw.integers(0, 2, (2, 500, n)) / 4
        r = np.array([stats.pearsonr(a, b)[0] if np.ptp(a) and np.ptp(b) else 0.0 for a, b in zip(x, y, strict=True)])
        found = [with_interval(float(each), n, 1.0) for each in r]
        assert np.mean([low > 0 or high < 0 for _, low, high in found]) <= 0.08, n


def test_too_few_latents_have_no_interval_and_no_verdict(tiny: Study) -> None:
    (few,) = corrected(against_control(scores(0.2, latents=5)))
    assert few.mean > 0.1 and not few.above_control
    assert few.sentence().endswith("too few latents to compare (fewer than 6).")
    row = summarise(scores(0.2, latents=5)).row(0, named=True)
    assert row["mean"] is not None
    assert all(
        row[f"{name}_{side}"] is None for name in ("mean", "median", "lower_quartile") for side in ("low", "high")
    )
    assert ">too few<" in page(scores(0.2, latents=5), tiny)
    # Of six a quartile may lie below all values: its interval reaches to the limit of the statistic.
    row = summarise(scores(0.2, latents=6)).filter(control="none").row(0, named=True)
    assert (row["lower_quartile_low"], row["upper_quartile_high"]) == (0.0, 1.0)
    assert 0 < row["median_low"] < row["median"] < row["median_high"] < 1


def test_verdicts_are_corrected_for_their_number_and_the_report_says_so(tiny: Study) -> None:
    """One weak difference alone lies above its control, and not among forty."""
    weak = scores(0.055)
    (alone,) = corrected(against_control(weak))
    assert 0.002 < alone.p_value == alone.p_corrected < 0.05 and alone.verdict == "above it"
    others = [scores(0.0).with_columns(layer=pl.lit(f"layers.{number}")) for number in range(10, 49)]
    found = corrected(against_control(pl.concat([weak, *others])))
    assert found[0].low > 0 and found[0].p_corrected > 0.05
    assert found[0].verdict == "not shown to be above it once corrected"
    assert "is not above its shuffled control once corrected for the number of comparisons" in found[0].sentence()
    many, few = scores(0.2), scores(0.2, latents=3).with_columns(layer=pl.lit("layers.4"))
    said = "2 comparisons with a control, 1 verdict; of 1 nothing is said, as a verdict takes at least 6 latents"
    assert said in page(pl.concat([many, few]), tiny)


def test_the_planted_disagreement_comes_first() -> None:
    row = disagreements(two_methods(0.95)).row(0, named=True)
    assert (row["latent"], row["highest"], row["lowest"], row["apart"]) == (0, "embedding", "fuzzing", 1.0)
    assert disagreements(scores(0.2)).is_empty()


def test_costs_add_up_to_the_sums_of_the_tables(tiny: Study, tiny_tables: dict[str, Partition]) -> None:
    found = tiny_tables["score_report"].read("costs")
    assert set(found["step"]) == {"explanations", "detection", "fuzzing"}
    for step in found["step"]:
        asset, table = ("explanations", "explanations") if step == "explanations" else (f"scores/{step}", "trials")
        # Rows that asked the same share one call.
        rows = tiny_tables[asset].read(table).drop_nulls("prompt_hash")
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            by_call = {row["prompt_hash"]: row[name] for row in rows.iter_rows(named=True)}
            assert found.filter(step=step)[name].sum() == sum(by_call.values())
    assert found["prompt_tokens"].sum() > 0
    priced = tiny.model_copy(
        update={
            "engines": {"oracle": tiny.engines["oracle"].model_copy(update={"price": Price(input=2.0, output=4.0)})}
        }
    )
    explanations = tiny_tables["explanations"].read("explanations").with_columns(layer=pl.lit("a"))
    row = costs(priced, explanations, NO_TRIALS, by_layer({}, EFFECTS_READ)).row(0, named=True)
    assert row["money"] == pytest.approx((2 * row["prompt_tokens"] + 4 * row["completion_tokens"]) / 1e6)


def test_both_figures_of_the_proof_of_load_stand_in_the_report(tiny_tables: dict[str, Partition]) -> None:
    proof = tiny_tables["activation_cache"].metadata["proof"]
    text = Elements(tiny_tables["score_report"].files("page")[0].read_text()).text
    row = text[text.index("How well the SAEs reconstruct") :]
    for figure in ("fvu", "dimension_fvu"):
        assert f"{proof[figure]:.3g}" in row


def test_deciles_by_brute_force() -> None:
    draw = np.random.default_rng(0)
    names = {"layer": "a", "method": "embedding", "explainer": "llm", "control": "none", "status": "ok"}
    rows = [
        names | {"latent": 0, "example": i, "expected": kind, "probability": float(draw.integers(0, 9))}
        for kind in (True, False)
        for i in range(30)
    ]
    trials = pl.DataFrame(rows).with_columns(
        pl.col("latent", "example").cast(pl.UInt32), predicted=pl.lit(None, pl.Boolean)
    )
    examples = pl.DataFrame({"layer": "a", "latent": 0, "example": range(30), "purpose": "test", "kind": "activating"})
    examples = examples.with_columns(
        pl.col("latent", "example").cast(pl.UInt32), decile=(pl.col("example") % 10).cast(pl.Int8)
    )
    negatives = trials.filter(~pl.col("expected"))["probability"].to_numpy()
    for row in by_decile(trials, examples).iter_rows(named=True):
        mine = trials.filter("expected", pl.col("example") % 10 == row["decile"])["probability"].to_numpy()[:, None]
        assert row["value"] == pytest.approx(((mine > negatives) + (mine == negatives) / 2).mean())
        assert row["n_trials"] == 3


@pytest.mark.parametrize("method", ["embedding", "detection"])
def test_kinds_of_negatives_by_brute_force(method: str) -> None:
    draw = np.random.default_rng(0)
    kinds = ["random", "neighbour", "similar_text"]
    rows, tests = [], []
    for layer, latent in (("a", 0), ("a", 1), ("b", 0)):
        for i in range(30):
            for expected in (True, False):
                value = draw.integers(0, 9) + 2 * expected - 3 * (kinds[i % 3] == "similar_text")
                rows.append((layer, latent, i, expected, float(value), bool(value > 4)))
                tests.append((layer, latent, i, "activating" if expected else kinds[i % 3]))
    names = {"latent": pl.UInt32, "example": pl.UInt32}
    columns = ["layer", "latent", "example", "expected", "probability", "predicted"]
    trials = pl.DataFrame(rows, schema=columns, orient="row").cast(names)  # type: ignore[arg-type]
    trials = trials.with_columns(
        method=pl.lit(method), explainer=pl.lit("llm"), control=pl.lit("none"), status=pl.lit("ok")
    )
    columns = ["layer", "latent", "example", "kind"]
    examples = pl.DataFrame(tests, schema=columns, orient="row").cast(names)  # type: ignore[arg-type]
    table = by_negatives(trials, examples.with_columns(purpose=pl.lit("test")))
    assert table["kind"].to_list() == sorted(kinds)
    for row in table.iter_rows(named=True):
        of_latents = []
        for (_, _), group in trials.group_by("layer", "latent"):
            hard = ~pl.col("expected") & (pl.col("example") % 3 == kinds.index(row["kind"]))
            one, other = group.filter("expected"), group.filter(hard)
            x, y = one["probability"].to_numpy()[:, None], other["probability"].to_numpy()
            of_latents.append(((x > y) + (x == y) / 2).mean())
        assert (row["n_latents"], row["n_trials"]) == (3, 30)
        assert row["value"] == pytest.approx(np.mean(of_latents))
    values = dict(table.select("kind", "value").iter_rows())
    assert min(values, key=values.__getitem__) != "similar_text", "the planted difference is seen"


def test_negatives_of_fuzzing_have_no_kind() -> None:
    trial = {"layer": "a", "latent": 0, "example": 1, "expected": False, "probability": 0.5, "predicted": True}
    trial |= {"method": "fuzzing", "explainer": "llm", "control": "none", "status": "ok"}
    trials = pl.DataFrame([trial, trial | {"expected": True}]).cast({"latent": pl.UInt32, "example": pl.UInt32})
    example = {"layer": "a", "latent": 0, "example": 1, "kind": "random", "purpose": "test"}
    examples = pl.DataFrame([example]).cast({"latent": pl.UInt32, "example": pl.UInt32})
    assert not len(by_negatives(trials, examples))
    assert len(by_negatives(trials.with_columns(method=pl.lit("detection")), examples)) == 1


def test_a_control_layer_is_compared_with_the_layer_itself() -> None:
    real, random = scores(0.2), scores(0.05).with_columns(layer=pl.lit("layers.3@random"))
    wide = scores(0.0).with_columns(layer=pl.lit("layers.3@width16k"))
    (found,) = against_layers(pl.concat([real, random, wide]))
    x, y = (each.filter(control="none")["value"].to_numpy() for each in (real, random))
    assert (found.layer, found.control) == ("layers.3", "layers.3@random")
    assert found.mean == pytest.approx(x.mean() - y.mean())
    width = 2 * stats.t.ppf(0.975, 59) * np.hypot(stats.sem(x), stats.sem(y))
    assert width <= found.high - found.low < 1.01 * width


@pytest.mark.parametrize(
    ("control", "beside"),
    [
        ("layers.3@random", ["layers.3"]),
        ("layers.3@wide.random", ["layers.3@wide"]),
        ("layers.3@neurons", ["layers.3", "layers.3@wide", "layers.3.mlp"]),
        ("layers.33@random", []),
    ],
)
def test_controls_stand_beside_what_they_control(control: str, beside: list[str]) -> None:
    keys = ["layers.3", "layers.3@wide", "layers.3.mlp", "layers.3@untrained", control]
    table = pl.concat([scores(0.1).with_columns(layer=pl.lit(key)) for key in dict.fromkeys(keys)])
    compared = [(found.layer, found.control) for found in against_layers(table)]
    assert [layer for layer, other in compared if other == control] == beside
    assert ("layers.3", "layers.3@untrained") in compared


def effect_scores(layer: str, shift: float, *targets: str) -> pl.DataFrame:
    draw = np.random.default_rng(len(layer))
    rows = [
        {
            "latent": latent,
            "explainer": "effect",
            "control": "none",
            "statistic": "nats",
            "condition": target,
            "value": shift * float(target) + draw.normal(0, 0.1),
        }
        for target in targets
        for latent in range(20)
    ]
    return conform(pl.DataFrame(rows), SCORES).with_columns(layer=pl.lit(layer), method=pl.lit("intervention"))


def test_interventions_are_compared_at_equal_kl() -> None:
    # The control is never moved by 3 nats: a mean over what was reached would compare 3 with 1.
    table = pl.concat([effect_scores("a.3", 1.0, "1", "3"), effect_scores("a.3@random", 1.0, "1")])
    (found,) = against_layers(table)
    assert (found.condition, found.n_latents) == ("1", 20)
    assert found.low < 0 < found.high
    assert "on a.3 at a KL of 1 nats is not above its control a.3@random" in found.sentence()
    (above,) = corrected(
        against_layers(pl.concat([effect_scores("a.3", 2.0, "1"), effect_scores("a.3@random", 1.0, "1")]))
    )
    assert above.sentence().startswith(
        "intervention of effect explanations on a.3 at a KL of 1 nats: above the control"
    )


def test_intervals_of_quantiles_hold_the_truth() -> None:
    draw = np.random.default_rng(0)
    latents, layers = 400, 500
    layer = pl.Series(np.repeat(np.arange(layers), latents)).cast(pl.String)
    table = scores(0.0, 1).head(1).select(pl.all().repeat_by(latents * layers).explode())
    table = table.with_columns(layer=layer, value=pl.Series(draw.exponential(size=len(table))))
    found = summarise(table)
    for name, q in (("lower_quartile", 0.25), ("median", 0.5), ("upper_quartile", 0.75)):
        truth = float(stats.expon.ppf(q))
        held = found.select((pl.col(f"{name}_low") <= truth) & (truth <= pl.col(f"{name}_high"))).to_series().mean()
        assert 0.93 <= held <= 0.985, name
        assert (found[f"{name}_low"] < found[name]).all()


def test_explaining_effects_is_paid_for_too(tiny: Study) -> None:
    price = {"price": Price(input=2.0, output=4.0)}
    intervention = InterventionScorer(explainer="oracle", scorer="oracle")
    priced = tiny.model_copy(
        update={
            "engines": {"oracle": tiny.engines["oracle"].model_copy(update=price)},
            "scorers": tiny.scorers.model_copy(update={"intervention": intervention}),
        }
    )
    tokens = {"prompt_tokens": 900, "cached_tokens": 100, "completion_tokens": 50}
    rows = [{"latent": i, "condition": "1", "prompt_hash": f"call{i}", **tokens} for i in range(2)]
    effects = by_layer({"a": conform(pl.DataFrame(rows), EFFECTS_READ)}, EFFECTS_READ)
    (row,) = costs(priced, by_layer({}, EXPLANATIONS), NO_TRIALS, effects).to_dicts()
    assert (row["step"], row["latents"], row["calls"]) == ("intervention: its explanations", 2, 2)
    assert row["money"] == pytest.approx(2 * (2 * 900 + 4 * 50) / 1e6)


def test_a_single_latent_and_no_scores_make_a_page(tiny: Study) -> None:
    assert "No scores yet" in page(scores(0.2).clear(), tiny)
    assert "too few latents to compare" in page(scores(0.2, latents=1), tiny)
