"""Statements about tables: their sizes, their rows, and when they were seen to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import queries
from libs.orgs import Reader
from libs.pooling import Connection

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "tables.sql")
# API path -> expression over a table and its partitions.
FIELDS = {
    "schema": "n.nspname::text",
    "table": "r.relname::text",
    "total_bytes": "sum(s.table_bytes + s.index_bytes)::int8",
    "table_bytes": "sum(s.table_bytes)::int8",
    "index_bytes": "sum(s.index_bytes)::int8",
    "growth_bytes_per_day": "max(g.slope)::float8",
    "live_rows": "sum(pg_stat_get_live_tuples(c.oid))::int8",
    "dead_rows": "sum(pg_stat_get_dead_tuples(c.oid))::int8",
    "dead_percent": "coalesce(100 * sum(pg_stat_get_dead_tuples(c.oid))"
    " / nullif(sum(pg_stat_get_dead_tuples(c.oid) + pg_stat_get_live_tuples(c.oid)), 0), 0)"
    "::float8",
    "changed_since_analyze": "sum(pg_stat_get_mod_since_analyze(c.oid))::int8",
    "last_vacuum_time": "min(greatest(pg_stat_get_last_vacuum_time(c.oid),"
    " pg_stat_get_last_autovacuum_time(c.oid)))",
    "last_analyze_time": "max(greatest(pg_stat_get_last_analyze_time(c.oid),"
    " pg_stat_get_last_autoanalyze_time(c.oid))) FILTER (WHERE c.oid = r.oid)",
    "partitions": "count(*) FILTER (WHERE c.relispartition AND c.relkind <> 'p')::int4",
    "frozen_xid_age": "coalesce(max(greatest(age(c.relfrozenxid), age(t.relfrozenxid)))"
    " FILTER (WHERE c.relkind <> 'p'), 0)::int8",
    "sequential_scans": "sum(pg_stat_get_numscans(c.oid))::int8",
    "index_scans": "coalesce(sum((SELECT sum(pg_stat_get_numscans(x.indexrelid))"
    " FROM pg_index AS x WHERE x.indrelid = c.oid)), 0)::int8",
}
KEY = ("total_bytes", "schema", "table")


@dataclass(frozen=True, slots=True)
class BloatedTable:
    """A table or partition with many dead rows."""

    schema: str
    table: str
    dead_rows: int
    live_rows: int
    vacuumed_s: float | None
    """So long ago; None: never."""


@dataclass(frozen=True, slots=True)
class OverdueVacuum:
    """A table or partition that autovacuum should have vacuumed."""

    schema: str
    table: str
    dead_rows: int
    due_at_rows: float
    vacuumed_s: float | None
    """So long ago; None: never."""
    autovacuum: bool


@dataclass(frozen=True, slots=True)
class StaleStatistics:
    """A table whose statistics are no longer true, or a parent that has old ones."""

    schema: str
    table: str
    changed_rows: int
    analyzed_s: float | None
    """So long ago; None: never."""
    autovacuum: bool
    is_parent: bool


@dataclass(frozen=True, slots=True)
class OldTable:
    """A table by its oldest row that is not frozen: in transactions, and in multixacts."""

    schema: str
    table: str
    xid_age: int
    multixact_age: int


async def list_tables(
    conn: Reader,
    schema: str,
    since: datetime,
    after: tuple[int, str, str],
    limit: int,
    paths: Sequence[str],
) -> list[dict[str, Any]]:
    """Rows by path, those of KEY always; growth by the snapshots from `since` on."""
    asked = tuple(dict.fromkeys((*paths, *KEY)))
    joins = ("growth",) if "growth_bytes_per_day" in asked else ()
    query = SQL.select("list_tables", tuple(FIELDS[path] for path in asked), joins)
    parameters = {
        "schema": schema,
        "after_bytes": after[0],
        "after_schema": after[1],
        "after_table": after[2],
        "limit": limit,
    }
    if joins:
        parameters["since"] = since
    cursor = await conn.execute(query, parameters)
    return [dict(zip(asked, row, strict=True)) for row in await cursor.fetchall()]


async def capture_tables(conn: Connection, at: datetime) -> int:
    return (await conn.execute(SQL.capture_tables, {"at": at})).rowcount


async def bloated_tables(
    conn: Reader, dead_rows: int, share: float, limit: int
) -> list[BloatedTable]:
    parameters = {"dead_rows": dead_rows, "share": share, "limit": limit}
    cursor = await conn.execute(SQL.bloated_tables, parameters)
    return [BloatedTable(*row) for row in await cursor.fetchall()]


async def overdue_vacuums(conn: Reader, after_s: float, limit: int) -> list[OverdueVacuum]:
    cursor = await conn.execute(SQL.overdue_vacuums, {"after_s": after_s, "limit": limit})
    return [OverdueVacuum(*row) for row in await cursor.fetchall()]


async def stale_statistics(
    conn: Reader, after_s: float, parents_after_s: float, limit: int
) -> list[StaleStatistics]:
    parameters = {"after_s": after_s, "parents_after_s": parents_after_s, "limit": limit}
    cursor = await conn.execute(SQL.stale_statistics, parameters)
    return [StaleStatistics(*row) for row in await cursor.fetchall()]


async def oldest_tables(conn: Reader, limit: int) -> list[OldTable]:
    cursor = await conn.execute(SQL.oldest_tables, {"limit": limit})
    return [OldTable(*row) for row in await cursor.fetchall()]
