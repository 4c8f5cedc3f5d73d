"""What is said of an engine at work is what it did."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interp_assets.metering import meter
from interp_assets.progress import Progress
from interp_assets.provenance import Spent
from interp_assets.settings import Price
from resources.language_models.logged import LoggedEngine
from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import ChooseRequest, Message
from resources.reply_log import ReplyLog
from tests.bench_server import Manners, serving

PRICE = Price(input=1000.0, cached=500.0, output=2000.0)


def judgements(count: int) -> list[ChooseRequest]:
    texts = [f"Description: the word w{i}\nText: w{i % 2 * i} w0\n\nAnswer." for i in range(count)]
    return [ChooseRequest((Message("user", text),), ("Yes", "No")) for text in texts]


def test_the_progress_line_and_the_metadata_tell_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("interp_assets.progress.SECONDS_BETWEEN_LINES", 0.0)
    with serving(Manners(cached_tokens=2, too_many=0.2, latency=0.005, refuse="the word w7\n")) as server:
        served = OpenAIEngine(server.url, "oracle", concurrency=4)
        before = served.retries
        model = LoggedEngine(lambda: served, "id", ReplyLog(tmp_path / "log"), "s", "judge")
        with Progress("judging", 80, "trials", meter(model, PRICE)) as progress:
            model.choose(judgements(40), lambda i, reply: progress.advance(1))
            model.choose(judgements(80), lambda i, reply: progress.advance(int(i >= 40)))
        told = server.told()
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"  judging: 1/80 trials \(1%\), .* left \([\d.]+ requests/s, .*\)", lines[0])
    last = lines[-1]
    assert "judging: 80/80 trials (100%)" in last
    sent_again = served.retries - before
    assert sent_again > 3
    assert f"{sent_again} sent again, 2 refused" in last  # a refusal is no answer: it was asked for twice
    spent = Spent()
    spent.add(model, PRICE)
    shown = spent.metadata(type("Asking", (), {"engines": ("judge",)})())  # type: ignore[arg-type]
    assert (shown["llm_calls"], shown["replies_reused"]) == (81, 39)
    assert shown["requests_per_second"] == pytest.approx(81 / model.seconds, abs=0.01)
    assert shown["prefix_cache_hit_rate"] == pytest.approx(shown["cached_tokens"] / shown["prompt_tokens"], abs=1e-3)
    assert f"cost {shown['cost']:,.2f} of about {shown['cost']:,.2f}" in last
    assert (shown["requests_refused"], shown["requests_sent_again"]) == (2, sent_again)
    assert told.answered >= 79
