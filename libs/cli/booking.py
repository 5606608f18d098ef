"""`driveflow schedule`: a day of a school."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from rich.table import Table
from rich.text import Text

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1.booking_pb2_grpc import BookingServiceStub
from libs.cli import session
from libs.client import Connection

TODAY, TOMORROW = "today", "tomorrow"
COLOURS = {
    pb.BOOKING_STATUS_HELD: "yellow",
    pb.BOOKING_STATUS_REQUESTED: "yellow",
    pb.BOOKING_STATUS_CONFIRMED: "green",
    pb.BOOKING_STATUS_IN_PROGRESS: "bold cyan",
    pb.BOOKING_STATUS_COMPLETED: "dim",
    pb.BOOKING_STATUS_NO_SHOW: "red",
}

app = typer.Typer()

Address = Annotated[
    str,
    typer.Option(envvar="DRIVEFLOW_BOOKING_ADDR", help="host:port of the booking service."),
]


@app.command()
def schedule(
    address: Address,
    token: session.Token,
    day: Annotated[
        str,
        typer.Argument(metavar="[DATE]", help="today, tomorrow or a date such as 2026-11-24."),
    ] = TODAY,
    as_json: session.Json = False,
) -> None:
    """Show a day of the school: its lessons by time, on the school's own clock."""
    session.run(_show(address, token, day, as_json=as_json))


async def _show(address: str, token: str, day: str, *, as_json: bool) -> None:
    wanted = _date(day)
    async with Connection(address, token) as connection:
        found = await _fetch(connection.bookings, wanted, ahead=day == TOMORROW)
    if as_json:
        typer.echo(json.dumps(MessageToDict(found, preserving_proto_field_name=True), indent=2))
        return
    console = session.output()
    if found.bookings:
        console.print(table(found))
        console.print(total(found.bookings))
    else:
        console.print(f"{_title(found)}: no lessons")


def _date(day: str) -> date | None:
    """None for a day that only the school's clock can name."""
    if day in (TODAY, TOMORROW):
        return None
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise session.CommandFailed(
            f"{day!r} is no date: give today, tomorrow or one such as 2026-11-24"
        ) from None


async def _fetch(
    stub: BookingServiceStub, day: date | None, *, ahead: bool
) -> pb.ListDayScheduleResponse:
    """The day; without one the school's today, or the day after."""
    found = await stub.ListDaySchedule(pb.ListDayScheduleRequest(date=_message(day)))
    if not ahead:
        return found
    following = _day(found) + timedelta(days=1)
    return await stub.ListDaySchedule(pb.ListDayScheduleRequest(date=_message(following)))


def _message(day: date | None) -> Date | None:
    return None if day is None else Date(year=day.year, month=day.month, day=day.day)


def _day(found: pb.ListDayScheduleResponse) -> date:
    return date(found.date.year, found.date.month, found.date.day)


def _title(found: pb.ListDayScheduleResponse) -> str:
    return f"{_day(found):%A, %-d %B %Y}, {found.time_zone}"


def table(found: pb.ListDayScheduleResponse) -> Table:
    """A row for each lesson, coloured by its status."""
    zone = ZoneInfo(found.time_zone)
    drawn = Table(
        "time", "instructor", "student", "lesson", "vehicle", "status", title=_title(found)
    )
    for booking in found.bookings:
        drawn.add_row(
            f"{_clock(booking.start_time, zone)}-{_clock(booking.end_time, zone)}",
            # Names are what people typed: no markup.
            Text(booking.instructor.display_name),
            Text(booking.student.full_name),
            Text(booking.service.name),
            Text(booking.vehicle.label),
            Text(status(booking.status), COLOURS.get(booking.status, "")),
        )
    return drawn


def total(bookings: Sequence[pb.Booking]) -> str:
    """3 lessons, 2:30 h: 2 confirmed, 1 held."""
    seconds = sum(each.end_time.seconds - each.start_time.seconds for each in bookings)
    counts = Counter(status(each.status) for each in bookings)
    lessons = "1 lesson" if len(bookings) == 1 else f"{len(bookings):,} lessons"
    length = f"{seconds // 3600}:{seconds // 60 % 60:02} h"
    each = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{lessons}, {length}: {each}"


def status(value: pb.BookingStatus.ValueType) -> str:
    """in progress, for BOOKING_STATUS_IN_PROGRESS."""
    name = pb.BookingStatus.Name(value).removeprefix("BOOKING_STATUS_")
    return name.lower().replace("_", " ")


def _clock(time: Timestamp, zone: ZoneInfo) -> str:
    return f"{session.when(time.ToMicroseconds()).astimezone(zone):%H:%M}"
