"""Between Python's values and any service's messages: times, dates, JSON, ids that may be unset."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date

from libs.errors import InvalidArgument

SECONDS_MIN, SECONDS_MAX = -62_135_596_800, 253_402_300_799
"""Years 1 to 9999, as google.protobuf.Timestamp has them."""
NANOS_MAX = 999_999_999
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def time(message: Any, field: str) -> datetime | None:
    """A Timestamp field as a moment, cut to the microsecond; None when unset.

    Raises InvalidArgument when it is no time of the years 1 to 9999.
    """
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    if 0 <= value.nanos <= NANOS_MAX and SECONDS_MIN <= value.seconds <= SECONDS_MAX:
        return value.ToDatetime(UTC)
    raise InvalidArgument(
        "INVALID_REQUEST", f"{field}: not a time.", fields=[(field, "not a time")]
    )


def stamp(moment: datetime | None) -> Timestamp | None:
    """A moment in UTC as a Timestamp."""
    if moment is None:
        return None
    days = moment.toordinal() - _EPOCH_ORDINAL
    seconds = ((days * 24 + moment.hour) * 60 + moment.minute) * 60 + moment.second
    return Timestamp(seconds=seconds, nanos=moment.microsecond * 1_000)


def day(message: Any, field: str) -> date | None:
    """A google.type.Date field as a date; None when unset.

    Raises InvalidArgument DATE_INVALID when the calendar has no such day.
    """
    if not message.HasField(field):
        return None
    value: Date = getattr(message, field)
    try:
        return date(value.year, value.month, value.day)
    except ValueError:
        raise no_such_day(field) from None


def no_such_day(field: str) -> InvalidArgument:
    """The answer for a date that can't be."""
    return InvalidArgument(
        "DATE_INVALID",
        f"{field}: the calendar has no such day.",
        fields=[(field, "the calendar has no such day")],
    )


def date_message(value: date | None) -> Date | None:
    """A date as a google.type.Date."""
    return None if value is None else Date(year=value.year, month=value.month, day=value.day)


def struct(values: dict[str, Any] | None) -> Struct | None:
    """A JSON object as a message; None is unset."""
    if values is None:
        return None
    message = Struct()
    message.update(values)
    return message


def optional_id(text: str) -> uuid.UUID | None:
    """A UUID that may be empty; its form was checked by the proto's rule."""
    return uuid.UUID(text) if text else None


def required_id(text: str, field: str) -> uuid.UUID:
    """A UUID that must be there, where the proto's rule lets it be empty or any text.

    Raises InvalidArgument naming `field`.
    """
    try:
        return uuid.UUID(text)
    except ValueError:
        raise InvalidArgument(
            "INVALID_REQUEST",
            f"{field}: the UUID is wanted.",
            fields=[(field, "the UUID is wanted")],
        ) from None


def text(value: object | None) -> str:
    """An id or another value as text; None is empty."""
    return "" if value is None else str(value)
