"""The directory: a school, its people, lesson types and vehicles. No I/O.

A field that was not fetched has its default.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from libs.errors import FailedPrecondition, InvalidArgument, NotFound, not_found
from services.booking.model.bookings import CancellationPolicy, etag_mismatch

UNSAVED = uuid.UUID(int=0)
"""The id of what the database has not made yet."""
GUARDIANS_MAX = 20
ERASED_NAME = "Erased student"
LAST_CHARACTER = "\U0010ffff"
SLOT_STEP_DEFAULT = 15
# A name without a slash may be an abbreviation to PostgreSQL, of another offset.
_ZONE = re.compile(r"(?!posix/|right/|SystemV/)[A-Za-z]\w*(/[\w+-]+)+|UTC", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}")
Wrong = tuple[str, str]
"""A path in the request, and what is wrong there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What the directory holds, as versions that change."""

    KIND: ClassVar[str]
    """As in audit entries, errors and the cache."""

    id: uuid.UUID = UNSAVED
    version: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None

    def check(self) -> None:
        """Raise InvalidArgument naming every field that can't be so."""
        wrong = list(self.wrong())
        if wrong:
            sentence = "; ".join(f"{path}: {what}" for path, what in wrong)
            raise InvalidArgument("INVALID_REQUEST", sentence, fields=wrong)

    def wrong(self) -> Iterator[Wrong]:
        """What the rules of single fields in the contract can't say."""
        yield from ()

    def check_etag(self, etag: str) -> None:
        """Raise Aborted when the caller has seen another version."""
        if etag and etag != str(self.version):
            raise etag_mismatch()

    def check_changeable(self) -> None:
        """Raise FailedPrecondition when nothing about it may change any more."""

    def values(self) -> dict[str, Any]:
        """For the audit log: what a caller gave, in JSON types."""
        kept = {field.name for field in fields(Entity)}
        return {
            field.name: _json(getattr(self, field.name))
            for field in fields(self)
            if field.name not in kept
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Org(Entity):
    """A school and its settings."""

    KIND = "org"

    name: str
    time_zone: str
    currency: str
    platform_fee_bps: int
    hold_minutes: int
    notice_minutes: int
    travel_buffer_minutes: int
    no_show_grace_minutes: int
    full_refund_hours: int
    partial_refund_hours: int
    partial_refund_percent: int
    suspended_at: datetime | None = None

    @property
    def policy(self) -> CancellationPolicy:
        """What a cancelled booking gives back."""
        return CancellationPolicy(
            self.full_refund_hours, self.partial_refund_hours, self.partial_refund_percent
        )

    def wrong(self) -> Iterator[Wrong]:
        yield from _name("organization.name", self.name, 200)
        if self.hold_minutes < 1:
            yield "organization.hold_minutes", "1 to 1,440"
        if self.partial_refund_hours > self.full_refund_hours:
            path = "organization.cancellation_policy.partial_refund_hours"
            yield path, "above full_refund_hours"

    def check_changeable(self) -> None:
        if self.suspended_at is not None:
            raise FailedPrecondition("ORG_SUSPENDED", "The school is suspended.")

    def check_time_zone(self) -> None:
        """Raise InvalidArgument unless Python knows the zone by this very name."""
        if not _ZONE.fullmatch(self.time_zone):
            raise time_zone_unknown()
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise time_zone_unknown() from None

    def check_currency(self) -> None:
        """Raise InvalidArgument unless it has the form of ISO 4217."""
        if not _CURRENCY.fullmatch(self.currency):
            raise InvalidArgument(
                "CURRENCY_INVALID",
                "The currency is not a code of ISO 4217, such as AUD.",
                fields=[("organization.currency", "three capital letters are wanted")],
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructor(Entity):
    """A driving instructor."""

    KIND = "instructor"

    display_name: str = ""
    phone: str = ""
    license_id: str = ""
    active: bool = False
    stripe_account_id: str = ""
    travel_buffer_minutes: int | None = None

    def wrong(self) -> Iterator[Wrong]:
        yield from _name("instructor.display_name", self.display_name, 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Student(Entity):
    """A student; what names one goes when the student is erased."""

    KIND = "student"

    full_name: str = ""
    phone: str = ""
    email: str = ""
    birth_date: date | None = None
    notes: str = ""
    erased_at: datetime | None = None

    def wrong(self) -> Iterator[Wrong]:
        yield from _name("student.full_name", self.full_name, 200)

    def check_changeable(self) -> None:
        if self.erased_at is not None:
            raise student_erased()

    def values(self) -> dict[str, Any]:
        given = Entity.values(self)
        given.pop("erased_at")
        return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Entity):
    """A lesson type."""

    KIND = "service"

    name: str = ""
    duration_minutes: int = 0
    buffer_before_minutes: int = 0
    buffer_after_minutes: int = 0
    slot_step_minutes: int = 0
    active: bool = False

    def wrong(self) -> Iterator[Wrong]:
        yield from _name("service.name", self.name, 200)
        if self.duration_minutes < 5:
            yield "service.duration_minutes", "5 to 720"
        if self.slot_step_minutes < 5:
            yield "service.slot_step_minutes", "5, 10, 15, 20, 30 or 60"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle(Entity):
    """A car of the school."""

    KIND = "vehicle"

    label: str = ""
    transmission: str | None = None
    active: bool = False

    def wrong(self) -> Iterator[Wrong]:
        yield from _name("vehicle.label", self.label, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardian:
    """Someone who answers for a student."""

    id: uuid.UUID = UNSAVED
    student_id: uuid.UUID
    full_name: str
    phone: str = ""
    email: str = ""
    relationship: str = ""
    created_at: datetime | None = None

    def values(self) -> dict[str, Any]:
        """For the audit log; student_id is how the entry is found when the student is erased."""
        names = ("student_id", "full_name", "phone", "email", "relationship")
        return {name: _json(getattr(self, name)) for name in names}


def check_prefix(prefix: str) -> None:
    """Raise InvalidArgument for what no name can begin with."""
    if "\0" in prefix or LAST_CHARACTER in prefix:
        raise InvalidArgument(
            "INVALID_REQUEST",
            "name_prefix: has a character that no name has.",
            fields=[("name_prefix", "has a character that no name has")],
        )


def org_not_found(org_id: uuid.UUID) -> NotFound:
    return not_found("org", org_id)


def time_zone_unknown() -> InvalidArgument:
    return InvalidArgument(
        "TIME_ZONE_UNKNOWN",
        "No such time zone; IANA names such as Australia/Sydney are known.",
        fields=[("organization.time_zone", "not the name of a zone, such as Australia/Sydney")],
    )


def currency_fixed() -> InvalidArgument:
    return InvalidArgument(
        "INVALID_REQUEST",
        "organization.currency: fixed when the school was made.",
        fields=[("organization.currency", "fixed when the school was made")],
    )


def student_erased() -> FailedPrecondition:
    return FailedPrecondition("STUDENT_ERASED", "The student was erased.")


def too_many_guardians() -> FailedPrecondition:
    return FailedPrecondition(
        "TOO_MANY_GUARDIANS", f"The student has {GUARDIANS_MAX} guardians: remove one first."
    )


def _name(path: str, name: str, longest: int) -> Iterator[Wrong]:
    if not name:
        yield path, f"1 to {longest} characters"


def _json(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, uuid.UUID) else value
