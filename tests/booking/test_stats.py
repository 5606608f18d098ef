"""Instructors' figures: what they say, of whom, and as of when."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from driveflow.booking.v1 import booking_pb2 as pb
from libs import issuer, pooling
from libs.orgs import Orgs
from libs.settings import Settings
from services.booking.servicer import stats
from services.booking.store.stats import REFRESH_LOCK
from tests.booking import calendars, lives
from tests.booking.lives import moment
from tests.booking.serving import serving
from tests.booking.stories import School, morning, reason_of
from tests.booking.test_lessons import taught
from tests.postgres import Database
from tests.tracking.stories import rows
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALL = ("confirmed", "completed", "completed", "cancelled", "expired", "no_show")


async def refresh(school: School) -> pb.RefreshInstructorStatsResponse:
    operator = school.service.bookings(school.service.ops_token)
    return await operator.RefreshInstructorStats(pb.RefreshInstructorStatsRequest())


async def listed(school: School, **given: Any) -> pb.ListInstructorStatsResponse:
    return await school.bookings().ListInstructorStats(pb.ListInstructorStatsRequest(**given))


async def of(school: School, instructor_id: str) -> pb.InstructorStats:
    request = pb.GetInstructorStatsRequest(instructor_id=instructor_id)
    return await school.bookings().GetInstructorStats(request)


def work(school: School) -> list[str]:
    """Six instructors with bookings of all kinds, rated lessons and pay; one without any."""
    instructors, _ = calendars.people(school, 6, 1)
    for number, instructor in enumerate(instructors[:5]):
        calendars.fill(
            school,
            random.randrange(5, 40),
            calendars.LONG_AGO + timedelta(days=number),
            timedelta(hours=2),
            statuses=ALL[1:],
            instructors=[instructor],
        )
    taught(school, 0)
    pay(school, instructors[:3])
    return instructors


def pay(school: School, instructors: list[str]) -> None:
    for instructor in instructors:
        calendars.administer(
            school,
            'INSERT INTO booking."InstructorEarning"'
            ' ("orgId", "instructorId", currency, "totalPaidCents")'
            " VALUES (%(org_id)s, %(id)s, 'AUD', %(cents)s), (%(org_id)s, %(id)s, 'EUR', 77)",
            {"org_id": school.org_id, "id": instructor, "cents": random.randrange(10**7)},
        )


async def counted(school: School) -> dict[str, tuple[int, int, float | None, int]]:
    """The same figures, counted one by one."""
    statuses, ratings = defaultdict(list), defaultdict(list)
    for instructor, status in await school.rows(BOOKED, school.org_id):
        statuses[instructor].append(status)
    for instructor, rating in await school.rows(RATED, school.org_id):
        ratings[instructor].append(rating)
    earned = dict(await school.rows(EARNED, school.org_id))
    return {
        id_: (
            len(statuses[id_]),
            statuses[id_].count("completed"),
            sum(ratings[id_]) / len(ratings[id_]) if ratings[id_] else None,
            earned.get(id_, 0),
        )
        for (id_,) in await school.rows(EVERYONE, school.org_id)
    }


BOOKED = 'SELECT "instructorId"::text, status FROM booking."Booking" WHERE "orgId" = %s'
RATED = (
    'SELECT "instructorId"::text, rating FROM booking."Lesson" WHERE "orgId" = %s AND rating > 0'
)
EARNED = """
SELECT "instructorId"::text, "totalPaidCents" FROM booking."InstructorEarning"
 WHERE "orgId" = %s AND currency = 'AUD'
"""
EVERYONE = 'SELECT id::text FROM booking."Instructor" WHERE "orgId" = %s'


def figures(row: pb.InstructorStats) -> tuple[int, int, float | None, int]:
    return (
        row.total_bookings,
        row.completed_bookings,
        row.avg_rating if row.HasField("avg_rating") else None,
        row.total_earnings_cents,
    )


async def test_the_figures_are_those_that_counting_finds(school: School) -> None:
    for each in (school, await school.neighbour()):
        work(each)
        await refresh(each)
        found = {row.instructor_id: row for row in (await listed(each)).instructor_stats}
        wanted = await counted(each)
        assert found.keys() == wanted.keys()
        for instructor, (total, completed, rating, earned) in wanted.items():
            row = found[instructor]
            assert (row.total_bookings, row.completed_bookings) == (total, completed)
            assert row.total_earnings_cents == earned
            assert row.HasField("avg_rating") == (rating is not None)
            assert row.avg_rating == pytest.approx(rating or 0)
        assert {row.currency for row in found.values()} == {"AUD"}


# As it is written in the guide, with the school's bookings, lessons and two payouts each.
GUIDE = """
SELECT i.id::text, count(b.id), count(CASE WHEN b.status = 'completed' THEN 1 END),
       sum(p.cents)
  FROM booking."Instructor" i
  LEFT JOIN booking."Booking" b ON i.id = b."instructorId"
  LEFT JOIN booking."Lesson" l ON b.id = l."bookingId"
  LEFT JOIN (SELECT id, unnest(ARRAY[1000, 2000]) AS cents FROM booking."Instructor") p
    ON p.id = i.id
 WHERE i."orgId" = %s GROUP BY i.id
"""


async def test_the_guides_own_join_multiplies_bookings_and_payouts(school: School) -> None:
    """Why the view adds up each table before it joins them."""
    instructors = work(school)
    await refresh(school)
    joined = {row[0]: row[1:] for row in await school.rows(GUIDE, school.org_id)}
    for instructor in instructors[:5]:
        row = await of(school, instructor)
        total, completed, paid = joined[instructor]
        assert (total, completed) == (2 * row.total_bookings, 2 * row.completed_bookings)
        assert paid == 3_000 * row.total_bookings


async def test_figures_are_as_of_their_refresh(school: School) -> None:
    booking = await lives.completed(school)
    first = (await refresh(school)).refresh_time
    row = await of(school, booking.instructor_id)
    assert (row.refresh_time, figures(row)) == (first, (1, 1, 4.0, 0))
    await lives.held(school, morning(school, 5))
    assert (await of(school, booking.instructor_id)).total_bookings == 1
    second = (await refresh(school)).refresh_time
    assert moment(second) > moment(first)
    row = await of(school, booking.instructor_id)
    assert (row.refresh_time, row.total_bookings) == (second, 2)
    assert (await listed(school)).refresh_time == second


async def test_an_instructor_without_figures_is_not_found(school: School) -> None:
    await refresh(school)
    added = await school.add_instructor("Since")
    theirs = (await school.neighbour()).instructors[0]
    await refresh(school)
    late = await school.add_instructor("Later")
    assert (await of(school, added.id)).display_name == "Since"
    for instructor_id in (late.id, theirs.id, str(uuid4())):
        refusal = await reason_of(of(school, instructor_id))
        assert refusal == ("NOT_FOUND", "INSTRUCTOR_STATS_NOT_FOUND")
    assert await reason_of(of(school, "7")) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_a_school_sees_its_own_instructors_alone_page_by_page(school: School) -> None:
    neighbour = await school.neighbour()
    work(school)
    await refresh(school)
    seen, token = [], ""
    for _ in range(10):
        page = await listed(school, page_size=3, page_token=token)
        seen += [row.instructor_id for row in page.instructor_stats]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(id_ for (id_,) in await school.rows(EVERYONE, school.org_id))
    theirs = {row.instructor_id for row in (await listed(neighbour)).instructor_stats}
    assert theirs == {each.id for each in neighbour.instructors}
    token = (await listed(school, page_size=3)).next_page_token
    wrong = await reason_of(listed(neighbour, page_token=token))
    assert wrong == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_the_service_itself_can_read_no_view_of_all_schools(school: School) -> None:
    await refresh(school)
    dsn = school.service.database.dsn("booking")
    with psycopg.connect(dsn, autocommit=True) as service:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute("SELECT count(*) FROM booking.instructor_stats")
        unscoped = service.execute("SELECT count(*) FROM booking.instructor_stats_of_org")
        assert unscoped.fetchone() == (0,)


async def test_a_refresh_is_for_operators_of_the_platform(school: School) -> None:
    request = pb.RefreshInstructorStatsRequest()
    everything = (*issuer.TENANT_SCOPES, *issuer.OPS_SCOPES)
    schools = school.bookings("office", everything).RefreshInstructorStats(request)
    assert await reason_of(schools) == ("PERMISSION_DENIED", "ORG_REFUSED")


async def test_who_refreshes_while_another_does_waits_for_his(school: School) -> None:
    with psycopg.connect(school.service.database.admin_dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [REFRESH_LOCK])
        calls = [asyncio.create_task(refresh(school)) for _ in range(3)]
        await eventually(lambda: waiting(school, 3))
        assert not any(call.done() for call in calls)
        assert (await listed(school)) is not None
    times = {moment((await call).refresh_time) for call in calls}
    assert len(times) == 1


async def test_a_refresh_is_in_nobodys_way_who_reads_the_figures(school: School) -> None:
    with psycopg.connect(school.service.database.admin_dsn) as reader:
        reader.execute("SELECT count(*) FROM booking.instructor_stats")
        # The reader's lock is held; all but a concurrent refresh waits for it.
        assert (await refresh(school)).HasField("refresh_time")


async def test_the_leader_computes_the_figures_by_itself(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, tmp_path):
        refreshed = "SELECT 1 FROM booking.\"AuditLog\" WHERE action = 'refresh'"
        await eventually(lambda: rows(database.admin_dsn, refreshed))


async def waiting(school: School, count: int) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    return (await school.rows(query)) == [(count,)]


async def test_a_refresh_may_take_longer_than_other_calls_and_no_longer_than_told(
    school: School,
) -> None:
    """The leader's way: without a caller, and with a limit of its own."""
    settings = Settings(listen="127.0.0.1:0", dsn="", jwks="", page_token_key="-" * 32)
    dsn = school.service.database.dsn("booking")
    async with pooling.create("booking", dsn, settings, max_size=2) as pool:
        with psycopg.connect(school.service.database.admin_dsn) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", [REFRESH_LOCK])
            with pytest.raises(psycopg.errors.Error):
                await stats.refresh(Orgs(pool), timeout_s=0.2)
        refreshed_at = await stats.refresh(Orgs(pool))
        row = (await listed(school)).instructor_stats[0]
        assert moment(row.refresh_time) == refreshed_at
        async with pooling.connection(pool) as conn:
            answer = await (await conn.execute("SHOW statement_timeout")).fetchone()
            assert answer == ("5s",)
