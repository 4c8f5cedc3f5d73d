"""Many small requests to one HTTP server: a bounded number at a time, each until it is answered or refused.

Faults are told apart by whose they are. What the server refuses (400, 422, ...) is an outcome of that request. What
may pass (a time-out, a broken connection, 429, 5xx, a body that makes no sense) is asked again. A request that keeps
failing is refused once the server is seen to answer another; a server that answers none is waited for. One that turns some
away for being busy gets fewer at a time (`pace`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import aiohttp

from resources.errors import NotNow
from resources.language_models.attempt import Call, Trouble, attempt
from resources.language_models.given_up import GIVEN_UP
from resources.language_models.pace import Pace, Turn
from resources.language_models.protocol import EnoughSpent
from resources.language_models.server_errors import NOT_FOR_US, Refused

TRIES = 4
"A request that failed twice as often is refused if the server answers another meanwhile."
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"Seconds before a request is asked again; doubled each time."
WAITING = 128
"Requests that were turned away may wait, beside those in flight, before no new ones are begun."
SAID_AFTER = 2.0
"Seconds without any answer after which the wait is told."
CONNECT_SECONDS = 30.0
LOOK_SECONDS = 10.0
"For which a server that was given up may take to one small request."
NOT_SENT_AGAIN = object()
"The outcome of a request that waited when all had ended."


class Server:
    def __init__(
        self,
        base_url: str,
        key: str | None,
        concurrency: int,
        timeout_seconds: float,
        wait_seconds: float,
        must_be_up: bool = False,
    ) -> None:
        """
        Args:
            key: sent as a bearer token; it appears in no message.
            concurrency: most requests in flight.
            timeout_seconds: longest time to one reply.
            wait_seconds: how long a server that answers nothing is waited for.
            must_be_up: one that cannot even be reached is not waited for.
        """
        self.must_be_up = must_be_up
        self.base_url = base_url.rstrip("/")
        self.concurrency = concurrency
        self.timeout_seconds = timeout_seconds
        self.wait_seconds = wait_seconds
        self.probe: Call | None = None
        "A request that the server is known to answer; until there is one, nothing is refused for failing often."
        self.retries = 0
        "Requests that were sent again."
        self._key = key
        self._silent_since: float | None = None
        "Since when there was trouble and no answer."
        self._said = False
        self._pace = Pace(concurrency)

    def ask(self, call: Call) -> Any:
        """The reply to one request, or Refused."""
        replies: list[Any] = []
        self.ask_all([call], lambda _, reply: replies.append(reply))
        return replies[0]

    def ask_all(self, calls: Iterable[Call], arrived: Callable[[int, Any], None]) -> None:
        """Hand over the reply to each request, or Refused, with its place; requests are begun in their order.

        Raises:
            NotNow: the server answered nothing for too long, or does not after it was given up in this process, or no
                longer takes the key or the model.
            EnoughSpent: `arrived` did; what was in flight then has been handed over, but for what was to be sent again.
        """
        asyncio.run(self._ask_all(enumerate(calls), arrived))

    async def _ask_all(self, calls: Iterator[tuple[int, Call]], arrived: Callable[[int, Any], None]) -> None:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        self._silent_since, self._said, self._ended = None, False, asyncio.Event()
        self._pace.begin()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(self.timeout_seconds, sock_connect=CONNECT_SECONDS),
            headers=headers,
        ) as session:
            if self.base_url in GIVEN_UP:
                calls = await self._see_whether_back(session, calls)
            enough: list[EnoughSpent] = []

            async def work() -> None:
                while not enough:
                    async with Turn(self._pace) as turn:
                        place, call = next(calls, (0, None))
                        if call is None or enough:
                            return
                        reply = await self._outcome(session, call, turn)
                    if reply is NOT_SENT_AGAIN:
                        return
                    try:
                        arrived(place, reply)
                    except EnoughSpent as said:
                        enough.append(said)
                        self._ended.set()

            workers = [asyncio.create_task(work()) for _ in range(self.concurrency + max(WAITING, self.concurrency))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
            if enough:
                raise enough[0]

    async def _see_whether_back(
        self, session: aiohttp.ClientSession, calls: Iterator[tuple[int, Call]]
    ) -> Iterator[tuple[int, Call]]:
        """All the calls, after one small request to a server that was given up.

        Raises:
            NotNow: it is not answered; in the words with which the server was given up.
        """
        first = next(calls, None)
        if first is None:
            return calls
        reply: Any = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(LOOK_SECONDS, self.timeout_seconds)):
                reply = await self._attempt(session, self.probe or first[1])
        if reply is None or isinstance(reply, Trouble):
            raise NotNow(GIVEN_UP[self.base_url])
        del GIVEN_UP[self.base_url]
        return chain([first], calls)

    def _give_up(self, why: str) -> NotNow:
        failure = NotNow(f"{self.base_url}: {why}")
        GIVEN_UP[self.base_url] = str(failure)
        return failure

    async def _outcome(self, session: aiohttp.ClientSession, call: Call, turn: Turn) -> Any:
        """The reply to a request and to whatever has to be asked after it or in its place."""
        while True:
            reply = await self._answer(session, call, turn)
            if isinstance(reply, Refused):
                reply = call.otherwise(reply) or reply
            if not isinstance(reply, Call):
                return reply
            call = reply

    async def _answer(self, session: aiohttp.ClientSession, call: Call, turn: Turn) -> Any:
        began, faults, pause, again = time.monotonic(), 0, FIRST_PAUSE, False
        while True:
            # One that kept its place may find that all are to wait.
            while (left := self._pace.not_before - time.monotonic()) > 0:
                await asyncio.sleep(left)
            sent = time.monotonic()
            reply = await self._attempt(session, call)
            if isinstance(reply, Refused) and reply.status in NOT_FOR_US:
                reply = await self._trouble_with_others(session) or reply
            if not isinstance(reply, Trouble):
                self._silent_since, self._said = None, False
                self._pace.answered(sent)
                return reply
            if self.must_be_up and not reply.reached:
                raise NotNow(f"{self.base_url}: {reply.why}")
            self.retries += 1
            faults += reply.fault
            left = self._patience_left(reply)
            if faults >= TRIES or left <= 0 or time.monotonic() - began > self.wait_seconds:
                trouble = await self._trouble_with_others(session) if self.probe is not None else reply
                if trouble is None and again:
                    return Refused(0, f"{reply.why}, again and again, while the server answers other requests")
                if trouble is None:
                    # The server may have come back just now, so the request gets as many tries once more.
                    began, faults, again = time.monotonic(), 0, True
                elif left <= 0:
                    raise self._give_up(f"{reply.why}; waited for {self.wait_seconds:g} s")
            seconds = random.uniform(pause / 2, pause)  # noqa: S311 spreads requests, no secret
            if reply.busy:
                seconds = max(seconds, reply.seconds or 0)
                self._pace.turned_away(sent, seconds)
                if self._pace.not_before - time.monotonic() > SAID_AFTER:
                    self._say(f"{reply.why}; all wait for {seconds:.0f} s")
                # How long others go first says nothing about this one.
                began += await turn.again(sent, seconds, self._ended)
            else:
                # Its place is kept: a server in trouble is not asked more at a time.
                await asyncio.sleep(seconds)
            if self._ended.is_set():
                return NOT_SENT_AGAIN
            pause = min(2 * pause, LONGEST_PAUSE, max(left, FIRST_PAUSE))

    async def _trouble_with_others(self, session: aiohttp.ClientSession) -> Trouble | None:
        """Why not even the probe is answered, where it is not.

        Raises:
            NotNow: the server no longer takes the key or the model.
        """
        if self.probe is None:
            return None
        reply = await self._attempt(session, self.probe)
        if isinstance(reply, Refused) and reply.status in NOT_FOR_US:
            raise self.not_for_us(reply)
        if isinstance(reply, Trouble):
            return reply
        self._silent_since, self._said = None, False
        return None

    async def _attempt(self, session: aiohttp.ClientSession, call: Call) -> Any:
        return await attempt(session, self.base_url, call, self.timeout_seconds, self._key)

    def _patience_left(self, trouble: Trouble) -> float:
        """Seconds for which the server is waited for yet.

        Raises:
            NotNow: it asks to be left alone for longer.
        """
        now = time.monotonic()
        self._silent_since = now if self._silent_since is None else self._silent_since
        left = self._silent_since + self.wait_seconds - now
        if trouble.seconds is not None and trouble.seconds > left:
            raise self._give_up(f"{trouble.why}; it asks to wait for {trouble.seconds:.0f} s")
        if now - self._silent_since > min(SAID_AFTER, self.wait_seconds / 2):
            self._say(trouble.why)
        return left

    def _say(self, why: str) -> None:
        """What is waited for, once until there is an answer."""
        if not self._said:
            self._said = True
            print(f"{'waiting':8} for {self.base_url}: {why}", file=sys.stderr, flush=True)

    def not_for_us(self, refused: Refused) -> NotNow:
        """Nothing can be asked of this server: why, and what to do."""
        hint = ""
        if refused.status == 401:
            hint = "; is the key right?" if self._key else "; name the environment variable with its key in key_env"
        return NotNow(f"{self.base_url}: {refused.reason}{hint}")
