"""How many requests may be in flight to a server that turns some away for being busy (429 and the like).

One that is turned away waits for itself, as long as the server asks; the others go on. It keeps its place for as long as
an answer takes, since a refusal comes at once and the next one would too. What is learnt from it is how many the server takes
at a time: their number falls with each that is turned away and rises with each answer, so that it rests where one in ten is
turned away (a weighted up-down rule, Kaernbach 1991), below that at the most allowed. A server that turns away everything is
left alone by all, then asked once, and its answers open the way as in TCP's slow start.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable

SHARE = 0.1
"Of requests that may be turned away before fewer are sent at a time."
STEPS = 64
"One request that is turned away takes this part of the most that may be in flight, or half a place."
REMEMBERED = 16
"Answers, about, over which the time that one takes is averaged."


class Pace:
    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            most: requests in flight.
            clock: seconds; that of the event loop, which is `time.monotonic` unless it has another.
        """
        self.most = most
        self.now = clock
        self.limit = float(most)
        "So many may be in flight now."
        self.not_before = 0.0
        "Of `time.monotonic`: until then nothing is sent."
        self._step = max(0.5, most / STEPS)
        self._opens_to = float(most)
        "Below it every answer makes room for one more."
        self._in_a_row = 0
        "Requests that were turned away since the last answer."
        self._row_began = 0.0
        self._stopped = 0.0
        self._silent = False
        "Nothing was answered since all were stopped."
        self._takes: float | None = None
        "Seconds to an answer, on average."
        self.begin()

    def begin(self) -> None:
        """Once before the first request of an event loop."""
        self.in_flight = 0
        self.kept_places = 0
        "Of these, those that were turned away and keep their places for a while."
        self._queue: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def answered(self, sent: float) -> None:
        """
        Args:
            sent: when, of `time.monotonic`.
        """
        took = self.now() - sent
        self._takes = took if self._takes is None else self._takes + (took - self._takes) / REMEMBERED
        self._in_a_row, self._silent = 0, False
        rise = 1.0 if self.limit < self._opens_to else self._step * SHARE / (1 - SHARE)
        self.limit = min(self.most, self.limit + rise)

    def turned_away(self, sent: float, seconds: float) -> None:
        """
        Args:
            sent: when, of `time.monotonic`.
            seconds: for which this request will wait.
        """
        now = self.now()
        if sent < self._stopped:
            # It was on its way when all were stopped, and says the same.
            self.not_before = max(self.not_before, now + seconds)
            self.limit = max(1.0, self.limit - 1)
            return
        self._in_a_row += 1
        if self._in_a_row == 1:
            self._row_began = now
        # What was sent at once is turned away at once, and answers to the rest of it may be on their way.
        all_of_them = self._in_a_row >= self.limit and now - self._row_began >= (self._takes or 0)
        if not (all_of_them or self._silent):
            self.limit = self._opens_to = max(1.0, self.limit - self._step)
            return
        if self.limit > 1:
            self._opens_to = self.limit / 2
        # Those that it still works on it has taken, for all that is known.
        self.limit = max(1.0, min(self.limit, self.in_flight - self.kept_places))
        self._in_a_row, self._silent, self._stopped, self.not_before = 0, True, now, max(self.not_before, now + seconds)

    def free_at(self, sent: float) -> float:
        """When the place of a request that was turned away is another's."""
        return sent + (float("inf") if self._takes is None else self._takes)

    async def enter(self) -> None:
        """Wait for one's turn, first come first served."""
        if not self._queue and self._open():
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self.in_flight -= 1
        self._admit()

    def _open(self) -> bool:
        return self.in_flight < self.limit and self.now() >= self.not_before

    def _admit(self) -> None:
        while self._queue and self._open():
            turn = self._queue.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
        left = self.not_before - self.now()
        if self._queue and left > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._later)

    def _later(self) -> None:
        self._timer = None
        self._admit()


class Turn:
    """A place among those in flight, given up for as long as a request waits to be sent again."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._held = False

    async def __aenter__(self) -> Turn:
        await self.pace.enter()
        self._held = True
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._give_up()

    def _give_up(self) -> None:
        if self._held:
            self._held = False
            self.pace.leave()

    async def again(self, sent: float, seconds: float, ended: asyncio.Event) -> float:
        """Wait for so long, or until all has ended, and let others go first meanwhile; then as long as it takes, which is returned."""
        until = self.pace.now() + seconds
        self.pace.kept_places += 1
        try:
            await self._nothing_until(min(until, self.pace.free_at(sent)), ended)
        finally:
            self.pace.kept_places -= 1
        self._give_up()
        await self._nothing_until(until, ended)
        began = self.pace.now()
        await self.__aenter__()
        return self.pace.now() - began

    async def _nothing_until(self, moment: float, ended: asyncio.Event) -> None:
        if (left := moment - self.pace.now()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), left)
