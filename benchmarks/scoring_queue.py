"""The queue of requests to a server that takes its time: how close it comes to what the server could answer.

The server answers each request after 200 (50) ms, 64 at once: 320 (1,280) requests a second are the ideal.

Then it turns requests away (429, Retry-After: 1): one in twenty of 100 a second, whatever comes above 50 a second, and all.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import psutil

from benchmarks.measuring import quick, show
from resources.errors import NotNow
from resources.language_models.openai_engine import OpenAIEngine
from resources.language_models.protocol import ChooseRequest, Message
from tests.bench_server import Manners, Serving, serving

AT_ONCE = 64
INSTRUCTIONS = Message("system", "Decide whether the unit is active anywhere in the text. " * 12)
QUEUED = 100_000


def requests(count: int) -> list[ChooseRequest]:
    """Of 40 words each, as one trial of detection is."""
    questions = [f"Description: the word w{i}\nText: {'some words of it ' * 10}\n\nActive?" for i in range(count)]
    return [ChooseRequest((INSTRUCTIONS, Message("user", each)), ("Yes", "No")) for each in questions]


def main() -> None:
    if "--memory" in sys.argv:
        memory(sys.argv[-1])
        return
    shares = {}
    for milliseconds, count in ((50, 4_000 if quick() else 20_000), (200, 4_000 if quick() else 20_000)):
        with serving(Manners(latency=milliseconds / 1000)) as server:
            model = OpenAIEngine(server.url, "oracle", concurrency=AT_ONCE)
            asked = requests(count)
            began, busy = time.perf_counter(), time.process_time()
            replies = model.choose(asked)
            took, busy = time.perf_counter() - began, time.process_time() - busy
            assert len(replies) == count and not any(reply.refused for reply in replies)
            assert server.told().most_at_once == AT_ONCE
        shares[milliseconds] = count / took / (AT_ONCE / milliseconds * 1000)
        show(f"at_{milliseconds}_ms_requests_per_second", count / took)
        show(f"at_{milliseconds}_ms_cpu_cores_busy", busy / took)
        show(f"at_{milliseconds}_ms_cpu_ms_per_request", 1000 * busy / count)
    with serving(Manners(latency=1.0)) as server:
        command = [sys.executable, "-m", "benchmarks.scoring_queue", "--memory", server.url]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="")
    busy_servers()
    show("at_50_ms_share_of_ideal_ratio", shares[50])
    show("at_200_ms_share_of_ideal_ratio", shares[200])


def busy_servers() -> None:
    """How much of what a server would answer it is asked, where it turns some requests away; 32 in flight."""
    seconds, latency = (8, 0.32) if quick() else (20, 0.32)
    with serving(Manners(latency=latency)) as server:
        calm, _ = asked_for(server, 100 * seconds)
        show("of_100_a_second_without_429_requests_per_second", calm)
    with serving(Manners(latency=latency, too_many=0.05, retry_after="1")) as server:
        answered, sent = asked_for(server, 100 * seconds)
        show("of_100_a_second_with_5_percent_429_ratio", answered / calm)
        show("of_100_a_second_with_5_percent_429_requests_per_second", answered)
        show("of_100_a_second_with_5_percent_429_share_sent_again", 1 - 1 / sent)
    with serving(Manners(latency=latency, rate=50, retry_after="1")) as server:
        answered, sent = asked_for(server, 50 * seconds)
        show("of_50_a_second_allowed_requests_per_second", answered)
        show("of_50_a_second_allowed_share_sent_again", 1 - 1 / sent)
    with serving(Manners(first=(200,) * 6, too_many=1.0, retry_after="1")) as server:
        model = OpenAIEngine(server.url, "oracle", concurrency=32, wait_seconds=seconds)
        before, began = server.told().requests, time.perf_counter()
        with contextlib.suppress(NotNow):
            model.choose(requests(200))
        took = time.perf_counter() - began
        # The first 32 were on their way before the first was answered.
        show("all_turned_away_requests_per_second_after_the_first_32", (server.told().requests - before - 32) / took)


def asked_for(server: Serving, count: int) -> tuple[float, float]:
    """Requests answered a second, without the time in which the last ones wait to be sent again, and times each was sent."""
    model = OpenAIEngine(server.url, "oracle", concurrency=32)
    before, began = server.told().requests, time.perf_counter()
    arrived: list[float] = []
    model.choose(requests(count), lambda place, reply: arrived.append(time.perf_counter() - began))
    most = round(0.95 * count)
    return most / sorted(arrived)[most - 1], (server.told().requests - before) / count


def memory(url: str) -> None:
    """What a queue takes on top of the requests themselves, in a process of its own that ends while they are asked."""
    asked = requests(QUEUED)
    model = OpenAIEngine(url, "oracle", concurrency=AT_ONCE)
    model.choose(asked[: 2 * AT_ONCE])
    before, arrived = psutil.Process().memory_info().rss, 0

    def count(place: int, reply: object) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 3 * AT_ONCE:
            show("queue_of_100000_requests_megabytes", (psutil.Process().memory_info().rss - before) / 1e6)
            sys.stdout.flush()
            os._exit(0)

    model.choose(asked, count)


if __name__ == "__main__":
    main()
