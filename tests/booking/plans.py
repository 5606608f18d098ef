"""The statements that booking's RPCs send, and how PostgreSQL answers them over many schools.

`fill` makes the schools, `STATEMENTS` is what the store sends, each with the indexes that are there
for it, and `login` connects as the service does, under row security.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from libs.scoped import Sent
from services.booking import zones
from services.booking.model.placing import Parties
from services.booking.model.slots import Judged, Wanted
from services.booking.store import (
    audit,
    bookings,
    directory,
    earnings,
    hours,
    life,
    placing,
    slots,
    stats,
    waitlist,
)
from services.booking.store.bookings import LIST_PATHS, Filter
from tests import explaining
from tests.explaining import Ask
from tests.postgres import Database

NOW = datetime(2026, 6, 3, 2, tzinfo=UTC)
ZONE = "Australia/Sydney"
TODAY, FRIDAY = date(2026, 6, 3), date(2026, 6, 5)
INSTRUCTORS, STUDENTS = 10, 100
"""Of each school."""
MANY_SCHOOLS = Path(__file__).with_name("many_schools.sql")
# The guide's indexes on booking's tables, in its order.
GUIDE = (
    "idx_booking_org_start",
    "idx_instructor_org_active",
    "idx_student_org_name",
    "idx_booking_instructor_start",
    "idx_availability_instructor_day",
    "idx_booking_student_start",
    "idx_availability_instructor_effective",
    "idx_availability_exception_instructor_date",
    "idx_audit_org_entity",
    "idx_audit_actor_created",
    "idx_booking_status_org_date",
    "idx_instructor_stats_org",
)
FIRST_ID, LAST_ID = uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)
LIMIT = 51


@dataclass(frozen=True)
class Statement:
    """A statement of an RPC, and the indexes that are there for it."""

    rpc: str
    name: str
    sent: Sent
    indexes: dict[str, list[str]]
    """To each belong the columns by which it must be entered."""
    generic_only: bool = False
    """Planned for its very values it may do as well by another index."""

    def __str__(self) -> str:
        return f"{self.rpc}.{self.name}"


# --- the schools -------------------------------------------------------------------------------


def made_id(kind: str, school: int, number: int) -> uuid.UUID:
    """The id that `fill` gives."""
    return uuid.UUID(f"{kind}000000-0000-7000-8000-{school:06x}{number:06x}")


SCHOOL = 7
ORG = made_id("0a", SCHOOL, 0)
INSTRUCTOR = made_id("0b", SCHOOL, 3)
SERVICE = made_id("0c", SCHOOL, 0)
VEHICLE = made_id("0d", SCHOOL, 3)
STUDENT = made_id("0e", SCHOOL, 42)


def fill(database: Database, schools: int, bookings_of_each: int, timeout_s: float = 60) -> None:
    """Schools with so many bookings each, and statistics of them; no statement takes longer."""
    parameters = {
        "schools": schools,
        "instructors": INSTRUCTORS,
        "students": STUDENTS,
        "each": bookings_of_each // INSTRUCTORS,
        "now": NOW,
    }
    with psycopg.connect(
        database.admin_dsn, autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as admin:
        admin.execute(f"SET statement_timeout = '{timeout_s:.0f}s'")
        admin.execute(MANY_SCHOOLS.read_bytes(), parameters)
        admin.execute("REFRESH MATERIALIZED VIEW booking.instructor_stats")
        admin.execute("VACUUM ANALYZE")


def login(database: Database) -> psycopg.Connection:
    """The service's connection, on behalf of one of the schools."""
    return explaining.login(database, "booking", ORG)


# --- the statements ----------------------------------------------------------------------------


def _statements() -> Iterator[Statement]:
    everywhere = (_bookings, _people, _calendar, _slots, _placing, _waitlist, _audit, _stats)
    for asks in (*everywhere, _payments, _generic_only):
        for rpc, ask, indexes in asks():
            sent = explaining.sent(ask)
            name = re.findall(rb"/\* booking\.(\w+) \*/", sent.statement.text)[0].decode()
            entered = {index: columns.split() for index, columns in indexes.items()}
            yield Statement(rpc, name, sent, entered, generic_only=asks is _generic_only)


Asked = Iterator[tuple[str, Ask, dict[str, str]]]
WEEK: dict[str, Any] = {
    "start_from": NOW - timedelta(days=2),
    "before": (NOW + timedelta(days=5), FIRST_ID),
}
WITH_NAMES = (*LIST_PATHS, "student.full_name", "instructor.display_name", "service.name")
BY_ORG = {"idx_booking_org_start": "orgId startAt"}


def _page(store: Any, paths: tuple[str, ...] = LIST_PATHS, **of: Any) -> Ask:
    return lambda c: store(c, ORG, Filter(**of), LIMIT, paths)


def _bookings() -> Asked:
    rpc = "ListBookings"
    yield rpc, _page(bookings.list_bookings, **WEEK), BY_ORG
    yield rpc, _page(bookings.list_bookings, WITH_NAMES), BY_ORG
    by_status = {"idx_booking_status_org_date": "status orgId startAt"}
    with_status = partial(_page, bookings.list_bookings_with_status, **WEEK)
    yield rpc, with_status(status="confirmed"), by_status
    yield rpc, with_status(status="held"), by_status
    by_instructor = {"idx_booking_instructor_start": "instructorId startAt"}
    of_instructor = partial(
        _page, bookings.list_bookings_of_instructor, instructor_id=INSTRUCTOR, **WEEK
    )
    yield rpc, of_instructor(), by_instructor
    yield rpc, of_instructor(status="confirmed"), by_instructor
    by_student = {"idx_booking_student_start": "studentId startAt"}
    of_student = partial(_page, bookings.list_bookings_of_student, student_id=STUDENT)
    yield rpc, of_student(), by_student
    yield rpc, of_student(instructor_id=INSTRUCTOR, status="completed"), by_student


def _generic_only() -> Asked:
    # Or each active instructor's bookings by idx_booking_instructor_start.
    active = _page(bookings.list_bookings, WITH_NAMES, active_instructors_only=True, **WEEK)
    yield "ListBookings", active, BY_ORG
    # Or a day of each of the eight statuses by idx_booking_status_org_date.
    day = zones.day(ZONE, TODAY)
    yield "ListDaySchedule", lambda c: bookings.list_day_schedule(c, ORG, *day), BY_ORG


def _people() -> Asked:
    yield (
        "ListStudents",
        lambda c: directory.list_students(
            c, ORG, after=("", FIRST_ID), limit=LIMIT, paths=directory.STUDENT_LIST_PATHS
        ),
        {"idx_student_org_name": "orgId"},
    )
    yield (
        "ListStudents",
        lambda c: directory.list_students(
            c, ORG, after=("c", FIRST_ID), limit=LIMIT, paths=directory.STUDENT_LIST_PATHS
        ),
        {"idx_student_org_name": "orgId fullName"},
    )
    yield (
        "ListStudents",
        lambda c: directory.list_students_by_prefix(
            c, ORG, "C4", after=("", FIRST_ID), limit=LIMIT, paths=directory.STUDENT_LIST_PATHS
        ),
        {"idx_student_org_name_key": "orgId nameKey"},
    )
    yield (
        "ListInstructors",
        lambda c: directory.list_instructors_by_active(
            c, ORG, active=True, before_id=LAST_ID, limit=LIMIT, paths=()
        ),
        {"idx_instructor_org_active": "orgId active"},
    )


def _calendar() -> Asked:
    by_date = {"idx_availability_instructor_effective": "instructorId effectiveFrom"}
    yield "SetWeeklyAvailability", lambda c: hours.delete_rules(c, ORG, INSTRUCTOR, TODAY), by_date
    # All that an instructor has, or nearly: by either of the two indexes.
    yield "GetAvailability", lambda c: hours.list_rules(c, ORG, INSTRUCTOR, TODAY), {}
    yield "SetWeeklyAvailability", lambda c: hours.end_rules(c, ORG, INSTRUCTOR, TODAY), {}
    yield (
        "ListAvailabilityExceptions",
        lambda c: hours.list_exceptions(
            c,
            ORG,
            INSTRUCTOR,
            within=(TODAY, TODAY + timedelta(days=90)),
            after=(date.min, -1),
            limit=LIMIT,
        ),
        {"idx_availability_exception_instructor_date": "instructorId date"},
    )


def _slots() -> Asked:
    by_hours = {
        "idx_booking_instructor_start": "instructorId startAt",
        "idx_availability_instructor_day": "instructorId dayOfWeek",
        "idx_availability_exception_instructor_date": "instructorId date",
    }
    week = (NOW, NOW + timedelta(days=7))

    def search(instructor_id: uuid.UUID | None) -> Ask:
        return lambda c: slots.search_slots(
            c,
            ORG,
            service_id=SERVICE,
            instructor_id=instructor_id,
            from_at=week[0],
            to_at=week[1],
            now=NOW,
            zone=zones.periods(ZONE, week[0], week[1] + timedelta(hours=12)),
            after=(week[0], FIRST_ID),
            limit=LIMIT,
        )

    yield "SearchSlots", search(None), by_hours
    yield "SearchSlots", search(INSTRUCTOR), by_hours
    at = NOW + timedelta(days=2, hours=1)
    wanted = Wanted(
        student_id=STUDENT,
        instructor_id=INSTRUCTOR,
        service_id=SERVICE,
        vehicle_id=VEHICLE,
        start_at=at,
    )
    zone = zones.periods(ZONE, at, at + timedelta(hours=12))

    def judge(times: int) -> Ask:
        return lambda c: slots.judge_starts(c, ORG, [(wanted, FRIDAY)] * times, now=NOW, zone=zone)

    judged = by_hours | {
        "idx_booking_student_start": "studentId startAt",
        "idx_booking_vehicle_start": "vehicleId startAt",
        "idx_booking_waiting": "orgId holdExpiresAt",
    }
    yield "CreateBooking", judge(1), judged
    yield "BatchCreateBookings", judge(50), judged
    fortnight = (at - timedelta(days=14), at + timedelta(days=14))
    yield (
        "CreateBooking",
        lambda c: slots.nearest_slots(
            c,
            ORG,
            wanted=wanted,
            judged=_judged(),
            from_at=fortnight[0],
            to_at=fortnight[1],
            now=NOW,
            zone=zones.periods(ZONE, *fortnight),
        ),
        by_hours
        | {
            "idx_booking_student_start": "studentId startAt",
            "idx_booking_vehicle_start": "vehicleId startAt",
        },
    )
    yield (
        "ExplainAvailability",
        lambda c: slots.explain_hours(c, ORG, INSTRUCTOR, FRIDAY),
        {
            "idx_availability_instructor_day": "instructorId dayOfWeek",
            "idx_availability_exception_instructor_date": "instructorId date",
        },
    )
    yield (
        "ExplainAvailability",
        lambda c: slots.bookings_in_the_way(c, ORG, INSTRUCTOR, at, at + timedelta(hours=1), NOW),
        {"idx_booking_instructor_start": "instructorId startAt"},
    )


def _judged() -> Judged:
    """Facts of a lesson of an hour with buffers: what else they say decides nothing here."""
    values: dict[str, Any] = {each.name: 0 for each in fields(Judged)}
    values |= {"duration_min": 60, "buffer_before_min": 15, "slot_step_min": 15}
    return Judged(**values)


def _placing() -> Asked:
    by_expiry = {"idx_booking_waiting": "orgId holdExpiresAt"}
    parties = Parties([INSTRUCTOR], [VEHICLE], [STUDENT])
    yield "CreateBooking", lambda c: placing.expire_overdue(c, ORG, parties, NOW), by_expiry
    yield "(sweep)", lambda c: placing.expire_holds(c, ORG, NOW, 100), by_expiry


def _waitlist() -> Asked:
    by_status = {"idx_waitlist_entry_status": "orgId status"}
    yield (
        "(sweep)",
        lambda c: waitlist.work_of_sweep(c, ORG, NOW),
        by_status | {"idx_booking_waiting": "orgId holdExpiresAt"},
    )
    yield "(sweep)", lambda c: waitlist.lapse_waitlist(c, ORG, NOW), by_status
    waiting = partial(waitlist.find_waiting, org_id=ORG, after_id=FIRST_ID, limit=LIMIT)
    yield "(sweep)", waiting, {"idx_waitlist_entry_status": "orgId status id"}
    yield (
        "ListWaitlist",
        lambda c: waitlist.list_waitlist_with_status(
            c, ORG, "waiting", after_id=FIRST_ID, limit=LIMIT
        ),
        {"idx_waitlist_entry_status": "orgId status id"},
    )


def _audit() -> Asked:
    def page(store: Any, **of: str | None) -> Ask:
        every: dict[str, Any] = {"entity_type": None, "entity_id": None, "actor_user_id": None}
        return lambda c: store(c, ORG, audit.Filter(**(every | of)), LIMIT)

    entity = page(audit.list_audit_entries_of_entity, entity_type="booking", entity_id=str(LAST_ID))
    yield "ListAuditEntries", entity, {"idx_audit_org_entity": "orgId entityType entityId"}
    actor = page(audit.list_audit_entries_of_actor, actor_user_id=f"staff-{str(ORG)[-12:]}-3")
    yield "ListAuditEntries", actor, {"idx_audit_actor_created": "actorUserId createdAt"}
    yield "ListAuditEntries", page(audit.list_audit_entries), {"audit_log_pkey": "orgId id"}


def _stats() -> Asked:
    by_org = {"idx_instructor_stats_org": "orgId instructorId"}
    yield "GetInstructorStats", lambda c: stats.get_instructor_stats(c, ORG, INSTRUCTOR), by_org
    yield (
        "ListInstructorStats",
        lambda c: stats.list_instructor_stats(c, ORG, after_id=FIRST_ID, limit=LIMIT),
        by_org,
    )


def _payments() -> Asked:
    yield (
        "(payments)",
        lambda c: life.lock_booking(c, ORG, LAST_ID),
        {"booking_pkey": "orgId id"},
    )
    yield (
        "(payments)",
        lambda c: earnings.add_earning(c, ORG, INSTRUCTOR, 6_800, "AUD"),
        {"instructor_pkey": "orgId id"},
    )


STATEMENTS = tuple(_statements())
