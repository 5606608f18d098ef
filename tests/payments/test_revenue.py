"""The revenue report, against a count by hand."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from driveflow.payments.v1 import payments_pb2 as pb
from services.payments.model.revenue import BUCKETS_MAX, Bucket, first_moment
from services.payments.store import revenue as store
from tests.libs import eventing
from tests.payments.conftest import Services
from tests.payments.stories import FEE_CENTS, PRICE_CENTS, School, reason_of
from tests.postgres import Database
from tests.serving import at

pytestmark = pytest.mark.asyncio(loop_scope="session")
DAY = timedelta(days=1)
BUCKETS = ["day", "week", "month"]
CAIRO, HAVANA = "Africa/Cairo", "America/Havana"
# In each, clocks change within the time; at midnight in the last two.
ZONES = {
    "Australia/Sydney": datetime(2026, 4, 4, 14, 30, tzinfo=UTC),
    "Europe/Berlin": datetime(2026, 10, 24, 22, 15, tzinfo=UTC),
    "America/New_York": datetime(2026, 3, 7, 5, tzinfo=UTC),
    CAIRO: datetime(2026, 4, 23, 9, tzinfo=UTC),
    HAVANA: datetime(2026, 10, 31, 12, tzinfo=UTC),
}


@dataclass
class Paid:
    """A payment as it was written, for the count."""

    at: datetime
    currency: str
    captured: int
    fee: int
    refunds: list[tuple[int, int]] = field(default_factory=list)


def invented(chance: random.Random, middle: datetime) -> Paid:
    """Mostly around the hours when clocks change, on either side of the range's ends as well."""
    spread = chance.choice([timedelta(hours=4), timedelta(days=20), timedelta(days=80)])
    moment = middle + spread * chance.uniform(-1, 1)
    captured = chance.randrange(1_000, 20_000)
    paid = Paid(
        moment if chance.random() < 0.7 else moment.replace(minute=0, second=0, microsecond=0),
        chance.choice(["AUD", "AUD", "NZD"]),
        captured if chance.random() < 0.8 else 0,
        chance.randrange(captured // 5),
    )
    for _ in range(chance.choice([0, 0, 1, 2, 3]) if paid.captured else 0):
        cents = chance.randrange(4, captured // 4)
        paid.refunds.append((cents, cents // 4))
    return paid


PAYMENT = """
INSERT INTO payments."Payment"
       ("orgId", id, "bookingId", "instructorId", "amountCents", currency, "applicationFeeCents",
        "instructorShareCents", status, "capturedCents", "capturedAt", "createdAt")
VALUES (%s, %s, uuidv7(), uuidv7(), %s, %s, %s, 0, %s, %s, %s, %s)
"""
REFUND = """
INSERT INTO payments."Refund"
       ("orgId", "paymentId", "amountCents", "feeCents", currency, status, cause)
VALUES (%s, %s, %s, %s, %s, %s, 'stripe')
"""


async def write(database: Database, org_id: uuid.UUID, payments: list[Paid]) -> None:
    """With refunds that do not count, or not yet, beside those that do."""
    rows, refunds = [], []
    for each in payments:
        id_, amount, captured = uuid.uuid4(), max(each.captured, each.fee, 1), each.captured
        status, captured_at = ("disputed", each.at) if captured else ("failed", None)
        money = (amount, each.currency, each.fee)
        rows.append((org_id, id_, *money, status, captured, captured_at, each.at))
        made = [(*pair, each.currency, "succeeded") for pair in each.refunds]
        others = [(99, 0, each.currency, "pending"), (77, 0, each.currency, "failed")]
        refunds += [(org_id, id_, *refund) for refund in [*made, *others]]
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as conn:
        await conn.cursor().executemany(PAYMENT, rows)
        await conn.cursor().executemany(REFUND, refunds)


def starts(day: date, bucket: str) -> date:
    if bucket == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if bucket == "month" else day


def counted(
    payments: list[Paid], bucket: str, zone: str, from_at: datetime, to_at: datetime
) -> dict[date, tuple[int, int, int, int]]:
    """By hand: each moment's own date on the wall clock."""
    clock = ZoneInfo(zone)
    sums: dict[date, list[int]] = {}
    moment = from_at
    while moment < to_at:
        sums.setdefault(starts(moment.astimezone(clock).date(), bucket), [0] * 4)
        moment += timedelta(minutes=30)
    for each in payments:
        if from_at <= each.at < to_at and each.currency == "AUD" and each.captured:
            figures = sums[starts(each.at.astimezone(clock).date(), bucket)]
            figures[0] += 1
            figures[1] += each.captured
            figures[2] += sum(cents for cents, _ in each.refunds)
            figures[3] += each.fee - sum(fee for _, fee in each.refunds)
    return {day: (a, b, c, d) for day, (a, b, c, d) in sorted(sums.items())}


@pytest.mark.parametrize("zone", ZONES)
async def test_figures_are_those_of_a_count_by_hand(
    payments_database: Database, tmp_path: Any, zone: str
) -> None:
    chance, org_id = random.Random(zone), uuid.uuid4()
    payments = [invented(chance, ZONES[zone]) for _ in range(150)]
    await write(payments_database, org_id, payments)
    async with eventing.orgs_of("payments", payments_database, tmp_path) as orgs:
        for bucket in BUCKETS * 3:
            middle = ZONES[zone]
            from_at = middle - timedelta(minutes=chance.randrange(80_000))
            to_at = middle + timedelta(minutes=chance.randrange(80_000))
            found = await store.revenue(
                orgs.reader(org_id),
                org_id,
                from_at=from_at,
                to_at=to_at,
                bucket=bucket,
                zone=zone,
                currency="AUD",
            )
            wanted = counted(payments, bucket, zone, from_at, to_at)
            assert by_day(found, zone) == wanted
            assert sum(each[0] for each in wanted.values()) > 0


def by_day(found: list[Bucket], zone: str) -> dict[date, tuple[int, int, int, int]]:
    clock, rows = ZoneInfo(zone), {}
    for each in found:
        figures = (each.payments, each.captured_cents, each.refunded_cents, each.fee_cents)
        rows[each.start_at.astimezone(clock).date()] = figures
    return rows


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Australia/Sydney", date(2026, 4, 5), 25),
        ("Australia/Sydney", date(2026, 10, 4), 23),
        (CAIRO, date(2026, 4, 24), 23),  # which begins at one o'clock
        (HAVANA, date(2026, 11, 1), 25),  # which has two midnights
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
    ],
)
async def test_a_day_is_as_long_as_its_clock_makes_it(zone: str, day: date, hours: float) -> None:
    start = first_moment(day, zone)
    assert first_moment(day + DAY, zone) - start == timedelta(hours=hours)
    clock = ZoneInfo(zone)
    assert start.astimezone(clock).date() == day
    assert (start - timedelta(microseconds=1)).astimezone(clock).date() == day - DAY


# --- the RPC -----------------------------------------------------------------------------------


def asked(start: datetime, end: datetime, **more: Any) -> pb.GetRevenueReportRequest:
    wanted = pb.Period(start_time=at(start), end_time=at(end))
    return pb.GetRevenueReportRequest(range=wanted, **{"currency": "AUD", **more})


async def test_a_report_adds_up_what_was_paid_and_given_back(school: School) -> None:
    first, second = await school.paid(), await school.paid()
    refund = await school.refund(first, 2_000)
    await school.until(first, "PARTIALLY_REFUNDED")
    await school.ask(await school.hold())
    now = datetime.now(UTC)
    report = await school.stub().GetRevenueReport(asked(now - 6 * DAY, now + timedelta(minutes=1)))
    assert refund.amount_cents == 2_000
    assert (report.time_zone, len(report.rows)) == ("Australia/Sydney", 7)
    fee = 2 * FEE_CENTS - 300  # a quarter of a price, so of its fee
    captured = first.captured_cents + second.captured_cents
    wanted = (2, captured, 2_000, fee, captured - 2_000 - fee)
    assert figures(report.total) == figures(report.rows[-1]) == wanted
    assert captured == 2 * PRICE_CENTS
    assert {figures(each) for each in report.rows[:-1]} == {(0, 0, 0, 0, 0)}
    assert report.total.start_time == at(now - 6 * DAY)


def figures(row: pb.RevenueRow) -> tuple[int, ...]:
    return (
        row.payments,
        row.captured_cents,
        row.refunded_cents,
        row.fee_cents,
        row.net_cents,
    )


async def test_other_currencies_are_never_added_to_it(school: School) -> None:
    await school.paid()
    now = datetime.now(UTC)
    request = asked(now - DAY, now + timedelta(minutes=1), currency="NZD")
    assert figures((await school.stub().GetRevenueReport(request)).total) == (0, 0, 0, 0, 0)


async def test_buckets_begin_at_the_schools_midnight_monday_and_first(school: School) -> None:
    start, end = datetime(2026, 9, 28, 12, tzinfo=UTC), datetime(2026, 10, 12, tzinfo=UTC)
    begins: dict[int, list[datetime]] = defaultdict(list)
    kinds = (pb.REVENUE_BUCKET_UNSPECIFIED, pb.REVENUE_BUCKET_WEEK, pb.REVENUE_BUCKET_MONTH)
    for kind in kinds:
        report = await school.stub().GetRevenueReport(asked(start, end, bucket=kind))
        begins[kind] = [each.start_time.ToDatetime(UTC) for each in report.rows]
    clock = ZoneInfo("Australia/Sydney")
    weeks = [each.astimezone(clock) for each in begins[pb.REVENUE_BUCKET_WEEK]]
    assert [f"{each:%a %d %H:%M}" for each in weeks] == [
        "Mon 28 00:00",
        "Mon 05 00:00",
        "Mon 12 00:00",
    ]
    assert weeks[1] - weeks[0] == timedelta(days=7)  # on the wall clock
    assert begins[pb.REVENUE_BUCKET_WEEK][1] - begins[pb.REVENUE_BUCKET_WEEK][0] == timedelta(
        hours=7 * 24 - 1
    )
    days = begins[pb.REVENUE_BUCKET_UNSPECIFIED]
    assert (len(days), days[6]) == (15, datetime(2026, 10, 3, 14, tzinfo=UTC))
    assert len(begins[pb.REVENUE_BUCKET_MONTH]) == 2


@pytest.mark.parametrize(
    ("bucket", "longest"),
    [
        (pb.REVENUE_BUCKET_DAY, timedelta(days=BUCKETS_MAX)),
        (pb.REVENUE_BUCKET_WEEK, timedelta(weeks=BUCKETS_MAX)),
    ],
)
async def test_a_report_has_at_most_1100_buckets(
    school: School, bucket: pb.RevenueBucket.ValueType, longest: timedelta
) -> None:
    start = first_moment(date(2024, 7, 1), "Australia/Sydney")  # a Monday
    end = (start.astimezone(ZoneInfo("Australia/Sydney")) + longest).astimezone(UTC)
    report = await school.stub().GetRevenueReport(asked(start, end, bucket=bucket))
    assert len(report.rows) == BUCKETS_MAX
    over = asked(start, end + timedelta(microseconds=1), bucket=bucket)
    answer = await reason_of(school.stub().GetRevenueReport(over))
    assert answer == ("INVALID_ARGUMENT", "REPORT_TOO_LONG")


async def test_a_range_that_cant_be_reported_is_refused(school: School) -> None:
    now, month = datetime.now(UTC), pb.REVENUE_BUCKET_MONTH
    ends = {
        "END_BEFORE_START": asked(now, now),
        "REPORT_TOO_LONG": asked(now.replace(year=1910), now.replace(year=2010), bucket=month),
        "INVALID_VALUE": asked(datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)),
    }
    for reason, request in ends.items():
        answer = await reason_of(school.stub().GetRevenueReport(request))
        assert answer == ("INVALID_ARGUMENT", reason)


async def test_without_the_schools_zone_there_is_no_report(
    school: School, services: Services
) -> None:
    stranger = services.payments.payments(services.payments.token(uuid.uuid4()))
    now = datetime.now(UTC)
    answer = await reason_of(stranger.GetRevenueReport(asked(now - DAY, now)))
    assert answer == ("NOT_FOUND", "ORG_NOT_FOUND")
