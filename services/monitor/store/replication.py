"""Statements about replicas and slots."""

from __future__ import annotations

from pathlib import Path

from libs import queries
from libs.orgs import Reader
from services.monitor.model.replication import OwnWord, Replica, Slot

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "replication.sql")


async def wal_position(conn: Reader) -> tuple[str, str]:
    """How far the WAL is, and synchronous_standby_names."""
    row = await (await conn.execute(SQL.wal_position)).fetchone()
    position, synchronous = row or ("0/0", "")
    return position, synchronous


async def list_replicas(conn: Reader) -> list[Replica]:
    cursor = await conn.execute(SQL.list_replicas)
    return [
        Replica(
            name=name,
            state=state or "",
            sync_state=sync_state or "",
            lag_bytes=lag_bytes,
            lag_s=lag_s,
            client=client,
        )
        for name, state, sync_state, lag_bytes, lag_s, client in await cursor.fetchall()
    ]


async def list_slots(conn: Reader) -> list[Slot]:
    cursor = await conn.execute(SQL.list_slots)
    return [Slot(*row) for row in await cursor.fetchall()]


async def ask_replica(conn: Reader, position: str) -> OwnWord | None:
    """None when it is no replica."""
    row = await (await conn.execute(SQL.ask_replica, {"position": position})).fetchone()
    return None if row is None else OwnWord(*row)
