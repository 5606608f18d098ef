"""Statements about sessions."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg import errors as pg

from libs import queries
from libs.errors import FailedPrecondition, not_found
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.model.sessions import Lock, Places, Roles, Session, States, Wait
from services.monitor.model.texts import name_of, shown

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "sessions.sql")
SESSION_COLUMNS = 12


async def states(conn: Reader) -> list[States]:
    cursor = await conn.execute(SQL.states)
    return [States(*row) for row in await cursor.fetchall()]


async def roles(conn: Reader) -> list[Roles]:
    cursor = await conn.execute(SQL.roles)
    return [Roles(*row) for row in await cursor.fetchall()]


async def places(conn: Reader) -> Places:
    row = await (await conn.execute(SQL.places)).fetchone()
    return Places(*(row or (0, 0)))


async def lock_waits(conn: Reader, limit: int, *, min_s: float = 0.0) -> list[Wait]:
    cursor = await conn.execute(SQL.lock_waits, {"limit": limit, "min_s": min_s})
    return [Wait(*row) for row in await cursor.fetchall()]


async def count_lock_waits(conn: Reader) -> int:
    row = await (await conn.execute(SQL.count_lock_waits)).fetchone()
    return 0 if row is None else int(row[0])


async def locks_of(conn: Reader, pids: Collection[int]) -> list[Lock]:
    cursor = await conn.execute(SQL.locks_of, {"pids": list(pids)})
    return [Lock(*row) for row in await cursor.fetchall()]


async def sessions_of(conn: Reader, pids: Collection[int]) -> dict[int, Session]:
    cursor = await conn.execute(SQL.sessions_of, {"pids": list(pids)})
    found = [_session(row) for row in await cursor.fetchall()]
    return {session.pid: session for session in found}


async def long_transactions(
    conn: Reader, min_s: float, after: tuple[datetime, int], limit: int, *, idle_only: bool = False
) -> list[tuple[Session, datetime]]:
    """Sessions, each with the time when its transaction began."""
    parameters = {
        "min_s": min_s,
        "idle_only": idle_only,
        "after": after[0],
        "after_pid": after[1],
        "limit": limit,
    }
    cursor = await conn.execute(SQL.long_transactions, parameters)
    return [(_session(row), row[SESSION_COLUMNS]) for row in await cursor.fetchall()]


async def longest_idle(conn: Reader, limit: int) -> list[Session]:
    cursor = await conn.execute(SQL.longest_idle, {"limit": limit})
    return [_session(row) for row in await cursor.fetchall()]


async def horizon(conn: Reader) -> tuple[str, int] | None:
    """Who holds it, in words, and how many transactions it lies back."""
    row = await (await conn.execute(SQL.horizon)).fetchone()
    return None if row is None else (row[0], row[1])


async def statement_texts(conn: Reader, ids: Collection[int]) -> dict[int, str]:
    """As they may be shown; none where pg_stat_statements does not answer: sessions are wanted all
    the more when something is wrong with the server."""
    if not ids:
        return {}
    try:
        cursor = await conn.execute(SQL.statement_texts, {"ids": list(ids)})
    except (pg.ObjectNotInPrerequisiteState, pg.UndefinedTable, pg.InsufficientPrivilege):
        return {}
    return {row[0]: shown(row[1]) for row in await cursor.fetchall()}


async def cancel(conn: Connection, pid: int, backend_start: datetime) -> tuple[Session, datetime]:
    """As `terminate`."""
    return await _signal(conn, SQL.cancel, pid, backend_start)


async def terminate(
    conn: Connection, pid: int, backend_start: datetime
) -> tuple[Session, datetime]:
    """The session as it was, and when it was told.

    Raises NotFound SESSION_NOT_FOUND, FailedPrecondition SESSION_NOT_SIGNALLED.
    """
    return await _signal(conn, SQL.terminate, pid, backend_start)


async def _signal(
    conn: Connection, query: bytes, pid: int, backend_start: datetime
) -> tuple[Session, datetime]:
    try:
        cursor = await conn.execute(query, {"pid": pid, "backend_start": backend_start})
        row = await cursor.fetchone()
    except pg.InsufficientPrivilege:
        raise FailedPrecondition(
            "SESSION_NOT_SIGNALLED", "PostgreSQL lets only a superuser do that to this session."
        ) from None
    if row is None or not row[SESSION_COLUMNS]:
        raise not_found("session", pid)
    return _session(row), row[SESSION_COLUMNS + 1]


def _session(row: tuple[Any, ...]) -> Session:
    return Session(
        pid=row[0],
        backend_start=row[1],
        role=row[2],
        application_name=row[3],
        state=row[4],
        query=name_of(row[5]),
        query_id=row[6],
        state_s=row[7],
        transaction_s=row[8],
        query_s=row[9],
        wait=row[10],
        client=row[11],
    )
