"""Statements about statements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg import errors as pg

from libs import queries
from libs.errors import FailedPrecondition
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.model.queries import Filter, Point, Window
from services.monitor.model.texts import READ_MAX

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "queries.sql")
CAPTURE_LOCK = 0x63617074757265  # "capture"
FIELDS = {
    "query_id": "p.query_id",
    "name": "t.name",
    "role": "p.role",
    "text": "t.text",
    "calls": "p.calls",
    "total_ms": "p.total_ms",
    "mean_ms": "p.mean_ms",
    "stddev_ms": "sqrt(greatest(p.squares / p.calls - p.mean_ms * p.mean_ms, 0))",
    "rows": "p.rows",
    "hit_percent": "(100.0 * p.hit / nullif(p.hit + p.read, 0))::float8",
    "share_percent": "100 * p.total_ms / nullif((SELECT sum(f.total_ms) FROM figures AS f), 0)",
    "mean_before_ms": "b.mean_ms",
}
JOINS = {"mean_before_ms": "before"}
PAGED = ("query_id", "role", "text", "rank")
"""Beside what is asked for: where the next page goes on, and whether the text is known."""


@dataclass(frozen=True, slots=True)
class Text:
    """A statement's text as PostgreSQL has it: to be scrubbed before it goes anywhere."""

    query_id: int
    role: str
    raw: str


@contextmanager
def counted() -> Iterator[None]:
    """Raise FailedPrecondition QUERIES_NOT_COUNTED where PostgreSQL counts no statements."""
    try:
        yield
    except (pg.UndefinedTable, pg.UndefinedFunction, pg.ObjectNotInPrerequisiteState) as error:
        raise FailedPrecondition(
            "QUERIES_NOT_COUNTED",
            "PostgreSQL counts no statements: put pg_stat_statements into shared_preload_libraries,"
            " restart, and run `driveflow bootstrap`.",
        ) from error


# --- captures ----------------------------------------------------------------------------------


async def lock_captures(conn: Connection) -> bool:
    row = await (await conn.execute(SQL.lock_captures, {"lock": CAPTURE_LOCK})).fetchone()
    return row == (True,)


async def capture_queries(conn: Connection, at: datetime) -> tuple[int, int]:
    """Statements that were called since the last capture, and how many have no text yet."""
    row = await (await conn.execute(SQL.capture_queries, {"at": at})).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


async def texts_missing(conn: Connection, limit: int) -> list[Text]:
    parameters = {"length": READ_MAX, "limit": limit}
    cursor = await conn.execute(SQL.texts_missing, parameters)
    return [Text(*row) for row in await cursor.fetchall()]


async def keep_texts(conn: Connection, known: Sequence[tuple[Text, str, str]]) -> None:
    """Each with its scrubbed text and its name."""
    parameters = {
        "query_ids": [text.query_id for text, _, _ in known],
        "roles": [text.role for text, _, _ in known],
        "texts": [shown for _, shown, _ in known],
        "names": [name for _, _, name in known],
    }
    await conn.send(SQL.keep_texts, parameters)


async def merge_captures(conn: Connection, before: datetime) -> int:
    """Of one hour; 0 when no hour before has several any more."""
    row = await (await conn.execute(SQL.merge_captures, {"before": before})).fetchone()
    return 0 if row is None else int(row[0])


async def forget_snapshots(conn: Connection, before: datetime) -> int:
    return (await conn.execute(SQL.forget_snapshots, {"before": before})).rowcount


async def forget_captures(conn: Connection, before: datetime) -> None:
    await conn.send(SQL.forget_captures, {"before": before})


async def forget_queries(conn: Connection, before: datetime) -> None:
    await conn.send(SQL.forget_queries, {"before": before})


# --- figures -----------------------------------------------------------------------------------


async def find_window(conn: Reader, start_at: datetime, end_at: datetime) -> Window | None:
    parameters = {"start_at": start_at, "end_at": end_at}
    row = await (await conn.execute(SQL.find_window, parameters)).fetchone()
    return None if row is None else Window(row[0], end_at, row[1] or 0)


async def list_queries(
    conn: Reader, window: Window, asked: Filter, limit: int, paths: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """Rows by path, with what PAGED names, and how many statements there are in all."""
    fetched = tuple(dict.fromkeys((*paths, *PAGED)))
    columns = tuple((FIELDS | {"rank": "p.rank"})[path] for path in fetched)
    parameters = {
        "start_at": window.start_at,
        "end_at": window.end_at,
        "by": asked.order.value,
        "min_calls": asked.min_calls,
        "min_mean_ms": asked.min_mean_ms,
        "before_rank": asked.before[0],
        "before_id": asked.before[1],
        "before_role": asked.before[2],
        "limit": limit,
    }
    query = SQL.select("list_queries", columns, _joins(paths))
    rows = await (await conn.execute(query, parameters)).fetchall()
    total = rows[0][0] if rows else 0
    return [dict(zip(fetched, row[1:], strict=True)) for row in rows], total


async def get_query(
    conn: Reader, window: Window, query_id: int, role: str, paths: Sequence[str]
) -> dict[str, Any] | None:
    """By path; None when it was not called within the window."""
    parameters = {
        "start_at": window.start_at,
        "end_at": window.end_at,
        "query_id": query_id,
        "role": role,
    }
    query = SQL.select("get_query", tuple(FIELDS[path] for path in paths), _joins(paths))
    row = await (await conn.execute(query, parameters)).fetchone()
    return None if row is None else dict(zip(paths, row, strict=True))


async def find_query(conn: Reader, query_id: int, role: str) -> tuple[str, str | None, str] | None:
    """Role, text and name."""
    cursor = await conn.execute(SQL.find_query, {"query_id": query_id, "role": role})
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1], row[2])


async def list_points(conn: Reader, window: Window, query_id: int, role: str) -> list[Point]:
    parameters = {
        "start_at": window.start_at,
        "end_at": window.end_at,
        "query_id": query_id,
        "role": role,
    }
    cursor = await conn.execute(SQL.list_points, parameters)
    return [Point(*row) for row in await cursor.fetchall()]


async def list_texts(conn: Reader, query_ids: Sequence[int]) -> list[Text]:
    """Most called first."""
    parameters = {"query_ids": list(query_ids), "length": READ_MAX}
    cursor = await conn.execute(SQL.list_texts, parameters)
    return [Text(*row) for row in await cursor.fetchall()]


def _joins(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(JOINS[path] for path in paths if path in JOINS)
