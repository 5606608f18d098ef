"""One function per statement of events.sql, of the same name; rows come back typed.

Nothing here opens a transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.events.model import Place, Row
from libs.pooling import Connection

SQL = queries.load("events", Path(__file__).with_name("events.sql"))
# API path -> SQL, of what is read to be told. A cursor is made of the place, which is always there.
EVENT_PATHS = {
    "cursor": "NULL",
    "org_id": '"orgId"',
    "topic": "topic",
    "type": "type",
    "aggregate_type": '"aggregateType"',
    "aggregate_id": '"aggregateId"',
    "aggregate_version": '"aggregateVersion"',
    "payload": "payload::text",
    "create_time": '"createdAt"',
    "process_time": '"processedAt"',
}
# The type is part of the envelope.
PARKED_PATHS = {
    "producer": "producer",
    "cursor": "NULL",
    "aggregate_type": '"aggregateType"',
    "aggregate_id": '"aggregateId"',
    "aggregate_version": '"aggregateVersion"',
    "type": "NULL",
    "attempts": "attempts",
    "next_attempt_time": '"nextAttemptAt"',
    "last_error": '"lastError"',
    "park_time": '"parkedAt"',
}
_PLACE = ('"xactId"::text AS number', "id")
_PARKED_PLACE = ("producer", '"xactId"::text AS number', '"eventId"')


@dataclass(frozen=True, slots=True)
class Ready:
    """Whose event has become ready."""

    place: Place
    org_id: uuid.UUID
    topic: str


@dataclass(frozen=True, slots=True)
class Registered:
    """A consumer that events wait for."""

    consumer: str
    topics: list[str]
    acknowledged: Place | None

    def takes(self, topic: str) -> bool:
        """Whether events of the topic wait for it."""
        return not self.topics or topic in self.topics


@dataclass(frozen=True, slots=True)
class HorizonHolder:
    """Whose transaction is the oldest that writes."""

    pid: int
    """0 for a prepared transaction."""
    user: str
    application_name: str


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that waits for its effect."""

    producer: str
    place: Place
    aggregate_type: str
    aggregate_id: uuid.UUID
    aggregate_version: int
    envelope: bytes
    attempts: int
    next_attempt_at: datetime
    last_error: str
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class Due:
    """A parked event whose time has come."""

    place: Place
    envelope: bytes
    attempts: int


# --- the producer's side -------------------------------------------------------------------------


async def read_head(conn: Connection) -> Place:
    row = await (await conn.execute(SQL.read_head)).fetchone()
    return _place(row) if row else Place(0, 0)


async def look_ahead(conn: Connection, behind: Place, limit: int) -> list[Ready]:
    cursor = await conn.execute(SQL.look_ahead, {**_behind(behind), "limit": limit})
    return [Ready(_place(row), row[2], row[3]) for row in await cursor.fetchall()]


async def read_events(
    conn: Connection, behind: Place, through: Place, topics: Sequence[str], limit: int
) -> list[Row]:
    parameters = _between(behind, through, topics, limit)
    return _rows(await (await conn.execute(SQL.read_events, parameters)).fetchall())


async def read_events_of_org(
    conn: Connection,
    org_id: uuid.UUID,
    behind: Place,
    through: Place,
    topics: Sequence[str],
    limit: int,
) -> list[Row]:
    parameters = _between(behind, through, topics, limit) | {"org_id": org_id}
    return _rows(await (await conn.execute(SQL.read_events_of_org, parameters)).fetchall())


async def check_place(conn: Connection, place: Place, topics: Sequence[str]) -> tuple[bool, bool]:
    """Whether the place lies in the future, and whether events behind it are gone."""
    parameters = {**_behind(place), "topics": list(topics)}
    ahead, gone = await _one(conn, SQL.check_place, parameters)
    return bool(ahead), bool(gone)


async def list_events(
    conn: Connection,
    before: Place,
    topic: str | None,
    processed: bool | None,
    limit: int,
    paths: tuple[str, ...],
) -> list[masks.Row]:
    """Rows that end with the place, as `place` reads it."""
    query = SQL.select("list_events", (*masks.columns(EVENT_PATHS, paths), *_PLACE))
    parameters = {**_behind(before), "topic": topic, "processed": processed, "limit": limit}
    return await (await conn.execute(query, parameters)).fetchall()


async def list_events_of_org(
    conn: Connection,
    org_id: uuid.UUID,
    before: Place,
    topic: str | None,
    processed: bool | None,
    limit: int,
    paths: tuple[str, ...],
) -> list[masks.Row]:
    """Rows that end with the place, as `place` reads it."""
    query = SQL.select("list_events_of_org", (*masks.columns(EVENT_PATHS, paths), *_PLACE))
    parameters: dict[str, Any] = {**_behind(before), "topic": topic, "processed": processed}
    parameters |= {"limit": limit, "org_id": org_id}
    return await (await conn.execute(query, parameters)).fetchall()


async def register_consumer(conn: Connection, consumer: str) -> None:
    await conn.execute(SQL.register_consumer, {"consumer": consumer})


async def unregister_consumers(conn: Connection, but: Collection[str]) -> None:
    await conn.execute(SQL.unregister_consumers, {"consumers": list(but)})


async def note_topics(conn: Connection, consumer: str, topics: Sequence[str]) -> None:
    await conn.execute(SQL.note_topics, {"consumer": consumer, "topics": list(topics)})


async def note_acknowledged(conn: Connection, consumer: str, place: Place) -> None:
    await conn.execute(SQL.note_acknowledged, {**_behind(place), "consumer": consumer})


async def list_consumers(conn: Connection) -> list[Registered]:
    rows = await (await conn.execute(SQL.list_consumers)).fetchall()
    return [
        Registered(consumer, topics, None if xact is None else Place(int(xact), number))
        for consumer, topics, xact, number in rows
    ]


async def next_topic(conn: Connection, behind: str) -> str | None:
    row = await (await conn.execute(SQL.next_topic, {"topic": behind})).fetchone()
    return None if row is None else str(row[0])


async def mark_processed(
    conn: Connection, topic: str, behind: Place, through: Place, now: datetime, limit: int
) -> Place | None:
    """Returns the last one's place; None when there was none to mark."""
    parameters = {
        **_behind(through),
        "from_xact": str(behind.xact),
        "from_id": behind.id,
        "topic": topic,
        "now": now,
        "limit": limit,
    }
    row = await (await conn.execute(SQL.mark_processed, parameters)).fetchone()
    return _place(row) if row else None


async def delete_processed(conn: Connection, topic: str, before: datetime, limit: int) -> int:
    """Returns how many."""
    parameters = {"topic": topic, "before": before, "limit": limit}
    (count,) = await _one(conn, SQL.delete_processed, parameters)
    return int(count)


async def count_pending(
    conn: Connection, behind: Place, topics: Sequence[str], limit: int
) -> tuple[int, datetime | None]:
    parameters = {**_behind(behind), "topics": list(topics), "limit": limit}
    count, oldest = await _one(conn, SQL.count_pending, parameters)
    return int(count), oldest


async def count_pending_of_topic(
    conn: Connection, topic: str, behind: Place, limit: int
) -> tuple[int, datetime | None]:
    parameters = {**_behind(behind), "topic": topic, "limit": limit}
    count, oldest = await _one(conn, SQL.count_pending_of_topic, parameters)
    return int(count), oldest


async def count_processed(conn: Connection, topic: str, limit: int) -> int:
    (count,) = await _one(conn, SQL.count_processed, {"topic": topic, "limit": limit})
    return int(count)


async def count_held_back(conn: Connection, limit: int) -> tuple[int, datetime | None]:
    count, oldest = await _one(conn, SQL.count_held_back, {"limit": limit})
    return int(count), oldest


async def find_horizon_holder(conn: Connection) -> HorizonHolder | None:
    row = await (await conn.execute(SQL.find_horizon_holder)).fetchone()
    return HorizonHolder(*row) if row else None


# --- the consumer's side -------------------------------------------------------------------------


async def read_cursor(conn: Connection, producer: str, consumer: str) -> Place | None:
    parameters = {"producer": producer, "consumer": consumer}
    row = await (await conn.execute(SQL.read_cursor, parameters)).fetchone()
    return _place(row) if row else None


async def begin_cursor(conn: Connection, producer: str, consumer: str) -> None:
    await conn.execute(SQL.begin_cursor, {"producer": producer, "consumer": consumer})


async def lock_cursor(conn: Connection, producer: str, consumer: str) -> Place:
    parameters = {"producer": producer, "consumer": consumer}
    return _place(await _one(conn, SQL.lock_cursor, parameters))


async def move_cursor(conn: Connection, producer: str, consumer: str, place: Place) -> None:
    parameters = {"producer": producer, "consumer": consumer, **_behind(place)}
    await conn.execute(SQL.move_cursor, parameters)


async def parked_aggregates(
    conn: Connection, producer: str, consumer: str, among: Collection[tuple[str, str]]
) -> set[tuple[str, str]]:
    parameters = {
        "producer": producer,
        "consumer": consumer,
        "types": [kind for kind, _ in among],
        "ids": [aggregate_id for _, aggregate_id in among],
    }
    rows = await (await conn.execute(SQL.parked_aggregates, parameters)).fetchall()
    return {(kind, str(aggregate_id)) for kind, aggregate_id in rows}


async def park_event(conn: Connection, consumer: str, parked: Parked) -> None:
    await conn.execute(
        SQL.park_event,
        {
            "producer": parked.producer,
            "consumer": consumer,
            **_behind(parked.place),
            "aggregate_type": parked.aggregate_type,
            "aggregate_id": parked.aggregate_id,
            "aggregate_version": parked.aggregate_version,
            "envelope": parked.envelope,
            "attempts": parked.attempts,
            "next_attempt_at": parked.next_attempt_at,
            "last_error": parked.last_error,
            "now": parked.parked_at,
        },
    )


async def due_parked_event(
    conn: Connection, producer: str, consumer: str, now: datetime
) -> Due | None:
    parameters = {"producer": producer, "consumer": consumer, "now": now}
    row = await (await conn.execute(SQL.due_parked_event, parameters)).fetchone()
    return Due(_place(row), bytes(row[2]), row[3]) if row else None


async def unpark_event(conn: Connection, producer: str, consumer: str, place: Place) -> None:
    parameters = {"producer": producer, "consumer": consumer, **_behind(place)}
    await conn.execute(SQL.unpark_event, parameters)


async def discard_parked_event(
    conn: Connection, producer: str, consumer: str, place: Place
) -> Parked | None:
    """Returns what it was; None when there is no such event."""
    parameters = {"producer": producer, "consumer": consumer, **_behind(place)}
    row = await (await conn.execute(SQL.discard_parked_event, parameters)).fetchone()
    return _parked(row) if row else None


async def postpone_parked_event(
    conn: Connection,
    producer: str,
    consumer: str,
    due: Due,
    *,
    next_attempt_at: datetime,
    last_error: str,
) -> None:
    """It has failed once more than `due` says."""
    await conn.execute(
        SQL.postpone_parked_event,
        {
            "producer": producer,
            "consumer": consumer,
            **_behind(due.place),
            "attempts": due.attempts + 1,
            "next_attempt_at": next_attempt_at,
            "last_error": last_error,
        },
    )


async def hasten_parked_events(
    conn: Connection, producer: str, consumer: str, place: Place, now: datetime
) -> int:
    """Returns how many; 0 when there is no such event."""
    parameters = {"producer": producer, "consumer": consumer, **_behind(place), "now": now}
    return (await conn.execute(SQL.hasten_parked_events, parameters)).rowcount


async def list_parked_events(
    conn: Connection, consumer: str, behind: tuple[str, Place], limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    """Rows that end with the envelope, if the type is asked for, the producer and the place."""
    envelope = "envelope" if "type" in paths else "NULL"
    columns = (*masks.columns(PARKED_PATHS, paths), envelope, *_PARKED_PLACE)
    parameters: dict[str, Any] = {"consumer": consumer, "after_producer": behind[0]}
    parameters |= {**_behind(behind[1]), "limit": limit}
    query = SQL.select("list_parked_events", columns)
    return await (await conn.execute(query, parameters)).fetchall()


async def count_parked(conn: Connection, consumer: str) -> tuple[int, datetime | None]:
    count, oldest = await _one(conn, SQL.count_parked, {"consumer": consumer})
    return int(count), oldest


# --- rows ----------------------------------------------------------------------------------------


def _behind(place: Place) -> dict[str, Any]:
    # The driver knows no xid8: its numbers travel as text.
    return {"xact": str(place.xact), "id": place.id}


def _between(behind: Place, through: Place, topics: Sequence[str], limit: int) -> dict[str, Any]:
    return {
        **_behind(behind),
        "to_xact": str(through.xact),
        "to_id": through.id,
        "topics": list(topics),
        "limit": limit,
    }


def place(row: Sequence[Any]) -> Place:
    """The place of an event that the last two values of a row name."""
    return _place(row[-2:])


def _place(row: Sequence[Any]) -> Place:
    return Place(int(row[0]), row[1])


def _parked(row: Sequence[Any]) -> Parked:
    return Parked(row[0], _place(row[1:]), row[3], row[4], row[5], bytes(row[6]), *row[7:])


def _rows(rows: list[tuple[Any, ...]]) -> list[Row]:
    return [Row(_place(row), *row[2:]) for row in rows]


async def _one(conn: Connection, query: bytes, parameters: dict[str, Any]) -> tuple[Any, ...]:
    row = await (await conn.execute(query, parameters)).fetchone()
    if row is None:
        raise LookupError("the statement always has a row")
    return row
