"""`driveflow schedule` against the real service, and what it draws."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from rich.console import Console

from driveflow.booking.v1 import booking_pb2 as pb
from libs.cli import booking as cli
from tests import commands
from tests.booking import lives
from tests.booking.stories import School, at, on
from tests.commands import Done

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = "127.0.0.1:1"


async def schedule(school: School, *arguments: object, **environment: str) -> Done:
    """The command as someone of the school types it."""
    known = {
        "DRIVEFLOW_BOOKING_ADDR": school.service.address,
        "DRIVEFLOW_TOKEN": school.token("office", ("booking:read",)),
        **environment,
    }
    return await commands.driveflow(known, "schedule", *arguments)


async def two_lessons(school: School, days_ahead: int = 3) -> None:
    """At nine and at half past eleven: one confirmed with a car, one held."""
    day = school.today() + timedelta(days=days_ahead)
    await lives.confirmed(school, school.local(day, 9 * 60), vehicle=school.vehicle)
    second = school.local(day, 11 * 60 + 30)
    await lives.held(school, second, instructor=school.instructors[1], student=school.students[1])


async def test_a_day_is_a_table_on_the_schools_clock(school: School) -> None:
    await two_lessons(school)
    day = school.today() + timedelta(days=3)
    done = await schedule(school, day)
    assert done.code == 0, done.stderr
    title, *lines = [line.strip() for line in done.stdout.splitlines()]
    assert title == f"{day:%A, %-d %B %Y}, Australia/Sydney"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [
        ["09:00-10:00", "Instructor 1", "Student 1", "Lesson 60", "Yaris", "confirmed"],
        ["11:30-12:30", "Instructor 2", "Student 2", "Lesson 60", "", "held"],
    ]
    assert lines[-1] == "2 lessons, 2:00 h: 1 confirmed, 1 held"


async def test_a_piped_table_has_no_colours(school: School) -> None:
    await two_lessons(school)
    done = await schedule(school, school.today() + timedelta(days=3))
    assert "\x1b[" not in done.stdout


@pytest.mark.parametrize(("word", "days"), [("today", 0), ("tomorrow", 1)])
async def test_days_are_those_of_the_schools_calendar(school: School, word: str, days: int) -> None:
    (arguments, expected) = ((word,), school.today() + timedelta(days=days))
    done = await schedule(school, *arguments)
    assert done.stdout == f"{expected:%A, %-d %B %Y}, Australia/Sydney: no lessons\n"
    if word == "today":
        assert (await schedule(school)).stdout == done.stdout


async def test_the_day_is_there_as_json(school: School) -> None:
    await two_lessons(school)
    found = (await schedule(school, school.today() + timedelta(days=3), "--json")).json()
    assert found["time_zone"] == "Australia/Sydney"
    assert [each["status"] for each in found["bookings"]] == [
        "BOOKING_STATUS_CONFIRMED",
        "BOOKING_STATUS_HELD",
    ]


async def test_what_is_no_date_is_said_in_one_line(school: School) -> None:
    for word in ("yesterday", "2026-02-31"):
        done = await schedule(school, word)
        assert done.code == 1
        assert done.stderr == (
            f"driveflow: '{word}' is no date: give today, tomorrow or one such as 2026-11-24\n"
        )


async def test_a_service_that_is_not_there_is_said_in_one_line(school: School) -> None:
    done = await schedule(school, DRIVEFLOW_BOOKING_ADDR=NOBODY)
    (line,) = done.stderr.splitlines()
    assert line.startswith("driveflow: UNAVAILABLE: ")
    assert "./dev up starts one" in line
    assert done.code == 1


async def test_nowhere_does_help_show_a_token(school: School) -> None:
    done = await schedule(school, "--help", DRIVEFLOW_TOKEN="secret-value")
    assert (done.code, "secret-value" in done.stdout) == (0, False)


def day_of(*statuses: pb.BookingStatus.ValueType) -> pb.ListDayScheduleResponse:
    """A day in Lord Howe's winter with a lesson of 90 minutes of each status."""
    found = pb.ListDayScheduleResponse(time_zone="Australia/Lord_Howe")
    found.date.CopyFrom(on(date(2026, 7, 1)))
    start = datetime(2026, 7, 1, 10, tzinfo=UTC)
    for status in statuses:
        found.bookings.add(
            status=status, start_time=at(start), end_time=at(start + timedelta(minutes=90))
        ).student.full_name = "[bold]Sam"
    return found


async def test_a_terminal_shows_the_status_by_its_colour() -> None:
    statuses = [value for value in pb.BookingStatus.values() if value]
    drawn = cli.table(day_of(*statuses))
    with (console := Console(width=120, force_terminal=True)).capture() as coloured:
        console.print(drawn)
    assert "\x1b[32mconfirmed" in coloured.get()
    assert "\x1b[1;36min progress" in coloured.get()


async def test_names_are_shown_as_they_are_typed() -> None:
    with (console := Console(width=120)).capture() as drawn:
        console.print(cli.table(day_of(pb.BOOKING_STATUS_HELD)))
    assert "[bold]Sam" in drawn.get()
    assert "20:30-22:00" in drawn.get()


async def test_the_sum_counts_each_status() -> None:
    bookings = day_of(*[pb.BOOKING_STATUS_CONFIRMED] * 2, pb.BOOKING_STATUS_NO_SHOW).bookings
    assert cli.total(bookings) == "3 lessons, 4:30 h: 2 confirmed, 1 no show"
    assert cli.total(bookings[:1]) == "1 lesson, 1:30 h: 1 confirmed"
