"""Short reads that wait together travel together.

A connection of the pool for each read costs more than the read: to take it and give it back, a
message each way, two processes woken. Here connections of their own carry what is asked: while one
is away, reads gather, and leave in one message when it is back. Behind each other in one
transaction, each is behind the setting of its own school; neighbours with the same share it.

Only for statements that are quick by an index: all of a batch wait for its slowest. One that takes
longer than STATEMENT_TIMEOUT_MS is ended, and whatever is not answered here, for whatever reason,
is answered by the pool: no error comes of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from psycopg import abc, errors
from psycopg.adapt import Transformer

from libs import scoped, telemetry
from libs.pooling import Connection, Pool
from libs.scoped import Rows, Sent, Wired

log = logging.getLogger(__name__)

CONNECTIONS = 2
READS_MAX = 16
"""In a batch."""
WAITING_MAX = 64
TURNS = 8
"""Of the event loop, in which another read must have come for a batch to wait for more."""
GATHER_S = 0.002
"""How long a batch waits at most before it leaves."""
LATE_S = 0.005
"""Then what waits need not wait for a batch to come back."""
STATEMENT_TIMEOUT_MS = 500
BATCH_TIMEOUT_S = 2.0
"""Then its connection is closed; what still runs ends by its own timeout."""
LIFETIME_S = 1_800.0
RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 1.0
_ELSEWHERE = (
    errors.OperationalError,
    errors.FeatureNotSupported,
    errors.InvalidSqlStatementName,
    errors.LockNotAvailable,
    errors.QueryCanceled,
)
"""What the pool may do better: it took too long, its plan was stale, the server went away."""


@dataclass(slots=True)
class _Read:
    """Asked, and waited for."""

    scope: Wired
    statement: Wired
    answer: asyncio.Future[Rows | None]

    def settle(self, found: Rows | errors.Error | None) -> None:
        """Tell who waits, if he still does."""
        if self.answer.done():
            return
        if isinstance(found, Rows) or found is None or isinstance(found, _ELSEWHERE):
            self.answer.set_result(found if isinstance(found, Rows) else None)
        else:
            self.answer.set_exception(found)


class Batches:
    """The connections of one process. Without `run` under way there are none, and no answers."""

    def __init__(self, pool: Pool, *, connections: int = CONNECTIONS) -> None:
        """To where the pool connects; `connections` of its own beside those of the pool."""
        self.name = f"{pool.name} batches"
        self._pool = pool
        self._connections = connections
        self._waiting: deque[_Read] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._open = 0
        self._gathering = False
        """Whether a connection is about to leave."""
        self._left_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._adapt: abc.Transformer = Transformer(None)
        telemetry.watch_pool(self)

    @property
    def has_room(self) -> bool:
        """Whether a read asked for now is likely to be answered soon."""
        return self._open > 0 and len(self._waiting) < WAITING_MAX

    def wired(self, sent: Sent) -> Wired:
        """A statement as `read` takes it; it may be used again and again."""
        return scoped.wired(sent, self._adapt)

    async def read(self, scope: Wired, sent: Sent) -> Rows | None:
        """The answer, behind `scope`; None when it must be asked for elsewhere.

        Raises psycopg's errors where the statement failed by its own fault.
        """
        observe = sent.statement.observe
        started = time.perf_counter()
        try:
            with observe.span():
                return await self._ask(scope, sent)
        finally:
            observe.finished(time.perf_counter() - started)

    def get_stats(self) -> dict[str, int]:
        """As a pool has them."""
        return {
            "pool_size": self._open,
            "pool_max": self._connections,
            "pool_available": len(self._idle),
            "requests_waiting": len(self._waiting),
        }

    async def run(self) -> None:
        """Carry reads, for ever; what waits at the end is asked for elsewhere."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(self._keep_carrying())
        finally:
            self._send_elsewhere()

    # --- what waits ---

    def _ask(self, scope: Wired, sent: Sent) -> asyncio.Future[Rows | None]:
        answer: asyncio.Future[Rows | None] = self._loop.create_future()
        self._waiting.append(_Read(scope, scoped.wired(sent, self._adapt), answer))
        if self._idle and not self._gathering:
            self._wake_one()
        return answer

    def _wake_one(self) -> None:
        """Have an idle connection carry what waits, unless another gathers.

        Not while another is away and soon back: fewer and larger batches cost less.
        """
        late = time.monotonic() - self._left_at > LATE_S
        if late or len(self._idle) == self._open or len(self._waiting) >= READS_MAX:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                self._gathering = True

    async def _next(self) -> list[_Read]:
        """The reads of a batch, at least one."""
        while True:
            await self._gather()
            batch: list[_Read] = []
            while self._waiting and len(batch) < READS_MAX:
                read = self._waiting.popleft()
                if not read.answer.done():
                    batch.append(read)
            if batch:
                self._left_at = time.monotonic()
                return batch
            idle: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(idle)
            try:
                await idle
            finally:
                self._gathering = False

    async def _gather(self) -> None:
        """Let the loop turn while that brings reads: other calls under way may want to as well.

        Each turn of a busy loop takes a call a step on; an idle one goes round in no time.
        """
        self._gathering = True
        try:
            seen, turns = len(self._waiting), 0
            until = time.monotonic() + GATHER_S
            while 0 < seen < READS_MAX and turns < TURNS and time.monotonic() < until:
                await asyncio.sleep(0)
                turns = turns + 1 if len(self._waiting) <= seen else 0
                seen = len(self._waiting)
        finally:
            self._gathering = False

    def _send_elsewhere(self) -> None:
        while self._waiting:
            self._waiting.popleft().settle(None)

    # --- connections ---

    async def _keep_carrying(self) -> None:
        pause_s = RECONNECT_MIN_S
        while True:
            try:
                async with await self._connect() as conn:
                    pause_s = RECONNECT_MIN_S
                    await self._carry(conn)
                continue
            except Exception as error:  # noqa: BLE001 (the pool answers meanwhile)
                log.warning("batches without a connection", extra=_described(error))
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(RECONNECT_MAX_S, pause_s * 2)

    async def _connect(self) -> Connection:
        """As those of the pool, but for reads alone."""
        options = cast("dict[str, Any]", self._pool.kwargs)
        session = f"{options.get('options', '')} -c default_transaction_read_only=on"
        own = {**options, "application_name": self.name, "options": session}
        return await Connection.connect(cast("str", self._pool.conninfo), **own)

    async def _carry(self, conn: Connection) -> None:
        """One batch after the other, until the connection is old."""
        self._open += 1
        until = time.monotonic() + LIFETIME_S * random.uniform(0.9, 1.0)  # noqa: S311
        try:
            while time.monotonic() < until:
                await self._carry_one(conn, await self._next())
        finally:
            self._open -= 1
            if not self._open:
                self._send_elsewhere()

    async def _carry_one(self, conn: Connection, batch: Sequence[_Read]) -> None:
        # Those of a school and a method have one scope, remembered: they share it.
        shared: dict[int, list[_Read]] = {}
        for read in batch:
            shared.setdefault(id(read.scope), []).append(read)
        groups = [*shared.values()]
        # Not cancelled: that would wait for the server once more.
        given_up = self._loop.call_later(BATCH_TIMEOUT_S, conn.give_up)
        try:
            found = await conn.batch(
                [(reads[0].scope, [read.statement for read in reads]) for reads in groups]
            )
            for read, answer in zip(chain.from_iterable(groups), found, strict=True):
                read.settle(answer)
        finally:
            given_up.cancel()
            for read in batch:
                read.settle(None)


def _described(error: BaseException) -> dict[str, Any]:
    return {"exception": telemetry.describe(error)}
