"""Hours: weekly rules and what is different on single dates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from google.type.date_pb2 import Date

from driveflow.booking.v1 import directory_pb2 as pb
from services.booking import locks
from tests.booking.stories import School, on, reason_of, refused, request_id
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

DAY = timedelta(days=1)
MONDAY, TUESDAY = 1, 2
Span = tuple[int, int, int]
"""Weekday, first minute, last minute."""


def rule(day: int = MONDAY, start: int = 540, end: int = 720, **dates: Any) -> pb.AvailabilityRule:
    return pb.AvailabilityRule(day_of_week=day, start_minute=start, end_minute=end, **dates)


async def set_week(
    school: School, *rules: pb.AvailabilityRule, start: date | None = None, **options: Any
) -> pb.WeeklyAvailability:
    """The first instructor's week from a date on."""
    instructor_id = options.pop("instructor_id", "") or school.instructors[0].id
    first = None if start is None else on(start)
    request = pb.SetWeeklyAvailabilityRequest(
        instructor_id=instructor_id, rules=rules, effective_from=first, **options
    )
    return await school.directory().SetWeeklyAvailability(request)


async def week(
    school: School, instructor_id: str = "", *, past: bool = False
) -> pb.WeeklyAvailability:
    request = pb.GetAvailabilityRequest(
        instructor_id=instructor_id or school.instructors[0].id, include_past=past
    )
    return await school.directory().GetAvailability(request)


async def except_on(school: School, day: date, **given: Any) -> pb.AvailabilityException:
    given.setdefault("instructor_id", school.instructors[0].id)
    wanted = pb.AvailabilityException(date=on(day), **given)
    request = pb.CreateAvailabilityExceptionRequest(exception=wanted)
    return await school.directory().CreateAvailabilityException(request)


async def take_back(school: School, exception_id: str) -> pb.AvailabilityException:
    request = pb.DeleteAvailabilityExceptionRequest(exception_id=exception_id)
    return await school.directory().DeleteAvailabilityException(request)


async def exceptions(school: School, **options: Any) -> pb.ListAvailabilityExceptionsResponse:
    options.setdefault("instructor_id", school.instructors[0].id)
    request = pb.ListAvailabilityExceptionsRequest(**options)
    return await school.directory().ListAvailabilityExceptions(request)


def spans(rules: Sequence[pb.AvailabilityRule]) -> list[tuple[Span, str, str]]:
    """Rules in short, with their dates."""
    return [
        (
            (each.day_of_week, each.start_minute, each.end_minute),
            day_text(each.effective_from),
            day_text(each.effective_to) if each.HasField("effective_to") else "",
        )
        for each in rules
    ]


def day_text(day: Date) -> str:
    return date(day.year, day.month, day.day).isoformat()


# --- weekly hours ---


async def test_a_week_is_set_and_read_by_day_and_start(bare_school: School) -> None:
    ina = await bare_school.add_instructor()
    given = [rule(TUESDAY), rule(MONDAY, 780, 1_440), rule(MONDAY, 0, 720)]
    answer = await set_week(bare_school, *given, instructor_id=ina.id)
    today = bare_school.today().isoformat()
    assert spans(answer.rules) == [
        ((MONDAY, 0, 720), today, ""),
        ((MONDAY, 780, 1_440), today, ""),
        ((TUESDAY, 540, 720), today, ""),
    ]
    assert (answer.instructor_id, answer.etag) == (ina.id, "2")
    assert await week(bare_school, ina.id) == answer


async def test_who_was_never_given_hours_has_none(bare_school: School) -> None:
    ina = await bare_school.add_instructor()
    found = await week(bare_school, ina.id)
    assert (list(found.rules), found.etag) == ([], "1")


async def test_hours_from_a_date_end_those_before_it(bare_school: School) -> None:
    ina = await bare_school.add_instructor()
    today = bare_school.today()
    first, second = today + 10 * DAY, today + 20 * DAY
    for start in (today, second):
        await set_week(bare_school, rule(MONDAY), start=start, instructor_id=ina.id)
    answer = await set_week(bare_school, rule(TUESDAY), start=first, instructor_id=ina.id)
    assert spans(answer.rules) == [
        ((MONDAY, 540, 720), today.isoformat(), (first - DAY).isoformat()),
        ((TUESDAY, 540, 720), first.isoformat(), ""),
    ]
    emptied = await set_week(bare_school, start=today, instructor_id=ina.id)
    assert list(emptied.rules) == []


async def test_hours_that_are_over_are_shown_on_demand(bare_school: School) -> None:
    ina = await bare_school.add_instructor()
    await set_week(bare_school, rule(), start=date(2020, 1, 1), instructor_id=ina.id)
    await set_week(bare_school, rule(TUESDAY), start=date(2021, 1, 1), instructor_id=ina.id)
    now, ever = await week(bare_school, ina.id), await week(bare_school, ina.id, past=True)
    assert spans(now.rules) == [((TUESDAY, 540, 720), "2021-01-01", "")]
    assert spans(ever.rules) == [
        ((MONDAY, 540, 720), "2020-01-01", "2020-12-31"),
        *spans(now.rules),
    ]


async def test_a_rule_may_begin_later_and_end(school: School) -> None:
    start = school.today()
    season = rule(effective_from=on(start + DAY), effective_to=on(start + 5 * DAY))
    other = rule(effective_from=on(start + 6 * DAY))
    answer = await set_week(school, season, other, start=start)
    future = [each for each in spans(answer.rules) if each[1] > start.isoformat()]
    assert future == [
        ((MONDAY, 540, 720), (start + DAY).isoformat(), (start + 5 * DAY).isoformat()),
        ((MONDAY, 540, 720), (start + 6 * DAY).isoformat(), ""),
    ]


async def test_today_is_the_date_of_the_schools_clock(bare_school: School) -> None:
    ina = await bare_school.add_instructor()
    bare_school.service.clock.set(bare_school.local(date(2031, 7, 1), 1))
    answer = await set_week(bare_school, rule(), instructor_id=ina.id)
    assert spans(answer.rules) == [((MONDAY, 540, 720), "2031-07-01", "")]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (rule(start=720, end=720), "rules[1].end_minute"),
        (rule(start=721, end=720), "rules[1].end_minute"),
        (rule(effective_to=on(date(2029, 12, 31))), "rules[1].effective_to"),
        (rule(effective_from=on(date(2029, 12, 31))), "rules[1].effective_from"),
        (
            rule(effective_from=on(date(2030, 2, 2)), effective_to=on(date(2030, 2, 1))),
            "rules[1].effective_to",
        ),
    ],
)
async def test_a_rule_that_can_not_be_is_refused_by_its_place(
    school: School, wrong: pb.AvailabilityRule, field: str
) -> None:
    before = await week(school)
    refusal = await refused(set_week(school, rule(TUESDAY), wrong, start=date(2030, 1, 1)))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "RULE_INVALID")
    assert [path for path, _ in refusal.fields] == [field]
    assert await week(school) == before


@pytest.mark.parametrize(
    ("rules", "start", "reason"),
    [
        ([rule(day=7)], None, "INVALID_REQUEST"),
        ([rule(end=1_441)], None, "INVALID_REQUEST"),
        ([rule(start=-1)], None, "INVALID_REQUEST"),
        ([rule()] * 201, None, "INVALID_REQUEST"),
        ([], date(1999, 12, 31), "INVALID_REQUEST"),
        ([], date(2101, 1, 1), "INVALID_REQUEST"),
        ([rule(effective_to=on(date(9999, 1, 1)))], None, "INVALID_REQUEST"),
        ([rule(effective_from=Date(year=2030, month=2, day=30))], None, "DATE_INVALID"),
    ],
)
async def test_a_week_that_can_not_be_is_refused(
    school: School, rules: list[pb.AvailabilityRule], start: date | None, reason: str
) -> None:
    call = set_week(school, *rules, start=start)
    assert await reason_of(call) == ("INVALID_ARGUMENT", reason)


async def test_hours_do_not_overlap_but_may_meet(school: School) -> None:
    before = await week(school)
    call = set_week(school, rule(start=540, end=720), rule(start=719, end=800))
    assert await reason_of(call) == ("FAILED_PRECONDITION", "AVAILABILITY_NO_OVERLAP")
    assert await week(school) == before
    met = await set_week(school, rule(start=540, end=720), rule(start=720, end=800))
    assert len([each for each in met.rules if not each.HasField("effective_to")]) == 2


async def test_of_two_planners_the_slower_is_refused(school: School) -> None:
    etag = (await week(school)).etag
    calls = (set_week(school, rule(day), etag=etag) for day in range(4))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    won = [answer for answer in answers if isinstance(answer, pb.WeeklyAvailability)]
    assert [answer.etag for answer in won] == [str(int(etag) + 1)]
    assert await week(school) == won[0]
    late = set_week(school, rule(), etag=etag)
    assert await reason_of(late) == ("ABORTED", "ETAG_MISMATCH")
    assert (await set_week(school, rule())).etag == str(int(etag) + 2)


async def test_the_same_week_sent_twice_is_set_once(school: School) -> None:
    again = request_id()
    calls = (set_week(school, rule(), request_id=again) for _ in range(3))
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    assert len(await school.audit("availability", school.instructors[0].id)) == 2


async def test_a_change_of_hours_is_noted_with_what_it_replaced(school: School) -> None:
    start = date(2030, 1, 7)
    await set_week(school, rule(), start=start)
    _, (actor, action, before, after) = await school.audit("availability", school.instructors[0].id)
    assert (actor, action, len(before["rules"])) == ("office", "set", 7)
    assert after["rules"] == [
        {
            "day_of_week": MONDAY,
            "start_minute": 540,
            "end_minute": 720,
            "effective_from": "2030-01-07",
            "effective_to": None,
        }
    ]


async def test_hours_are_an_instructors_of_the_school(school: School) -> None:
    theirs = (await school.neighbour()).instructors[0].id
    for instructor_id in (theirs, str(uuid4())):
        for call in (
            set_week(school, rule(), instructor_id=instructor_id),
            week(school, instructor_id),
            except_on(school, date(2030, 1, 1), instructor_id=instructor_id),
            exceptions(school, instructor_id=instructor_id),
        ):
            assert await reason_of(call) == ("NOT_FOUND", "INSTRUCTOR_NOT_FOUND")


# --- single dates ---


async def test_exceptions_are_listed_by_date_and_start(school: School) -> None:
    monday = date(2030, 1, 7)
    evening = await except_on(
        school, monday, available=True, start_minute=1_200, end_minute=1_320, note="Night drive"
    )
    noon = await except_on(school, monday, start_minute=720, end_minute=780)
    day = await except_on(school, monday, note="Fair")
    early = await except_on(school, monday - DAY)
    assert list((await exceptions(school)).exceptions) == [early, day, noon, evening]
    assert (evening.available, evening.note, noon.available) == (True, "Night drive", False)
    assert not day.HasField("start_minute")


async def test_exceptions_are_found_between_two_dates_page_by_page(school: School) -> None:
    made = [await except_on(school, date(2030, 1, day)) for day in range(1, 8)]
    made.insert(3, await except_on(school, date(2030, 1, 3), start_minute=0, end_minute=1))
    within: dict[str, Any] = {
        "date_from": on(date(2030, 1, 2)),
        "date_to": on(date(2030, 1, 6)),
        "page_size": 2,
    }
    found, token = [], ""
    for _ in range(3):
        page = await exceptions(school, page_token=token, **within)
        found += list(page.exceptions)
        token = page.next_page_token
    assert (found, token) == (made[1:7], "")


async def test_without_a_date_exceptions_are_listed_from_today(school: School) -> None:
    today = school.today()
    await except_on(school, today - DAY)
    of_today = await except_on(school, today)
    assert list((await exceptions(school)).exceptions) == [of_today]


async def test_a_date_has_one_exception_with_a_start(school: School) -> None:
    day = date(2030, 1, 7)
    wanted = ("ALREADY_EXISTS", "IDX_AVAILABILITY_EXCEPTION_INSTRUCTOR_DATE")
    for given in ({}, {"start_minute": 60, "end_minute": 120}):
        await except_on(school, day, **given)
        assert await reason_of(except_on(school, day, available=True, **given)) == wanted
    other = school.instructors[1].id
    assert (await except_on(school, day, instructor_id=other)).instructor_id == other


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"start_minute": 60}, "RULE_INVALID"),
        ({"end_minute": 60}, "RULE_INVALID"),
        ({"start_minute": 60, "end_minute": 60}, "RULE_INVALID"),
        ({"start_minute": 60, "end_minute": 1_441}, "INVALID_REQUEST"),
        ({"instructor_id": ""}, "INVALID_REQUEST"),
        ({"note": "x" * 501}, "INVALID_REQUEST"),
    ],
)
async def test_an_exception_that_can_not_be_is_refused(
    school: School, given: dict[str, Any], reason: str
) -> None:
    call = except_on(school, date(2030, 1, 7), **given)
    assert await reason_of(call) == ("INVALID_ARGUMENT", reason)


async def test_an_exception_is_for_a_date_of_this_century(school: School) -> None:
    for day in (date(1999, 12, 31), date(2101, 1, 1)):
        refusal = await refused(except_on(school, day))
        assert [path for path, _ in refusal.fields] == ["exception.date"]


async def test_an_exception_is_taken_back_once(school: School) -> None:
    made = await except_on(school, date(2030, 1, 7), note="Fair")
    assert await take_back(school, made.id) == made
    assert list((await exceptions(school)).exceptions) == []
    wanted = ("NOT_FOUND", "AVAILABILITY_EXCEPTION_NOT_FOUND")
    assert await reason_of(take_back(school, made.id)) == wanted
    created, deleted = await school.audit("availability_exception", made.id)
    assert (created[1], deleted[1]) == ("create", "delete")
    assert created[3] == deleted[2]
    assert created[3]["note"] == "Fair"


async def test_anothers_exception_is_not_there(school: School) -> None:
    theirs = await except_on(await school.neighbour(), date(2030, 1, 7))
    wanted = ("NOT_FOUND", "AVAILABILITY_EXCEPTION_NOT_FOUND")
    for exception_id in (theirs.id, str(uuid4())):
        assert await reason_of(take_back(school, exception_id)) == wanted


async def test_an_exception_is_a_change_of_the_calendar(school: School) -> None:
    first = await week(school)
    made = await except_on(school, date(2030, 1, 7))
    assert int((await week(school)).etag) == int(first.etag) + 1
    await take_back(school, made.id)
    assert int((await week(school)).etag) == int(first.etag) + 2
    late = set_week(school, rule(), etag=first.etag)
    assert await reason_of(late) == ("ABORTED", "ETAG_MISMATCH")


async def test_the_same_request_makes_one_exception(school: School) -> None:
    wanted = pb.AvailabilityException(
        instructor_id=school.instructors[0].id, date=on(date(2030, 1, 7))
    )
    request = pb.CreateAvailabilityExceptionRequest(exception=wanted, request_id=request_id())
    stub = school.directory()
    calls = (stub.CreateAvailabilityException(request) for _ in range(3))
    answers = await asyncio.gather(*calls)
    assert list((await exceptions(school)).exceptions) == [answers[0]]


async def test_an_exception_is_deleted_once_by_one_request(school: School) -> None:
    wanted = pb.AvailabilityException(
        instructor_id=school.instructors[0].id, date=on(date(2030, 1, 7))
    )
    stub = school.directory()
    made = await stub.CreateAvailabilityException(
        pb.CreateAvailabilityExceptionRequest(exception=wanted)
    )
    request = pb.DeleteAvailabilityExceptionRequest(exception_id=made.id, request_id=request_id())
    assert [await stub.DeleteAvailabilityException(request) for _ in range(2)] == [made] * 2


# --- the order of locks ---


async def test_a_change_of_hours_waits_for_who_places_a_booking(school: School) -> None:
    """It takes the lock that placing takes, and takes it first."""
    instructor = school.instructors[0]
    dsn = school.service.database.dsn("booking")
    async with await psycopg.AsyncConnection.connect(dsn) as placing:
        await placing.execute(
            "SELECT pg_advisory_xact_lock(%s)",
            [locks.key(school.org_id, "instructor", UUID(instructor.id))],
        )
        change = asyncio.ensure_future(set_week(school, rule()))
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await eventually(lambda: school.rows(waiting))
        other = await set_week(school, rule(), instructor_id=school.instructors[1].id)
        assert other.etag == "3"
        assert not change.done()
    assert (await change).etag == "3"


async def test_keys_are_of_one_school_and_one_thing() -> None:
    org_id, other = uuid4(), uuid4()
    keys = {
        locks.key(school, kind, thing)
        for school in (org_id, other)
        for kind in ("instructor", "vehicle", "student")
        for thing in (org_id, other)
    }
    assert len(keys) == 12
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert locks.key(org_id, "student", other) == locks.key(org_id, "student", other)
