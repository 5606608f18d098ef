"""Org scoping: every transaction on a school's rows is opened here, for one school.

The setting `driveflow.org_id` lives as long as the transaction; row-level security compares it
with each row. Nothing set: no rows.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Protocol

from libs import batching, calls, consistency, scoped
from libs.batching import Batches
from libs.pooling import STATEMENT_TIMEOUT_MS, Connection, Pool, connection
from libs.scoped import Answer, Params, Sent, Wired

SCOPE = (
    b"SELECT /* libs.scope */ set_config('driveflow.org_id', %s, true),"
    b" set_config('statement_timeout', %s, true), set_config('application_name', %s, true)"
)
_RESCOPE = b"SELECT /* libs.rescope */ set_config('driveflow.org_id', %s, true)"
SCOPES_MAX = 10_000
_POSITION = scoped.statement(consistency.POSITION)


class Reader(Protocol):
    """What a store function needs that reads by one statement: a connection has it as well."""

    async def execute(self, query: bytes, params: Params = None) -> Answer:
        """Run a statement; its rows are there when it returns."""


class Orgs:
    """Opens transactions scoped to a school."""

    def __init__(self, pool: Pool, batches: Batches | None = None) -> None:
        """`batches`: for the reads of `quick_reader`, which otherwise are those of `reader`."""
        self.pool = pool
        self._batches = batches

    def reader(self, org_id: uuid.UUID) -> Reader:
        """For a single SELECT: each is a transaction of its own and one round trip.

        Nothing may be decided or written by it.
        """
        return _Reader(self.pool, org_id)

    def quick_reader(self, org_id: uuid.UUID) -> Reader:
        """As `reader`, for a SELECT that takes a few milliseconds whatever its arguments.

        It shares a round trip with others that wait at the same time, whatever their school.
        """
        if self._batches is None:
            return self.reader(org_id)
        return _QuickReader(self.pool, org_id, self._batches)

    @asynccontextmanager
    async def read(self, org_id: uuid.UUID) -> AsyncIterator[Connection]:
        """For a few independent SELECTs of one moment: an implicit transaction.

        Half the cost of BEGIN … COMMIT. Nothing may be decided or written in it.
        """
        async with connection(self.pool) as conn:
            conn.begin_reading(_scope(self.pool.name, org_id))
            try:
                yield conn
            finally:
                await conn.end_reading()

    def write(self, org_id: uuid.UUID) -> AbstractAsyncContextManager[Connection]:
        """A transaction on the primary, committed at the end of the block.

        BEGIN leaves with the first statement; what `conn.send` took leaves with the next one or
        with COMMIT. COMMIT brings the call's consistency token along.
        """
        return self._writing(_scope(self.pool.name, org_id))

    def walk(self, work: str) -> AbstractAsyncContextManager[Connection]:
        """A transaction as `write` opens them, of no school yet: `rescope` moves it to each.

        `work` is what it is for, in the database's list of sessions.
        """
        scope = ("", str(STATEMENT_TIMEOUT_MS), f"{self.pool.name} {work}")
        return self._writing(scoped.statement(SCOPE, scope))

    @asynccontextmanager
    async def _writing(self, scope: Sent) -> AsyncIterator[Connection]:
        async with connection(self.pool) as conn:
            conn.begin_writing(scope)
            try:
                yield conn
                answer = await conn.commit_writing(_POSITION)
            except BaseException:
                await conn.abandon_writing()
                raise
            row = await answer.fetchone()
            call = calls.current()
            if call is not None and row is not None:
                call.consistency = str(row[0])


class _Reader:
    """A reader of one school."""

    __slots__ = ("_org_id", "_pool")

    def __init__(self, pool: Pool, org_id: uuid.UUID) -> None:
        self._pool = pool
        self._org_id = org_id

    async def execute(self, query: bytes, params: Params = None) -> Answer:
        async with connection(self._pool) as conn:
            return await conn.once(_scope(self._pool.name, self._org_id), query, params)


class _QuickReader(_Reader):
    """A reader whose statements go by batch, and by the pool where that can't answer."""

    __slots__ = ("_batches",)

    def __init__(self, pool: Pool, org_id: uuid.UUID, batches: Batches) -> None:
        self._pool = pool
        self._org_id = org_id
        self._batches = batches

    async def execute(self, query: bytes, params: Params = None) -> Answer:
        batches = self._batches
        if batches.has_room:
            scope = _quick_scope(batches, self._pool.name, self._org_id)
            found = await batches.read(scope, scoped.statement(query, params))
            if found is not None:
                return found
        return await super().execute(query, params)


async def rescope(conn: Connection, org_id: uuid.UUID) -> None:
    """Move the transaction under way on to another school; for work that walks schools."""
    await conn.send(_RESCOPE, (str(org_id),))


def _scope(service: str, org_id: uuid.UUID) -> Sent:
    call = calls.current()
    if call is None:
        return _scope_of(service, org_id, None, STATEMENT_TIMEOUT_MS)
    return _scope_of(service, org_id, call.method, call.remaining_ms(STATEMENT_TIMEOUT_MS))


def _scope_of(service: str, org_id: uuid.UUID, method: str | None, timeout_ms: int) -> Sent:
    org = str(org_id)
    name = service if method is None else f"{service}.{method.rpartition('/')[2]} {org[-8:]}"
    return scoped.statement(SCOPE, (org, str(timeout_ms), name))


def _quick_scope(batches: Batches, service: str, org_id: uuid.UUID) -> Wired:
    call = calls.current()
    if call is None:
        return _quick_scope_of(batches, service, org_id, None, batching.STATEMENT_TIMEOUT_MS)
    timeout_ms = call.remaining_ms(batching.STATEMENT_TIMEOUT_MS)
    return _quick_scope_of(batches, service, org_id, call.method, timeout_ms)


@lru_cache(SCOPES_MAX)
def _quick_scope_of(
    batches: Batches, service: str, org_id: uuid.UUID, method: str | None, timeout_ms: int
) -> Wired:
    """Remembered, because most calls have more time left than a quick statement may take."""
    return batches.wired(_scope_of(service, org_id, method, timeout_ms))
