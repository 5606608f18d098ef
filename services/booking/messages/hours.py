"""Between hours and their messages."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import date

from driveflow.booking.v1 import directory_pb2 as pb
from libs.messages import date_message, day, required_id, stamp
from services.booking.model.hours import DateException, Rule

AVAILABILITY_PATHS = ("instructor_id", "rules", "etag")


def availability(
    instructor_id: uuid.UUID, rules: Iterable[Rule], version: int
) -> pb.WeeklyAvailability:
    """An instructor's weekly hours."""
    return pb.WeeklyAvailability(
        instructor_id=str(instructor_id), rules=[rule(each) for each in rules], etag=str(version)
    )


def rule(row: Rule) -> pb.AvailabilityRule:
    """Hours of one weekday."""
    return pb.AvailabilityRule(
        id=str(row.id),
        day_of_week=row.day_of_week,
        start_minute=row.start_minute,
        end_minute=row.end_minute,
        effective_from=date_message(row.effective_from),
        effective_to=date_message(row.effective_to),
    )


def new_rule(message: pb.AvailabilityRule, first: date) -> Rule:
    """Hours as a caller wants them, from `first` on unless they say when."""
    return Rule(
        day_of_week=message.day_of_week,
        start_minute=message.start_minute,
        end_minute=message.end_minute,
        effective_from=day(message, "effective_from") or first,
        effective_to=day(message, "effective_to"),
    )


def exception(row: DateException) -> pb.AvailabilityException:
    """What is different on one date."""
    return pb.AvailabilityException(
        id=str(row.id),
        instructor_id=str(row.instructor_id),
        date=date_message(row.date),
        available=row.available,
        start_minute=row.start_minute,
        end_minute=row.end_minute,
        note=row.note,
        create_time=stamp(row.created_at),
    )


def new_exception(message: pb.AvailabilityException) -> DateException:
    """What a caller wants to be different."""
    on_date = day(message, "date")
    if on_date is None:
        raise AssertionError("the proto's rule requires it")
    return DateException(
        instructor_id=required_id(message.instructor_id, "exception.instructor_id"),
        date=on_date,
        available=message.available,
        start_minute=message.start_minute if message.HasField("start_minute") else None,
        end_minute=message.end_minute if message.HasField("end_minute") else None,
        note=message.note,
    )
