"""What an event is, where it stands among the events of its service, and how that is written."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from libs.errors import InvalidArgument, OutOfRange
from libs.pooling import Connection

_CURSOR = re.compile(r"([a-z][a-z0-9_-]*)\.([0-9a-f]{16})\.([0-9a-f]{16})")
_NUMBER_MAX = 2**63 - 1


class Place(NamedTuple):
    """Where an event stands: places compare as events follow each other."""

    xact: int
    """The number of its transaction, or of a later one that wrote to the same aggregate."""
    id: int


FIRST = Place(0, 0)
"""Before all events."""
LAST = Place(_NUMBER_MAX, _NUMBER_MAX)
"""Behind all events."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    org_id: uuid.UUID
    topic: str
    type: str
    aggregate_type: str
    aggregate_id: uuid.UUID
    aggregate_version: int
    payload: dict[str, Any]
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Delivered:
    """An event and the cursor behind which to go on."""

    cursor: str
    event: Event


@dataclass(frozen=True, slots=True)
class Row:
    """An event as the outbox has it."""

    place: Place
    org_id: uuid.UUID
    topic: str
    type: str
    aggregate_type: str
    aggregate_id: uuid.UUID
    aggregate_version: int
    payload: str
    """JSON."""
    created_at: datetime
    processed_at: datetime | None


Effect: TypeAlias = Callable[[Connection, Event], Awaitable[None]]
"""What a consumer does about an event, inside the transaction that moves its cursor."""


def cursor(service: str, place: Place) -> str:
    """A place in the events of a service as callers see it."""
    return f"{service}.{place.xact:016x}.{place.id:016x}"


def place(service: str, text: str) -> Place:
    """The place that a cursor names. Raises InvalidArgument when it is none of this service."""
    found = _CURSOR.fullmatch(text)
    if found is None or found[1] != service:
        raise bad_cursor()
    numbers = Place(int(found[2], 16), int(found[3], 16))
    if max(numbers) > _NUMBER_MAX:
        raise bad_cursor()
    return numbers


def bad_cursor() -> InvalidArgument:
    """The answer to what is no cursor here."""
    return InvalidArgument(
        "CURSOR_INVALID",
        "The cursor is not one of this service's, or was not sent on this stream.",
        fields=[("cursor", "not a cursor of this service")],
    )


def too_old() -> OutOfRange:
    """The answer to a cursor behind which events have been deleted."""
    return OutOfRange(
        "CURSOR_TOO_OLD", "Events behind the cursor are no longer kept: start without one."
    )
