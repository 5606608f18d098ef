"""Org scoping: every transaction on a school's rows is opened here, for one school.

The setting `driveflow.org_id` lives as long as the transaction; row-level security compares it
with each row. Nothing set: no rows.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from libs import calls, consistency, scoped
from libs.pooling import STATEMENT_TIMEOUT_MS, Connection, Pool, connection
from libs.scoped import Answer, Params, Sent

SCOPE = (
    b"SELECT /* libs.scope */ set_config('driveflow.org_id', %s, true),"
    b" set_config('statement_timeout', %s, true), set_config('application_name', %s, true)"
)
_RESCOPE = b"SELECT /* libs.rescope */ set_config('driveflow.org_id', %s, true)"
_POSITION = scoped.statement(consistency.POSITION)


class Reader(Protocol):
    """What a store function needs that reads by one statement: a connection has it as well."""

    async def execute(self, query: bytes, params: Params = None) -> Answer:
        """Run a statement; its rows are there when it returns."""


class Orgs:
    """Opens transactions scoped to a school."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def reader(self, org_id: uuid.UUID) -> Reader:
        """For a single SELECT: each is a transaction of its own and one round trip.

        Nothing may be decided or written by it.
        """
        return _Reader(self.pool, org_id)

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

    @asynccontextmanager
    async def write(self, org_id: uuid.UUID) -> AsyncIterator[Connection]:
        """A transaction on the primary, committed at the end of the block.

        BEGIN leaves with the first statement; what `conn.send` took leaves with the next one or
        with COMMIT. COMMIT brings the call's consistency token along.
        """
        async with connection(self.pool) as conn:
            conn.begin_writing(_scope(self.pool.name, org_id))
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


async def rescope(conn: Connection, org_id: uuid.UUID) -> None:
    """Move the transaction under way on to another school; for work that walks schools."""
    await conn.execute(_RESCOPE, (str(org_id),))


def _scope(service: str, org_id: uuid.UUID) -> Sent:
    org = str(org_id)
    call = calls.current()
    if call is None:
        return scoped.statement(SCOPE, (org, str(STATEMENT_TIMEOUT_MS), service))
    timeout_ms = call.remaining_ms(STATEMENT_TIMEOUT_MS)
    rpc = call.method.rpartition("/")[2]
    return scoped.statement(SCOPE, (org, str(timeout_ms), f"{service}.{rpc} {org[-8:]}"))
