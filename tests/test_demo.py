"""The demo school can be made at any hour of any day."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from driveflow.booking.v1 import booking_pb2, directory_pb2
from driveflow.payments.v1 import payments_pb2
from libs import issuer
from libs.client import Connection
from libs.local import demo
from libs.local.demo.school import ZONE
from libs.local.stripe_fake import StripeFake
from tests import postgres
from tests.booking.serving import Booking
from tests.payments.serving import Payments, town
from tests.postgres import Database
from tests.serving import Tracking
from tests.street import Street
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(frozen=True)
class Services:
    """All three, with a fake of Stripe."""

    booking: Booking
    payments: Payments
    tracking: Tracking
    fake: StripeFake


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def services(
    template: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    folder = tmp_path_factory.mktemp("street")
    with postgres.copied(template) as database:
        street = Street(database, folder)
        async with town(database, folder) as place, AsyncExitStack() as stack:
            place.key, place.booking_port = street.key, street.booking_port
            sources = f"payments=localhost:{place.payments_port}"
            sources += f",tracking=localhost:{street.tracking_port}"
            yield Services(
                await stack.enter_async_context(place.booking(event_sources=sources)),
                await stack.enter_async_context(place.payments()),
                await stack.enter_async_context(street.tracking()),
                place.fake,
            )


async def made(services: Services, now: datetime) -> tuple[demo.Demo, str]:
    """The school as of a moment, and a token of it.

    Payments keeps the real clock: Stripe signs its webhooks by it.
    """
    booking, tracking = services.booking, services.tracking
    booking.clock.set(now)
    tracking.clock.set(now)

    def token_of(org_id: UUID) -> str:
        return booking.token(org_id, issuer.TENANT_SCOPES, "demo")

    access = demo.Access(
        booking.address,
        services.payments.address,
        tracking.address,
        "sk_test_demo",
        services.fake.url,
        booking.ops_token,
        token_of,
    )
    found = await demo.seed(access, now)
    return found, token_of(UUID(found.org_id))


def next_moment(weekday: int, hour: int, minute: int) -> datetime:
    """When the school's clock reads so next; 0 = Monday."""
    today = datetime.now(ZONE).replace(hour=hour, minute=minute, second=58, microsecond=5)
    return (today + timedelta(days=1 + (weekday - today.weekday() - 1) % 7)).astimezone(UTC)


@pytest.mark.parametrize(
    ("weekday", "hour", "minute"),
    [(0, 0, 0), (2, 9, 15), (3, 16, 44), (4, 23, 59), (5, 20, 0), (6, 2, 30)],
)
async def test_at_any_hour_there_is_something_of_everything(
    services: Services, weekday: int, hour: int, minute: int
) -> None:
    _, token = await made(services, next_moment(weekday, hour, minute))
    async with Connection(services.booking.address, token) as connection:
        request = booking_pb2.ListBookingsRequest(page_size=1_000)
        found = (await connection.bookings.ListBookings(request)).bookings
        waiting = await connection.bookings.ListWaitlist(booking_pb2.ListWaitlistRequest())
        cards = await connection.directory.ListRateCards(directory_pb2.ListRateCardsRequest())
    counts = Counter(cut(each) for each in found)
    assert counts["CONFIRMED"] > 40
    assert counts["REQUESTED"] > 10
    assert (counts["HELD"], counts["CANCELLED"], counts["IN_PROGRESS"]) == (3, 1, 1)
    assert counts["COMPLETED"] == 1
    assert len(waiting.waitlist_entries) == 1
    days = {each.start_time.ToDatetime(UTC).astimezone(ZONE).date() for each in found}
    assert (max(days) - min(days)).days >= 13
    assert [card.name for card in cards.rate_cards]
    async with Connection(services.payments.address, token) as connection:
        payments = await connection.payments.ListPayments(payments_pb2.ListPaymentsRequest())
        payouts = await connection.payments.ListPayouts(payments_pb2.ListPayoutsRequest())
    statuses = [payments_pb2.PaymentStatus.Name(each.status) for each in payments.payments]
    assert Counter(status.removeprefix("PAYMENT_STATUS_") for status in statuses) == {
        "SUCCEEDED": 2,
        "PARTIALLY_REFUNDED": 1,
        "FAILED": 1,
        "INTENT_CREATED": 1,
    }
    assert [each.status for each in payouts.payouts] == [payments_pb2.PAYOUT_STATUS_PAID]


def cut(booking: booking_pb2.Booking) -> str:
    return booking_pb2.BookingStatus.Name(booking.status).removeprefix("BOOKING_STATUS_")


async def test_the_lesson_under_way_knows_its_drive(services: Services) -> None:
    found, token = await made(services, datetime.now(UTC))
    async with Connection(services.booking.address, token) as connection:
        request = booking_pb2.GetLessonRequest(lesson_id=found.lesson_id)
        lesson = await eventually(
            lambda: connection.bookings.GetLesson(request), lambda seen: seen.trip_id
        )
    assert 500 < lesson.distance_meters < 3_000


async def test_the_school_ends_up_with_ordinary_rules_and_all_its_people(
    services: Services,
) -> None:
    found, token = await made(services, datetime.now(UTC))
    async with Connection(services.booking.address, token) as connection:
        stub = connection.directory
        org = await stub.GetOrganization(directory_pb2.GetOrganizationRequest())
        people = await stub.ListStudents(directory_pb2.ListStudentsRequest())
        teachers = await stub.ListInstructors(directory_pb2.ListInstructorsRequest())
        figures = await connection.bookings.GetInstructorStats(
            booking_pb2.GetInstructorStatsRequest(instructor_id=found.instructor_id)
        )
    assert (org.id, org.notice_minutes) == (found.org_id, 120)
    assert (len(people.students), len(teachers.instructors)) == (8, 3)
    assert figures.total_bookings > 0
