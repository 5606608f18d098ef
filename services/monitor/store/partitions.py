"""Statements about partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libs import queries
from libs.orgs import Reader
from services.monitor.model.partitions import FIRST, LAST, Partition, Partitioned

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "partitions.sql")
SIZES = ("pg_total_relation_size(c.oid)", "pg_stat_get_live_tuples(c.oid)")


async def list_partitions(conn: Reader, *, sizes: bool = True) -> list[Partitioned]:
    """Each table that is partitioned by time; without `sizes` no file is looked at."""
    columns = SIZES if sizes else ("0", "0")
    cursor = await conn.execute(SQL.select("list_partitions", columns))
    tables: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for row in await cursor.fetchall():
        tables.setdefault((row[0], row[1]), []).append(row)
    return [_partitioned(rows) for rows in tables.values()]


def _partitioned(rows: list[tuple[Any, ...]]) -> Partitioned:
    schema, table, analyzed_at = rows[0][:3]
    return Partitioned(
        schema=schema,
        table=table,
        analyzed_at=analyzed_at,
        default=next((row[3] for row in rows if row[4]), ""),
        partitions=tuple(
            Partition(
                name=name,
                start=start or FIRST,
                end=end or LAST,
                detaching=detaching,
                total_bytes=total_bytes,
                rows=live,
            )
            for _, _, _, name, default, start, end, detaching, total_bytes, live in rows
            if name is not None and not default
        ),
    )
