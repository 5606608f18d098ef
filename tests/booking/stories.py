"""What stories about a school are told with: the school, its people, and what it refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date

from driveflow.booking.v1 import directory_pb2 as pb
from driveflow.booking.v1.booking_pb2_grpc import BookingServiceStub
from driveflow.booking.v1.directory_pb2_grpc import DirectoryServiceStub
from libs import issuer
from libs.client import Connection
from tests.booking.serving import Booking
from tests.tracking.stories import refused, rows

__all__ = ["School", "at", "morning", "on", "refused"]

ZONE = "Australia/Sydney"
OPENS, CLOSES = 8 * 60, 20 * 60
"""Minutes of the day between which instructors work, Sunday to Saturday."""
PRICE_CENTS = 8_000
SCOPES = (*issuer.TENANT_SCOPES, *issuer.OPS_SCOPES)


@dataclass
class School:
    """A school that nobody else has; a furnished one has all that a booking needs."""

    service: Booking
    org: pb.Organization
    instructors: list[pb.Instructor] = field(default_factory=list)
    students: list[pb.Student] = field(default_factory=list)
    vehicle: pb.Vehicle = field(default_factory=pb.Vehicle)
    lesson: pb.Service = field(default_factory=pb.Service)
    """Lesson 60: an hour for 8,000 minor units, without buffers of its own."""
    rate_card: pb.RateCard = field(default_factory=pb.RateCard)
    connections: dict[tuple[str, tuple[str, ...]], Connection] = field(default_factory=dict)
    """One for each who speaks: to open one takes longer than most calls."""

    @classmethod
    async def founded(cls, service: Booking, zone: str = ZONE, **settings: Any) -> School:
        """A school with nothing in it."""
        wanted = pb.Organization(name="Gear Up", time_zone=zone, **settings)
        operator = service.directory(service.ops_token)
        request = pb.CreateOrganizationRequest(organization=wanted)
        return cls(service, await operator.CreateOrganization(request))

    @classmethod
    async def furnished(
        cls, service: Booking, zone: str = ZONE, *, instructors: int = 2, students: int = 3
    ) -> School:
        """A school with all that a booking needs. Its travel buffer is 15 minutes."""
        school = await cls.founded(service, zone)
        school.vehicle = await school.add_vehicle("Yaris")
        school.lesson = await school.add_lesson("Lesson 60", 60)
        school.rate_card = await school.set_price(school.lesson, PRICE_CENTS)
        for number in range(instructors):
            instructor = await school.add_instructor(f"Instructor {number + 1}")
            await school.set_hours(instructor)
            school.instructors.append(instructor)
        for number in range(students):
            school.students.append(await school.add_student(f"Student {number + 1}"))
        return school

    # --- who speaks to the service ---

    @property
    def org_id(self) -> UUID:
        return UUID(self.org.id)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.org.time_zone)

    def token(self, subject: str = "office", scopes: tuple[str, ...] = SCOPES) -> str:
        """A token of someone of the school; operators of the platform may be among them."""
        return self.service.token(self.org_id, scopes, subject)

    def directory(
        self, subject: str = "office", scopes: tuple[str, ...] = SCOPES
    ) -> DirectoryServiceStub:
        """DirectoryService as someone of the school calls it."""
        return self._connected(subject, scopes).directory

    def bookings(
        self, subject: str = "office", scopes: tuple[str, ...] = SCOPES
    ) -> BookingServiceStub:
        """BookingService as someone of the school calls it."""
        return self._connected(subject, scopes).bookings

    def _connected(self, subject: str, scopes: tuple[str, ...]) -> Connection:
        key = (subject, scopes)
        if key not in self.connections:
            self.connections[key] = self.service.connect(self.token(subject, scopes))
        return self.connections[key]

    async def neighbour(self) -> School:
        """Another furnished school on the same service."""
        return await School.furnished(self.service)

    # --- what it has ---

    async def add_instructor(self, name: str = "Ina", **given: Any) -> pb.Instructor:
        wanted = pb.Instructor(display_name=name, **given)
        return await self.directory().CreateInstructor(
            pb.CreateInstructorRequest(instructor=wanted)
        )

    async def add_student(self, name: str = "Sam", **given: Any) -> pb.Student:
        wanted = pb.Student(full_name=name, **given)
        return await self.directory().CreateStudent(pb.CreateStudentRequest(student=wanted))

    async def add_guardian(
        self, student: pb.Student, name: str = "Gus", **given: Any
    ) -> pb.Guardian:
        wanted = pb.Guardian(student_id=student.id, full_name=name, **given)
        return await self.directory().CreateGuardian(pb.CreateGuardianRequest(guardian=wanted))

    async def add_vehicle(self, label: str = "Corolla", **given: Any) -> pb.Vehicle:
        wanted = pb.Vehicle(label=label, **given)
        return await self.directory().CreateVehicle(pb.CreateVehicleRequest(vehicle=wanted))

    async def add_lesson(self, name: str, minutes: int, **given: Any) -> pb.Service:
        """A lesson type."""
        wanted = pb.Service(name=name, duration_minutes=minutes, **given)
        return await self.directory().CreateService(pb.CreateServiceRequest(service=wanted))

    async def set_price(
        self,
        lesson: pb.Service,
        cents: int,
        start: date = date(2020, 1, 1),
        end: date | None = None,
    ) -> pb.RateCard:
        """A rate card with one price, open unless it has an end."""
        card = pb.RateCard(
            name=f"From {start}",
            valid_from=on(start),
            valid_to=None if end is None else on(end),
            items=[pb.RateCardItem(service_id=lesson.id, price_cents=cents)],
        )
        return await self.directory().CreateRateCard(pb.CreateRateCardRequest(rate_card=card))

    async def set_hours(
        self,
        instructor: pb.Instructor,
        opens: int = OPENS,
        closes: int = CLOSES,
        days: Sequence[int] = range(7),
        start: date = date(2020, 1, 1),
    ) -> pb.WeeklyAvailability:
        """Hours of these weekdays (0 = Sunday), minutes of the day; on others none."""
        rules = [
            pb.AvailabilityRule(day_of_week=day, start_minute=opens, end_minute=closes)
            for day in days
        ]
        return await self.directory().SetWeeklyAvailability(
            pb.SetWeeklyAvailabilityRequest(
                instructor_id=instructor.id, rules=rules, effective_from=on(start)
            )
        )

    async def suspend(self) -> pb.Organization:
        request = pb.SuspendOrganizationRequest(reason="unpaid")
        return await self.directory("operator").SuspendOrganization(request)

    # --- what the database says, asked past the service ---

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query returns, for a superuser; tables need their schema's name."""
        return await rows(self.service.database.admin_dsn, query, *values)

    async def audit(self, kind: str, id: str) -> list[tuple[Any, ...]]:  # noqa: A002
        """Actor, action, before and after of the audit entries about a thing, oldest first."""
        return await self.rows(
            'SELECT "actorUserId", action, before, after FROM booking."AuditLog"'
            ' WHERE "orgId" = %s AND "entityType" = %s AND "entityId" = %s ORDER BY id',
            self.org_id,
            kind,
            id,
        )

    async def events(self, *topics: str) -> list[tuple[Any, ...]]:
        """Type, aggregate id, its version and the payload of the school's events, in order."""
        return await self.rows(
            'SELECT type, "aggregateId"::text, "aggregateVersion", payload FROM booking."Outbox"'
            ' WHERE "orgId" = %s AND topic = ANY (%s) ORDER BY "xactId", id',
            self.org_id,
            list(topics),
        )

    def local(self, day: date, minute: int) -> datetime:
        """The moment at which the school's clock reads a minute of a day."""
        wall = datetime.combine(day, datetime.min.time()) + timedelta(minutes=minute)
        return wall.replace(tzinfo=self.zone).astimezone(UTC)

    def today(self) -> date:
        """The date on the school's calendar."""
        return self.service.clock().astimezone(self.zone).date()


def morning(school: School, days_ahead: int = 3, hour: int = 10) -> datetime:
    """So many days ahead at that hour of the school's clock, within the hours of its people."""
    return school.local(school.today() + timedelta(days=days_ahead), hour * 60)


def on(day: date) -> Date:
    return Date(year=day.year, month=day.month, day=day.day)


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def request_id() -> str:
    return str(uuid4())


async def reason_of(call: Awaitable[object]) -> tuple[str, str]:
    """Code and reason with which a call is refused."""
    refusal = await refused(call)
    return refusal.code.name, refusal.reason
