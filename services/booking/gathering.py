"""Calls that come while another is under way go together.

A transaction for a single call spends most of its time on what does not depend on how many it is
for: round trips, starting statements anew in a processor that has done something else meanwhile,
the commit. So a process has one transaction at a time; whoever finds it under way waits for its
end, and goes with all others who wait then. Should that take longer than PATIENCE_S another one is
begun beside it. When nobody is under way nobody waits, and a call goes alone, in its own task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

LANES_MAX = 16
"""Transactions beside each other, when those before wait for something."""
PATIENCE_S = 0.1
TOGETHER_MAX = 16
"""Calls in a transaction; others are read and answered meanwhile."""


class _Go(Enum):
    """What a call that waited is told instead of an answer."""

    IN_LANE = "alone, in a lane that is yours now"
    ALONE = "alone"


@dataclass(slots=True, eq=False)
class _Turn(Generic[Asked, Answer]):
    """A call that waits."""

    asked: Asked
    told: asyncio.Future[Answer | _Go] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def tell(self, what: Answer | _Go | Exception) -> None:
        """Unless nobody waits any more."""
        if self.told.done():
            return
        if isinstance(what, Exception):
            self.told.set_exception(what)
        else:
            self.told.set_result(what)

    def was_told(self, what: _Go) -> bool:
        told = self.told
        return (
            told.done()
            and not told.cancelled()
            and told.exception() is None
            and told.result() is what
        )


class Gathering(Generic[Asked, Answer]):
    """Does what is asked for by `alone`, or several by one `together`.

    `together` answers each, by an exception whom it refuses, and by None who is to be done alone
    after all: those who may have been in each other's way, and all when something may be the fault
    of one. What it raises is raised for all.
    """

    def __init__(
        self,
        alone: Callable[[Asked], Awaitable[Answer]],
        together: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception | None]]],
    ) -> None:
        self._alone = alone
        self._together = together
        self._under_way = 0
        """Lanes in use."""
        self._waiting: deque[_Turn[Asked, Answer]] = deque()
        self._patience: asyncio.TimerHandle | None = None
        """Set while anyone waits."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, asked: Asked) -> Answer:
        """The answer.

        A call that is cancelled while it waits was never begun; whether one that is under way with
        others is dropped is up to `together`.
        """
        if not self._under_way:
            self._under_way = 1
            return await self._in_lane(asked)
        turn: _Turn[Asked, Answer] = _Turn(asked)
        self._waiting.append(turn)
        self._be_patient()
        try:
            told = await turn.told
        except asyncio.CancelledError:
            if turn.was_told(_Go.IN_LANE):
                self._pass_on()
            raise
        if told is _Go.IN_LANE:
            return await self._in_lane(asked)
        if told is _Go.ALONE:
            return await self._alone(asked)
        return told

    async def _in_lane(self, asked: Asked) -> Answer:
        try:
            return await self._alone(asked)
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """The lane goes to those who wait."""
        turns = self._next()
        if len(turns) == 1:
            turns[0].told.set_result(_Go.IN_LANE)
        elif turns:
            # In a context of its own: it is for all of them, not for the call that ends here.
            work = self._for_all(turns)
            task = asyncio.get_running_loop().create_task(work, context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._under_way -= 1
        self._be_patient(anew=True)

    def _next(self) -> list[_Turn[Asked, Answer]]:
        """Those whose turn it is; who was cancelled meanwhile is not among them."""
        turns: list[_Turn[Asked, Answer]] = []
        while self._waiting and len(turns) < TOGETHER_MAX:
            turn = self._waiting.popleft()
            if not turn.told.done():
                turns.append(turn)
        return turns

    def _be_patient(self, *, anew: bool = False) -> None:
        """Whoever waits does so for PATIENCE_S at most, if there may be another lane."""
        if anew and self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._patience is None and self._waiting:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE_S, self._open_lane)

    def _open_lane(self) -> None:
        if self._under_way < LANES_MAX:
            self._under_way += 1
            self._pass_on()
        else:
            self._be_patient(anew=True)

    async def _for_all(self, turns: Sequence[_Turn[Asked, Answer]]) -> None:
        try:
            answers = await self._together([turn.asked for turn in turns])
            for turn, answer in zip(turns, answers, strict=True):
                turn.tell(_Go.ALONE if answer is None else answer)
        except Exception as error:  # noqa: BLE001 (raised where the calls wait)
            for turn in turns:
                turn.tell(error)
        finally:
            for turn in turns:
                turn.told.cancel()
            self._pass_on()
