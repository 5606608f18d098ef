"""Connection pools: every option is explicit, every wait has a limit."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncCursor
from psycopg_pool import AsyncConnectionPool

from libs import scoped, telemetry
from libs.settings import Settings

Connection = scoped.Connection
Pool = AsyncConnectionPool[Connection]

STATEMENT_TIMEOUT_MS = 5_000
RECONNECT_S = 3.0
"""A lost connection is tried again so long, then by the next caller: pauses never grow over 2 s."""
FRESH_S = 1.0
"""A connection used so recently is not asked whether it works, if its socket is quiet."""
SESSION = {
    "statement_timeout": STATEMENT_TIMEOUT_MS,
    "lock_timeout": 2_000,
    "idle_in_transaction_session_timeout": 10_000,
    "transaction_timeout": 30_000,
    # Without it a backend whose client is gone works on to the end of its statement.
    "client_connection_check_interval": 1_000,
    # Generic plans over partitions lock all of them once (and each time the month changes).
    "plan_cache_mode": "force_custom_plan",
    "timezone": "UTC",
}


def create(
    name: str,
    dsn: str,
    settings: Settings,
    *,
    min_size: int | None = None,
    max_size: int | None = None,
    send_buffer_bytes: int | None = None,
    generic_plans: bool = False,
    session: Mapping[str, int | str] | None = None,
) -> Pool:
    """A pool of autocommit connections, not yet open. `name` is also its application_name.

    `send_buffer_bytes` is what a connection takes at once: whoever sends so much need not wait.
    `generic_plans`: the server plans a statement once for all values; not where partitions are.
    `session`: settings of its connections that differ from SESSION.
    """
    healing: asyncio.Task[None] | None = None

    async def check(conn: Connection) -> None:
        nonlocal healing
        if conn.is_quiet and time.monotonic() - conn.used_at < FRESH_S:
            return
        try:
            await AsyncConnectionPool.check_connection(conn)
        except psycopg.OperationalError:
            # It seldom dies alone, and each caller would look at two or three in its whole wait:
            # a pool of twenty dead ones would take that many calls to heal.
            if healing is None or healing.done():
                healing = asyncio.create_task(pool.check())
            raise

    async def configure(conn: Connection) -> None:
        if send_buffer_bytes is not None:
            with socket.socket(fileno=os.dup(conn.fileno())) as descriptor:
                descriptor.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)

    chosen = SESSION | ({"plan_cache_mode": "force_generic_plan"} if generic_plans else {})
    chosen |= session or {}
    pool: Pool = AsyncConnectionPool(
        dsn,
        connection_class=Connection,
        kwargs={
            "autocommit": True,
            "application_name": name,
            "connect_timeout": 3,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "prepare_threshold": 5,
            "cursor_factory": telemetry.cursor_factory() or AsyncCursor,
            "options": " ".join(f"-c {key}={value}" for key, value in chosen.items()),
        },
        name=name,
        min_size=settings.pool_min_size if min_size is None else min_size,
        max_size=settings.pool_max_size if max_size is None else max_size,
        timeout=settings.pool_timeout_s,
        max_waiting=settings.pool_max_waiting,
        max_lifetime=1_800,
        max_idle=300,
        reconnect_timeout=RECONNECT_S,
        num_workers=3,
        check=check,
        configure=configure,
        open=False,
    )
    telemetry.watch_pool(pool)
    return pool


@asynccontextmanager
async def connection(pool: Pool) -> AsyncIterator[Connection]:
    """A connection of the pool, given back at the end; a transaction left open is rolled back."""
    conn = await pool.getconn()
    try:
        # Python 3.11's wait_for can swallow a cancellation while the pool hands out a
        # connection; without this look the call would run on and write.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        yield conn
    finally:
        conn.used_at = time.monotonic()
        # The way back waits for the pool's lock: a call cancelled just there would lose it.
        await asyncio.shield(pool.putconn(conn))
