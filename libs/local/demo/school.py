"""Who and what the demo school has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.date_pb2 import Date

from driveflow.booking.v1 import directory_pb2 as pb
from driveflow.booking.v1.directory_pb2_grpc import DirectoryServiceStub

ZONE = ZoneInfo("Australia/Sydney")
NAME = "Harbour Driving School"
NOTICE_MINUTES = 120
HOLD_MINUTES = 1_440
"""What waits is there to be looked at for a day."""
CLOSED_AFTER_DAYS = 9
SUNDAY = 0
WEEK = range(7)
INSTRUCTORS = ("Mia Chen", "Omar Haddad", "Ruth Novak")
STUDENTS = (
    "Ava Wilson", "Ben Nguyen", "Chloe Martin", "Dev Patel", "Ella Rossi", "Finn O'Brien",
    "Grace Kim", "Hugo Silva",
)  # fmt: skip
VEHICLES = (("Corolla", pb.TRANSMISSION_AUTOMATIC), ("i30", pb.TRANSMISSION_MANUAL))


@dataclass(frozen=True, slots=True)
class School:
    """What lessons are made of."""

    today: date
    closed: date
    """A working day on which nobody works."""
    instructors: list[pb.Instructor]
    """Two who work by day, and one who works around the clock."""
    students: list[pb.Student]
    vehicles: list[pb.Vehicle]
    lesson: pb.Service
    """An hour."""
    long_lesson: pb.Service
    """An hour and a half."""


async def found(operator: DirectoryServiceStub) -> str:
    """Make the school; its id is made by booking."""
    wanted = pb.Organization(
        name=NAME, time_zone=ZONE.key, currency="AUD", hold_minutes=HOLD_MINUTES
    )
    return (await operator.CreateOrganization(pb.CreateOrganizationRequest(organization=wanted))).id


async def furnish(stub: DirectoryServiceStub, now: datetime) -> School:
    """Give it all that lessons need; until `set_notice` they may be booked for at once."""
    today = now.astimezone(ZONE).date()
    lesson = await _service(stub, "Lesson 60", 60)
    long_lesson = await _service(stub, "Lesson 90", 90)
    made = School(
        today=today,
        closed=working_day(today + timedelta(days=CLOSED_AFTER_DAYS)),
        instructors=[await _instructor(stub, name) for name in INSTRUCTORS],
        students=[
            await _student(stub, name, today.replace(day=1, year=today.year - 17 - 4 * number))
            for number, name in enumerate(STUDENTS)
        ],
        vehicles=[await _vehicle(stub, label, kind) for label, kind in VEHICLES],
        lesson=lesson,
        long_lesson=long_lesson,
    )
    await _guardian(stub, made.students[0])
    await _prices(stub, today, {lesson.id: 8_000, long_lesson.id: 11_500})
    *by_day, always = made.instructors
    for instructor in by_day:
        await _hours(stub, instructor, 7 * 60, 19 * 60, [day for day in WEEK if day != SUNDAY])
    await _hours(stub, always, 0, 24 * 60, WEEK)
    for instructor in made.instructors:
        await _close(stub, instructor, made.closed)
    await set_notice(stub, 0)
    return made


async def set_notice(stub: DirectoryServiceStub, minutes: int) -> None:
    """How long before its start a lesson must be booked."""
    await stub.UpdateOrganization(
        pb.UpdateOrganizationRequest(
            organization=pb.Organization(notice_minutes=minutes),
            update_mask=FieldMask(paths=["notice_minutes"]),
        )
    )


def working_day(day: date) -> date:
    """The day, or the Monday after a Sunday."""
    return day + timedelta(days=1) if day.isoweekday() == 7 else day


def day_message(day: date) -> Date:
    """A date as the contracts write it."""
    return Date(year=day.year, month=day.month, day=day.day)


async def _instructor(stub: DirectoryServiceStub, name: str) -> pb.Instructor:
    wanted = pb.Instructor(display_name=name, phone="+61 2 5550 0100")
    return await stub.CreateInstructor(pb.CreateInstructorRequest(instructor=wanted))


async def _student(stub: DirectoryServiceStub, name: str, birth: date) -> pb.Student:
    email = f"{name.split(maxsplit=1)[0].lower()}@example.com"
    wanted = pb.Student(full_name=name, email=email, birth_date=day_message(birth))
    return await stub.CreateStudent(pb.CreateStudentRequest(student=wanted))


async def _guardian(stub: DirectoryServiceStub, student: pb.Student) -> None:
    wanted = pb.Guardian(
        student_id=student.id,
        full_name="Zoe Wilson",
        email="zoe@example.com",
        relationship="mother",
    )
    await stub.CreateGuardian(pb.CreateGuardianRequest(guardian=wanted))


async def _service(stub: DirectoryServiceStub, name: str, minutes: int) -> pb.Service:
    wanted = pb.Service(name=name, duration_minutes=minutes)
    return await stub.CreateService(pb.CreateServiceRequest(service=wanted))


async def _vehicle(
    stub: DirectoryServiceStub, label: str, kind: pb.Transmission.ValueType
) -> pb.Vehicle:
    wanted = pb.Vehicle(label=label, transmission=kind)
    return await stub.CreateVehicle(pb.CreateVehicleRequest(vehicle=wanted))


async def _prices(stub: DirectoryServiceStub, today: date, cents: dict[str, int]) -> None:
    items = [pb.RateCardItem(service_id=key, price_cents=price) for key, price in cents.items()]
    card = pb.RateCard(name="Standard", valid_from=day_message(today), items=items)
    await stub.CreateRateCard(pb.CreateRateCardRequest(rate_card=card))


async def _hours(
    stub: DirectoryServiceStub,
    instructor: pb.Instructor,
    opens: int,
    closes: int,
    days: Iterable[int],
) -> None:
    rules = [
        pb.AvailabilityRule(day_of_week=day, start_minute=opens, end_minute=closes) for day in days
    ]
    await stub.SetWeeklyAvailability(
        pb.SetWeeklyAvailabilityRequest(instructor_id=instructor.id, rules=rules)
    )


async def _close(stub: DirectoryServiceStub, instructor: pb.Instructor, day: date) -> None:
    wanted = pb.AvailabilityException(
        instructor_id=instructor.id, date=day_message(day), note="Staff day"
    )
    await stub.CreateAvailabilityException(pb.CreateAvailabilityExceptionRequest(exception=wanted))
