"""One function per statement of queries/hours.sql, of the same name; rows come back typed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from libs.scoped import Later
from services.booking.model.hours import RULES_SHOWN_MAX, DateException, Rule

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "hours.sql")
# API path -> SQL, of what is read to be told.
EXCEPTION_PATHS = {
    "id": "id",
    "instructor_id": '"instructorId"',
    "date": "date",
    "available": '"isAvailable"',
    "start_minute": '"startMinute"',
    "end_minute": '"endMinute"',
    "note": "note",
    "create_time": '"createdAt"',
}
ALL_OF_EXCEPTION = tuple(EXCEPTION_PATHS)


async def take_locks(conn: Connection, keys: Sequence[int]) -> None:
    await conn.send(SQL.take_locks, {"keys": list(keys)})


async def try_locks(conn: Connection, keys: Sequence[int]) -> Later:
    """Rows of the keys that someone else has."""
    return conn.later(SQL.try_locks, {"keys": list(keys)})


async def get_calendar_version(
    conn: Reader, org_id: uuid.UUID, instructor_id: uuid.UUID
) -> int | None:
    cursor = await conn.execute(
        SQL.get_calendar_version, {"org_id": org_id, "instructor_id": instructor_id}
    )
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def raise_calendar_version(
    conn: Connection, org_id: uuid.UUID, instructor_id: uuid.UUID
) -> int | None:
    """The new version; None when the school has no such instructor."""
    cursor = await conn.execute(
        SQL.raise_calendar_version, {"org_id": org_id, "instructor_id": instructor_id}
    )
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def list_rules(
    conn: Reader, org_id: uuid.UUID, instructor_id: uuid.UUID, since: date
) -> list[Rule]:
    cursor = await conn.execute(
        SQL.list_rules,
        {
            "org_id": org_id,
            "instructor_id": instructor_id,
            "since": since,
            "limit": RULES_SHOWN_MAX,
        },
    )
    return [
        Rule(
            id=id_,
            day_of_week=day,
            start_minute=start,
            end_minute=end,
            effective_from=effective_from,
            effective_to=effective_to,
        )
        for id_, day, start, end, effective_from, effective_to in await cursor.fetchall()
    ]


async def delete_rules(
    conn: Connection, org_id: uuid.UUID, instructor_id: uuid.UUID, first: date
) -> None:
    await conn.send(
        SQL.delete_rules, {"org_id": org_id, "instructor_id": instructor_id, "first": first}
    )


async def end_rules(
    conn: Connection, org_id: uuid.UUID, instructor_id: uuid.UUID, first: date
) -> None:
    await conn.send(
        SQL.end_rules, {"org_id": org_id, "instructor_id": instructor_id, "first": first}
    )


async def add_rules(
    conn: Connection, org_id: uuid.UUID, instructor_id: uuid.UUID, rules: Sequence[Rule]
) -> None:
    await conn.execute(
        SQL.add_rules,
        {
            "org_id": org_id,
            "instructor_id": instructor_id,
            "days": [rule.day_of_week for rule in rules],
            "starts": [rule.start_minute for rule in rules],
            "ends": [rule.end_minute for rule in rules],
            "froms": [rule.effective_from for rule in rules],
            "tos": [rule.effective_to for rule in rules],
        },
    )


async def create_exception(
    conn: Connection, org_id: uuid.UUID, exception: DateException
) -> DateException:
    cursor = await conn.execute(
        SQL.create_exception,
        {
            "org_id": org_id,
            "instructor_id": exception.instructor_id,
            "date": exception.date,
            "available": exception.available,
            "start_minute": exception.start_minute,
            "end_minute": exception.end_minute,
            "note": exception.note,
        },
    )
    ((id_, created_at),) = await cursor.fetchall()
    return replace(exception, id=id_, created_at=created_at)


async def get_exception(
    conn: Reader, org_id: uuid.UUID, exception_id: uuid.UUID
) -> DateException | None:
    cursor = await conn.execute(SQL.get_exception, {"org_id": org_id, "exception_id": exception_id})
    row = await cursor.fetchone()
    return None if row is None else _exception(row)


async def delete_exception(conn: Connection, org_id: uuid.UUID, exception_id: uuid.UUID) -> bool:
    """Whether it was there."""
    cursor = await conn.execute(
        SQL.delete_exception, {"org_id": org_id, "exception_id": exception_id}
    )
    return await cursor.fetchone() is not None


async def list_exceptions(
    conn: Reader,
    org_id: uuid.UUID,
    instructor_id: uuid.UUID,
    *,
    within: tuple[date, date],
    after: tuple[date, int],
    limit: int,
    paths: tuple[str, ...] = ALL_OF_EXCEPTION,
) -> list[masks.Row]:
    """Exceptions of the dates `within`, the last included, behind the row (date, place).

    Rows end with these two; the whole day comes before its first minute.
    """
    place = ("date", 'coalesce("startMinute", -1)')
    cursor = await conn.execute(
        SQL.select("list_exceptions", (*masks.columns(EXCEPTION_PATHS, paths), *place)),
        {
            "org_id": org_id,
            "instructor_id": instructor_id,
            "date_from": within[0],
            "date_to": within[1],
            "after_date": after[0],
            "after_place": after[1],
            "limit": limit,
        },
    )
    return await cursor.fetchall()


def _exception(row: tuple[Any, ...]) -> DateException:
    id_, instructor_id, on_date, available, start, end, note, created_at = row
    return DateException(
        id=id_,
        instructor_id=instructor_id,
        date=on_date,
        available=available,
        start_minute=start,
        end_minute=end,
        note=note,
        created_at=created_at,
    )
