"""Statements about indexes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from enum import Enum
from pathlib import Path

from libs import queries
from libs.bootstrap import SERVICES
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.model.indexes import (
    Broken,
    ForeignKey,
    Index,
    IndexDay,
    Ledger,
    Shape,
    TableReads,
)

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "indexes.sql")


class Sizes(Enum):
    """How much is asked of an index's size."""

    EXACT = "pg_relation_size(c.oid)"
    """Waits for whoever has locked its table."""
    ESTIMATED = "c.relpages * current_setting('block_size')::int8"
    """As of the last VACUUM or ANALYZE; waits for nobody."""
    NONE = "0"


async def index_usage(
    conn: Reader, sizes: Sizes, schemas: Sequence[str] = SERVICES, table: str = ""
) -> list[Index]:
    """Of these schemas; of one table alone if it is named."""
    query = SQL.select("index_usage", (sizes.value,))
    cursor = await conn.execute(query, {"schemas": list(schemas), "table": table})
    return [Index(*row) for row in await cursor.fetchall()]


async def statistics_since(conn: Reader) -> datetime:
    row = await (await conn.execute(SQL.statistics_since)).fetchone()
    if row is None or row[0] is None:
        raise ValueError("a server always knows since when it counts")
    since: datetime = row[0]
    return since


async def first_seen(conn: Reader) -> dict[int, datetime]:
    cursor = await conn.execute(SQL.first_seen)
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def capture_indexes(conn: Connection, day: date, at: datetime) -> None:
    query = SQL.select("capture_indexes", (Sizes.ESTIMATED.value,))
    await conn.execute(query, {"day": day, "at": at, "schemas": list(SERVICES)})


async def count_captured(conn: Connection, day: date) -> int:
    row = await (await conn.execute(SQL.count_captured, {"day": day})).fetchone()
    return 0 if row is None else int(row[0])


async def index_days(conn: Reader, ids: Collection[int]) -> dict[int, list[IndexDay]]:
    cursor = await conn.execute(SQL.index_days, {"ids": list(ids)})
    days: dict[int, list[IndexDay]] = {}
    for index_id, *row in await cursor.fetchall():
        days.setdefault(index_id, []).append(IndexDay(*row))
    return days


async def forget_index_snapshots(conn: Connection, before: date) -> None:
    await conn.send(SQL.forget_index_snapshots, {"before": before})


async def ledger(conn: Reader) -> Ledger:
    cursor = await conn.execute(SQL.ledger)
    return {(row[0], row[1]): row[2] for row in await cursor.fetchall()}


async def index_definitions(conn: Reader, ids: Collection[int]) -> dict[int, str]:
    cursor = await conn.execute(SQL.index_definitions, {"ids": list(ids)})
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def index_sizes(conn: Reader, ids: Collection[int]) -> dict[int, int]:
    cursor = await conn.execute(SQL.index_sizes, {"ids": list(ids)})
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def table_sizes(conn: Reader, ids: Collection[int]) -> dict[int, int]:
    cursor = await conn.execute(SQL.table_sizes, {"ids": list(ids)})
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def broken_indexes(conn: Reader) -> list[Broken]:
    cursor = await conn.execute(SQL.broken_indexes, {"schemas": list(SERVICES)})
    return [Broken(*row) for row in await cursor.fetchall()]


async def index_shapes(conn: Reader) -> list[Shape]:
    cursor = await conn.execute(SQL.index_shapes, {"schemas": list(SERVICES)})
    return [Shape(*row) for row in await cursor.fetchall()]


async def uncovered_foreign_keys(conn: Reader) -> list[ForeignKey]:
    cursor = await conn.execute(SQL.uncovered_foreign_keys, {"schemas": list(SERVICES)})
    return [ForeignKey(*row) for row in await cursor.fetchall()]


async def table_reads(conn: Reader) -> list[TableReads]:
    cursor = await conn.execute(SQL.table_reads, {"schemas": list(SERVICES)})
    return [TableReads(*row) for row in await cursor.fetchall()]
