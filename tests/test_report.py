"""The report: right numbers, plain words where a score shows nothing, and no way in for hostile text."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from scipy import stats

from interp_assets.examples.rendering import Rendering
from interp_assets.report.page import best_and_worst, render
from interp_assets.report.summary import against_control, summarise
from interp_assets.tables import EXAMPLES, EXPLANATIONS, SCORES, conform
from resources.table_store import Partition
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
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert row["mean"] == pytest.approx(values.mean())
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((low, high))
    assert row["median"] == pytest.approx(np.median(values))
    assert (row["n_latents"], row["n_failed_trials"]) == (60, 60)


def test_difference_is_paired_by_latent() -> None:
    wide = scores(0.2).pivot(on="control", index="latent", values="value")
    differences = (wide["none"] - wide["shuffled"]).to_numpy()
    found = against_control(scores(0.2))[0]
    assert found.mean == pytest.approx(differences.mean())
    low, high = stats.norm.interval(0.95, differences.mean(), stats.sem(differences))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_a_score_that_shows_nothing_is_called_so() -> None:
    above, flat = against_control(scores(0.2))[0], against_control(scores(0.0))[0]
    assert above.above_control
    assert "above the shuffled control by +0." in above.sentence()
    assert not flat.above_control
    assert "is not above its shuffled control" in flat.sentence()
    assert "is not above its shuffled control" in page(scores(0.0))
    assert "is not above its shuffled control" not in page(scores(0.2))


def page(table: pl.DataFrame, name: str = "study", text: str = "a word", word: str = "kaba") -> str:
    rendering = Rendering(make_tokenizer([*VOCABULARY[:2], word, *VOCABULARY[3:]]))
    examples = conform(
        pl.DataFrame(
            {
                "latent": [0],
                "kind": ["activating"],
                "tokens": [[2, 3, 2]],
                "activations": [[1.0, 0.0, 0.5]],
                "peak_activation": [1.0],
                "status": ["ok"],
            }
        ),
        EXAMPLES,
    )
    explanations = conform(
        pl.DataFrame({"latent": [0], "explainer": [text], "explanation": [text], "status": ["ok"]}), EXPLANATIONS
    )
    one = table.filter(pl.col("latent") == 0)
    cards = best_and_worst(one, {"layers.3": explanations}, {"layers.3": examples}, rendering)
    return render(name, ["layers.3"], table, {"layers.3": {text: 3}}, {f"examples[{text}]": text}, cards)


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


def test_hostile_text_is_shown_and_not_run() -> None:
    """In the study's name, explanations, explainer names, reasons, count names, and in tokens of the corpus."""
    harmless = Elements(page(scores(0.2)))
    word = HOSTILE.replace(" ", "/")
    hostile = Elements(page(scores(0.2), HOSTILE, HOSTILE, word))
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
    assert "detection of llm explanations" in text
    report = tiny_tables["score_report"].read("report")
    assert set(report["method"]) == {"detection", "fuzzing"}
    assert set(report["control"]) == {"none", "shuffled"}
