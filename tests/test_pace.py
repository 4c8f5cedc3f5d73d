"""How many requests are in flight to a server that turns some away: on a clock that jumps, so that minutes take no time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from resources.language_models.pace import Pace, Turn
from tests.virtual_time import VirtualTime, run

LATENCY = 0.32


@dataclass
class Busy:
    """A server; answers take LATENCY on average, refusals no time."""

    share: float = 0.0
    "Turned away whatever there is to do."
    rate: float | None = None
    "Answers a second, a second's worth of them at once; what comes above that is turned away."
    places: int = 10_000
    "Requests that it works on at a time; others are turned away."
    latency: float = LATENCY
    down: tuple[float, float] = (0.0, 0.0)
    "Seconds from when to when everything is turned away."
    good: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)

    turned_away: int = 0
    allowed: float = 0.0
    counted: float = 0.0

    async def ask(self, now: Callable[[], float], draw: random.Random) -> bool:
        self.sent.append(now())
        working = len(self.sent) - len(self.good) - self.turned_away - 1
        if (
            draw.random() < self.share
            or working >= self.places
            or self.down[0] <= now() < self.down[1]
            or not self.within_rate(now())
        ):
            self.turned_away += 1
            return False
        await asyncio.sleep(self.latency * draw.uniform(0.7, 1.3))
        self.good.append(now())
        return True

    def within_rate(self, now: float) -> bool:
        if self.rate is None:
            return True
        self.allowed = min(self.rate, self.allowed + (now - self.counted) * self.rate)
        self.counted = now
        within = self.allowed >= 1
        self.allowed -= within
        return within


def asked(server: Busy, seconds: float, most: int = 32, retry_after: float = 1.0, pace: type[Pace] = Pace) -> Pace:
    loop, draw, ended = VirtualTime(), random.Random(0), asyncio.Event()
    paced = pace(most, loop.time)

    async def work() -> None:
        while loop.time() < seconds:
            async with Turn(paced) as turn:
                while (sent := loop.time()) < seconds:
                    if await server.ask(loop.time, draw):
                        paced.answered(sent)
                        break
                    paced.turned_away(sent, retry_after)
                    await turn.again(sent, retry_after, ended)

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(most + 128)))

    run(all_of_them(), loop)
    return paced


class AllWait(Pace):
    """As it was before: whatever is turned away stops everything."""

    def turned_away(self, sent: float, seconds: float) -> None:
        self.not_before = max(self.not_before, self.now() + seconds)


def test_a_few_that_are_turned_away_cost_no_more_than_themselves() -> None:
    server, before = Busy(share=0.05), Busy(share=0.05)
    asked(server, 60)
    assert len(server.good) > 0.92 * 60 * 32 / LATENCY
    asked(before, 60, pace=AllWait)
    assert len(before.good) < 0.4 * 60 * 32 / LATENCY, "the control: all wait each time"


@pytest.mark.parametrize(("most", "latency"), [(4, 0.04), (256, 2.56)])
def test_few_and_many_in_flight(most: int, latency: float) -> None:
    server = Busy(share=0.05, latency=latency)
    asked(server, 60, most)
    assert len(server.good) > 0.9 * 60 * most / latency


@pytest.mark.parametrize("rate", [10, 50])
def test_a_rate_that_is_allowed_is_used_and_hardly_passed(rate: int) -> None:
    server = Busy(rate=rate)
    pace = asked(server, 120)
    late = [at for at in server.sent if at > 60]
    answered = [at for at in server.good if at > 60]
    assert len(answered) > 0.85 * 60 * rate
    assert len(answered) > 0.8 * len(late), "about one in ten is turned away"
    assert pace.limit < 32


def test_long_answers_of_a_server_with_few_places() -> None:
    """Refusals come at once and answers after 20 seconds: what is worked on is not taken for turned away."""
    server = Busy(places=44, latency=20.0)
    pace = asked(server, 900, most=64)
    assert len(server.good) > 0.9 * 900 * 44 / 20
    assert server.turned_away < 0.3 * len(server.good)
    assert 40 < pace.limit < 60


def test_a_server_that_turns_away_everything_is_asked_once_in_a_while() -> None:
    server = Busy(down=(10.0, 310.0))
    asked(server, 360, retry_after=10.0)
    during = [at for at in server.sent if 20 < at < 310]
    assert 20 < len(during) < 4 * 30
    assert max(at for at in server.good if at < 320) > 310, "it is noticed when it is back"
    back = [at for at in server.good if at > 330]
    assert len(back) > 0.8 * 30 * 32 / LATENCY, "and soon asked as much as before"


def test_nobody_jumps_the_queue_and_a_place_is_never_lost() -> None:
    async def main() -> list[int]:
        pace = Pace(2, loop.time)
        begun: list[int] = []

        async def one(number: int) -> None:
            async with Turn(pace):
                begun.append(number)
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await asyncio.sleep(0.5)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert pace.in_flight == 0
        return begun

    loop = VirtualTime()
    assert run(main(), loop) == [0, 1, 2, 4, 5, 6, 7]
