"""What instructors were paid out: events of payments, added up, and shown among their figures."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio

from driveflow.booking.v1 import booking_pb2 as pb
from tests import postgres
from tests.booking import calendars, paying
from tests.booking.paying import Intake, Office
from tests.booking.stories import School
from tests.booking.test_lessons import LESSONS
from tests.booking.test_stats import counted, figures, listed, of, refresh
from tests.postgres import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")

EARNED = """
SELECT currency::text, "totalPaidCents" FROM booking."InstructorEarning"
 WHERE "orgId" = %s AND "instructorId" = %s ORDER BY currency
"""
EVERY_STATUS = ("confirmed", "completed", "completed", "cancelled", "expired", "no_show")
PAYOUTS = 250


@pytest.fixture(scope="module")
def own_database(template: Database) -> Iterator[Database]:
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def office(
    own_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Office]:
    async with paying.office(own_database, tmp_path_factory.mktemp("earnings")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def school(office: Office) -> AsyncIterator[School]:
    async with AsyncExitStack() as connections:
        yield await School.furnished(replace(office.booking.service, connections=connections))


def payout(instructor_id: str, cents: int, currency: str = "AUD") -> dict[str, Any]:
    """What every event of a payout says, but for its id and status."""
    return {"instructor_id": instructor_id, "amount_cents": cents, "currency": currency}


async def test_payouts_add_up_and_what_is_taken_back_is_taken_off(
    school: School, office: Office
) -> None:
    first, second = (each.id for each in school.instructors)
    told, taken_back = office.payments.tell, uuid4()
    await told(school, "payout.created", taken_back, status="pending", **payout(first, 6_800))
    await told(school, "payout.paid", taken_back, status="paid", **payout(first, 6_800))
    await told(school, "payout.paid", uuid4(), status="paid", **payout(first, 1_200))
    await told(school, "payout.paid", uuid4(), status="paid", **payout(second, 5))
    await told(school, "payout.failed", uuid4(), status="failed", **payout(first, 77))
    assert await school.rows(EARNED, school.org_id, first) == [("AUD", 8_000)]
    await told(school, "payout.reversed", taken_back, status="reversed", **payout(first, 6_800))
    assert await school.rows(EARNED, school.org_id, first) == [("AUD", 1_200)]
    await refresh(school)
    assert (await of(school, first)).total_earnings_cents == 1_200
    assert (await of(school, second)).total_earnings_cents == 5


async def test_currencies_are_kept_apart_and_figures_are_in_the_schools(
    school: School, office: Office
) -> None:
    (instructor, *_) = (each.id for each in school.instructors)
    for cents, currency in ((300, "AUD"), (10_000, "EUR"), (700, "AUD")):
        what = payout(instructor, cents, currency)
        await office.payments.tell(school, "payout.paid", uuid4(), status="paid", **what)
    earned = await school.rows(EARNED, school.org_id, instructor)
    assert earned == [("AUD", 1_000), ("EUR", 10_000)]
    await refresh(school)
    row = await of(school, instructor)
    assert (row.total_earnings_cents, row.currency) == (1_000, "AUD")


async def test_a_payout_to_anothers_instructor_is_parked_and_counts_for_nobody(
    school: School, office: Office
) -> None:
    other = await school.neighbour()
    theirs = other.instructors[0].id
    for stranger in (theirs, str(uuid4())):
        id_ = uuid4()
        await office.payments.tell(school, "payout.paid", id_, **payout(stranger, 900))
        assert await office.payments.parked(str(id_)) == ["INSTRUCTOR_NOT_FOUND"]
    query = 'SELECT count(*) FROM booking."InstructorEarning" WHERE "orgId" = ANY (%s)'
    assert await school.rows(query, [school.org_id, other.org_id]) == [(0,)]


async def test_a_payout_told_twice_is_counted_once(
    school: School, own_database: Database, tmp_path: Path
) -> None:
    instructor = school.instructors[0].id
    async with paying.intake(own_database, tmp_path, school.service.clock) as intake:
        batch = [intake.event(school, "payout.paid", **payout(instructor, 40)) for _ in range(3)]
        for events in (batch, batch[1:], batch):
            await intake.take(events)
    assert await school.rows(EARNED, school.org_id, instructor) == [("AUD", 120)]


# --- the figures, against counting and against the guide -----------------------------------------


@dataclass
class Paid:
    """What was told of the payouts of some instructors."""

    earned: Counter[str] = field(default_factory=Counter)
    """In the school's currency: paid, less what was taken back."""
    standing: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """The payouts that the guide's table would show as paid, in any currency."""


async def pay_out(school: School, intake: Intake, chance: random.Random, people: list[str]) -> Paid:
    """Payouts to them by chance: some in another currency, some taken back."""
    paid, events = Paid(), []
    for _ in range(PAYOUTS):
        who, cents = chance.choice(people), chance.randrange(1, 90_000)
        currency = chance.choices(("AUD", "EUR"), (5, 1))[0]
        what = payout(who, cents, currency)
        events.append(intake.event(school, "payout.paid", **what))
        reversed_ = chance.random() < 0.2
        if reversed_:
            events.append(intake.event(school, "payout.reversed", **what))
        else:
            paid.standing[who].append(cents)
            paid.earned[who] += cents if currency == "AUD" else 0
    for start in range(0, len(events), 100):
        await intake.take(events[start : start + 100])
    return paid


def work(school: School, chance: random.Random) -> list[str]:
    """Six instructors with up to forty bookings each of any status, lessons rated or not."""
    people, _ = calendars.people(school, 6, 1)
    for number, each in enumerate(people[1:]):
        start = calendars.LONG_AGO + timedelta(days=30 * number)
        count = chance.randrange(1, 40)
        hours = timedelta(hours=2)
        calendars.fill(school, count, start, hours, statuses=EVERY_STATUS, instructors=[each])
    for query in (LESSONS, UNRATED, UNDER_WAY):
        calendars.administer(school, query, {"org_id": school.org_id})
    return people


# Not all lessons are rated, and some bookings are waiting or under way.
UNRATED = """
UPDATE booking."Lesson" AS l SET rating = NULL
  FROM (SELECT id, row_number() OVER (ORDER BY "startedAt") AS n FROM booking."Lesson"
         WHERE "orgId" = %(org_id)s) AS each
 WHERE each.id = l.id AND each.n %% 3 = 0
"""
UNDER_WAY = """
UPDATE booking."Booking" AS b SET "holdExpiresAt" = "startAt",
       status = (ARRAY['held', 'requested', 'in_progress'])[1 + each.n %% 5]
  FROM (SELECT id, row_number() OVER (ORDER BY "startAt") AS n FROM booking."Booking"
         WHERE "orgId" = %(org_id)s AND status = 'confirmed') AS each
 WHERE each.id = b.id AND each.n %% 5 < 3
"""

# As it is written in the guide, but for our names of columns.
GUIDE = """
SELECT i.id::text,
  COUNT(b.id) as total_bookings,
  COUNT(CASE WHEN b.status = 'completed' THEN 1 END) as completed_bookings,
  AVG(l.rating)::float8 as avg_rating,
  SUM(p.amount_cents)::bigint as total_earnings_cents
FROM booking."Instructor" i
LEFT JOIN booking."Booking" b ON i.id = b."instructorId"
LEFT JOIN booking."Lesson" l ON b.id = l."bookingId"
LEFT JOIN "Payout" p ON i.id = p.instructor_id AND p.status = 'paid'
WHERE i."orgId" = %s
GROUP BY i.id, i."orgId", i."displayName"
"""


def by_the_guide(school: School, paid: Paid) -> dict[str, tuple[Any, ...]]:
    """The figures that the guide's own join finds, with the payouts in a table as it has them."""
    with psycopg.connect(school.service.database.admin_dsn) as admin:
        admin.execute(
            'CREATE TEMPORARY TABLE "Payout" (instructor_id uuid, amount_cents bigint, status text)'
        )
        with admin.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO \"Payout\" VALUES (%s, %s, 'paid')",
                [(who, cents) for who, each in paid.standing.items() for cents in each],
            )
        rows = admin.execute(GUIDE.encode(), [school.org_id]).fetchall()
        admin.rollback()
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize("seed", range(2))
async def test_figures_are_what_counting_finds_where_the_guides_join_multiplies(
    school: School, own_database: Database, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    people = work(school, chance)
    async with paying.intake(own_database, tmp_path, school.service.clock) as intake:
        paid = await pay_out(school, intake, chance, people[:-1])
    await refresh(school)
    found = {row.instructor_id: row for row in (await listed(school)).instructor_stats}
    wanted, joined = await counted(school), by_the_guide(school, paid)
    assert found.keys() == wanted.keys() == joined.keys()
    for who, (total, completed, rating, _) in wanted.items():
        assert figures(found[who]) == pytest.approx((total, completed, rating, paid.earned[who]))
        payouts = paid.standing[who]
        rows = max(total, 1)
        assert joined[who][:2] == (total * max(len(payouts), 1), completed * max(len(payouts), 1))
        # Alike copies leave a mean as it is.
        assert joined[who][2] == pytest.approx(rating)
        assert joined[who][3] == (sum(payouts) * rows if payouts else None)
    assert sum(total for total, *_ in wanted.values()) < sum(row[0] for row in joined.values())


async def test_every_status_and_both_currencies_are_among_what_is_counted(school: School) -> None:
    """Or the test above would prove less than it says."""
    work(school, random.Random(0))
    query = 'SELECT DISTINCT status FROM booking."Booking" WHERE "orgId" = %s'
    statuses = {status for (status,) in await school.rows(query, school.org_id)}
    names = (each.name for each in pb.BookingStatus.DESCRIPTOR.values if each.number)
    assert statuses == {name.removeprefix("BOOKING_STATUS_").lower() for name in names}
    lessons = 'SELECT count(rating) > 0, count(*) > count(rating) FROM booking."Lesson"'
    assert await school.rows(f'{lessons} WHERE "orgId" = %s', school.org_id) == [(True, True)]
