"""Statements about what is exported to Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from libs import queries
from libs.bootstrap import SERVICES
from libs.orgs import Reader

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "exporting.sql")


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """Since the statistics of this database began, and now."""

    commits: int
    rollbacks: int
    blocks_hit: int
    blocks_read: int
    deadlocks: int
    temporary_bytes: int
    wal_bytes: float
    connections_max: int
    oldest_transaction_s: float


@dataclass(frozen=True, slots=True)
class ReplicaLag:
    """How far a replica is behind."""

    replica: str
    seconds: float
    bytes: float


@dataclass(frozen=True, slots=True)
class TableFigures:
    """A table with its indexes and partitions."""

    schema: str
    table: str
    bytes: float
    dead_rows: float


@dataclass(frozen=True, slots=True)
class Runway:
    """How long a table's partitions last from now."""

    schema: str
    table: str
    seconds: float


async def server_figures(conn: Reader) -> ServerFigures:
    row = await (await conn.execute(SQL.server_figures)).fetchone()
    return ServerFigures(*(row or (0, 0, 0, 0, 0, 0, 0.0, 0, 0.0)))


async def session_counts(conn: Reader) -> dict[str, int]:
    cursor = await conn.execute(SQL.session_counts)
    return dict(await cursor.fetchall())


async def replica_lags(conn: Reader) -> list[ReplicaLag]:
    cursor = await conn.execute(SQL.replica_lags)
    return [ReplicaLag(*row) for row in await cursor.fetchall()]


async def table_figures(conn: Reader) -> list[TableFigures]:
    cursor = await conn.execute(SQL.table_figures, {"schemas": list(SERVICES)})
    return [TableFigures(*row) for row in await cursor.fetchall()]


async def database_size(conn: Reader) -> float:
    row = await (await conn.execute(SQL.database_size)).fetchone()
    return 0.0 if row is None else float(row[0])


async def open_alerts(conn: Reader) -> dict[str, int]:
    cursor = await conn.execute(SQL.open_alerts)
    return dict(await cursor.fetchall())


async def partition_runways(conn: Reader, now: datetime) -> list[Runway]:
    cursor = await conn.execute(SQL.partition_runways, {"schemas": list(SERVICES), "now": now})
    return [Runway(*row) for row in await cursor.fetchall()]
