"""Statements about what runs out: disk, transaction ids, sequences."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from libs import queries
from libs.orgs import Reader
from libs.pooling import Connection

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "capacity.sql")


@dataclass(frozen=True, slots=True)
class CapacityNow:
    """Used at this moment."""

    database_bytes: int
    xid_age: int
    """Of the oldest row of the server that is not frozen, in transactions."""


@dataclass(frozen=True, slots=True)
class OldDatabase:
    """A database by its oldest row that is not frozen: in transactions, and in multixacts."""

    name: str
    xid_age: int
    multixact_age: int
    freeze_max_age: int


@dataclass(frozen=True, slots=True)
class CapacitySnapshot:
    """Used up to a time; WAL and transaction ids since the server was made."""

    at: datetime
    database_bytes: int
    wal_bytes: int
    transaction_ids: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """How far it is, and how far it can go."""

    schema: str
    sequence: str
    name: str
    """booking."Outbox".id: its column, or its own name where it has none."""
    used: int
    most: float


async def capacity_now(conn: Reader) -> CapacityNow:
    row = await (await conn.execute(SQL.capacity_now)).fetchone()
    return CapacityNow(*(row or (0, 0)))


async def oldest_databases(conn: Reader) -> list[OldDatabase]:
    cursor = await conn.execute(SQL.oldest_databases)
    return [OldDatabase(*row) for row in await cursor.fetchall()]


async def last_captured_at(conn: Reader, now: datetime) -> datetime | None:
    row = await (await conn.execute(SQL.last_captured_at, {"now": now})).fetchone()
    return None if row is None else row[0]


async def capture_capacity(conn: Connection, at: datetime) -> None:
    await conn.send(SQL.capture_capacity, {"at": at})


async def capture_sequences(conn: Connection, at: datetime) -> None:
    await conn.send(SQL.capture_sequences, {"at": at})


async def capacity_snapshots(conn: Reader, since: datetime) -> list[CapacitySnapshot]:
    cursor = await conn.execute(SQL.capacity_snapshots, {"since": since})
    return [CapacitySnapshot(*row) for row in await cursor.fetchall()]


async def sequence_snapshots(
    conn: Reader, since: datetime
) -> dict[tuple[str, str], list[tuple[datetime, float]]]:
    """(schema, sequence) -> what was used when."""
    cursor = await conn.execute(SQL.sequence_snapshots, {"since": since})
    found: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
    for schema, sequence, at, used in await cursor.fetchall():
        found.setdefault((schema, sequence), []).append((at, float(used)))
    return found


async def list_sequences(conn: Reader) -> list[Sequence]:
    cursor = await conn.execute(SQL.list_sequences)
    return [Sequence(*row) for row in await cursor.fetchall()]


async def thin_snapshots(conn: Connection, before: datetime, daily_before: datetime) -> int:
    parameters = {"before": before, "daily_before": daily_before}
    return (await conn.execute(SQL.thin_snapshots, parameters)).rowcount
