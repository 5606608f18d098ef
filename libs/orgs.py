"""Org scoping: every transaction on a school's rows is opened here, for one school.

The setting `driveflow.org_id` lives as long as the transaction; row-level security compares it
with each row. Nothing set: no rows.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg

from libs import calls
from libs.pooling import STATEMENT_TIMEOUT_MS, Connection, Pool, connection

_SCOPE = (
    b"SELECT /* libs.scope */ set_config('driveflow.org_id', %s, true),"
    b" set_config('statement_timeout', %s, true), set_config('application_name', %s, true)"
)
_RESCOPE = b"SELECT /* libs.rescope */ set_config('driveflow.org_id', %s, true)"
_CONSISTENCY = (
    b"SELECT /* libs.consistency */ substr(pg_walfile_name(lsn), 1, 8) || '/' || lsn"
    b" FROM pg_current_wal_insert_lsn() AS lsn"
)


class Orgs:
    """Opens transactions scoped to a school."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @asynccontextmanager
    async def read(self, org_id: uuid.UUID) -> AsyncIterator[Connection]:
        """For one or a few independent SELECTs: one pipeline, its implicit transaction.

        A third of the cost of BEGIN … COMMIT. Nothing may be decided or written in it.
        """
        async with connection(self.pool) as conn, conn.pipeline():
            await conn.execute(_SCOPE, _scope(self.pool.name, org_id))
            yield conn

    @asynccontextmanager
    async def write(self, org_id: uuid.UUID) -> AsyncIterator[Connection]:
        """A transaction on the primary, committed at the end of the block."""
        async with connection(self.pool) as conn:
            async with conn.transaction():
                await conn.execute(_SCOPE, _scope(self.pool.name, org_id))
                yield conn
            await _note_consistency(conn)


async def rescope(conn: Connection, org_id: uuid.UUID) -> None:
    """Move the transaction under way on to another school; for work that walks schools."""
    await conn.execute(_RESCOPE, (str(org_id),))


def _scope(service: str, org_id: uuid.UUID) -> tuple[str, str, str]:
    call = calls.current()
    if call is None:
        return str(org_id), str(STATEMENT_TIMEOUT_MS), service
    timeout_ms = call.remaining_ms(STATEMENT_TIMEOUT_MS)
    rpc = call.method.rpartition("/")[2]
    return str(org_id), str(timeout_ms), f"{service}.{rpc} {str(org_id)[-8:]}"


async def _note_consistency(conn: Connection) -> None:
    call = calls.current()
    if call is None:
        return
    # The write is committed: whatever happens here must not make it look failed.
    with suppress(psycopg.Error):
        row = await (await conn.execute(_CONSISTENCY)).fetchone()
        call.consistency = None if row is None else str(row[0])
