"""What decides whether a lesson can start at a time. No I/O.

One rule for search, explanation and placing: the facts come from the same parts of SQL, and
`Judged.check` says of them what is wrong first.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.errors import Aborted, DomainError, FailedPrecondition, InvalidArgument, not_found
from services.booking.model import bookings
from services.booking.model.bookings import NO_PLACE, Place

LESSON_MAX = timedelta(hours=12)
AHEAD_MAX = timedelta(days=731)
SEARCH_MAX = timedelta(days=62)
NEAREST_WITHIN = timedelta(days=14)
NOBODY = uuid.UUID(int=0)
"""Stands for the student where only the calendar is asked."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a slot token promises."""

    service_id: uuid.UUID
    instructor_id: uuid.UUID
    start_at: datetime
    end_at: datetime
    price_cents: int
    calendar_version: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A booking that is to be placed."""

    student_id: uuid.UUID
    instructor_id: uuid.UUID
    service_id: uuid.UUID
    vehicle_id: uuid.UUID | None
    start_at: datetime
    end_at: datetime | None = None
    pickup: Place = NO_PLACE
    dropoff: Place = NO_PLACE
    notes: str = ""
    quote: Quote | None = None

    def check(self, now: datetime) -> None:
        """Raise InvalidArgument for what is wrong whatever the calendar says."""
        if self.end_at is not None and self.end_at <= self.start_at:
            raise bookings.end_before_start()
        if self.end_at is not None and self.end_at - self.start_at > LESSON_MAX:
            raise InvalidArgument("LESSON_TOO_LONG", "A lesson takes 12 hours at most.")
        check_start(self.start_at, now)
        if self.quote is not None and self.quote.expires_at <= now:
            raise FailedPrecondition(
                "SLOT_TOKEN_EXPIRED", "The slot token has expired: search again."
            )


@dataclass(frozen=True, slots=True)
class Slot:
    """A free time of an instructor. Money in minor units."""

    start_at: datetime
    end_at: datetime
    instructor_id: uuid.UUID
    price_cents: int
    currency: str
    calendar_version: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The facts that decide about one wanted booking."""

    id: uuid.UUID
    at: datetime
    time_zone: str
    hold_minutes: int
    notice_minutes: int
    fee_bps: int
    currency: str
    org_suspended: bool
    service_found: bool
    instructor_found: bool
    student_found: bool
    student_erased: bool
    vehicle_found: bool
    vehicle_active: bool
    service_active: bool
    instructor_active: bool
    calendar_version: int
    duration_min: int
    buffer_before_min: int
    buffer_after_min: int
    slot_step_min: int
    price_cents: int | None
    open: bool
    instructor_taken: bool
    vehicle_taken: bool
    student_taken: bool
    overdue_in_the_way: bool
    """A hold whose time is over may still stand in the way of the constraints."""

    def end_at(self, start_at: datetime) -> datetime:
        return start_at + timedelta(minutes=self.duration_min)

    def earliest(self, now: datetime) -> datetime:
        """The first moment for which a lesson may be booked now."""
        return now + timedelta(minutes=self.notice_minutes)

    def first_wrong(
        self, wanted: Wanted, now: datetime, *, placed: bool = False
    ) -> DomainError | None:
        """What stands against it first; `placed`: it is booked already and only moves."""
        return next(self.wrong(wanted, now, placed=placed), None)

    def wrong(
        self, wanted: Wanted, now: datetime, *, placed: bool = False
    ) -> Iterator[DomainError]:
        """All that stands against it, in the order in which it is judged."""
        yield from self._missing(wanted)
        if not (self.service_found and self.instructor_found):
            return
        yield from self._inactive(placed)
        if wanted.end_at is not None and wanted.end_at != self.end_at(wanted.start_at):
            yield InvalidArgument(
                "DURATION_MISMATCH",
                f"The lesson type takes {self.duration_min} minutes.",
                fields=[("end_time", "is not the lesson type's duration behind start_time")],
            )
        quote = wanted.quote
        if quote is not None and quote.end_at != self.end_at(wanted.start_at):
            yield FailedPrecondition(
                "DURATION_CHANGED",
                "The lesson type no longer takes the time that the slot token says.",
                metadata={"duration_minutes": str(self.duration_min)},
            )
        if wanted.start_at < self.earliest(now):
            yield FailedPrecondition(
                "NOTICE_TOO_SHORT",
                f"Lessons are booked at least {self.notice_minutes} minutes before their start.",
                metadata={"notice_minutes": str(self.notice_minutes)},
            )
        if not placed:
            yield from self._price(wanted)
        if not self.open:
            yield outside_availability(self._hours_changed(wanted))
        yield from self._taken()

    def _missing(self, wanted: Wanted) -> Iterator[DomainError]:
        if not self.student_found:
            yield not_found("student", wanted.student_id)
        if not self.instructor_found:
            yield not_found("instructor", wanted.instructor_id)
        if not self.service_found:
            yield not_found("service", wanted.service_id)
        if not self.vehicle_found:
            yield not_found("vehicle", wanted.vehicle_id)
        if self.org_suspended:
            yield FailedPrecondition("ORG_SUSPENDED", "The school is suspended.")

    def _inactive(self, placed: bool) -> Iterator[DomainError]:
        if self.student_erased:
            yield FailedPrecondition("STUDENT_ERASED", "The student was erased.")
        if not self.instructor_active:
            yield FailedPrecondition("INSTRUCTOR_INACTIVE", "The instructor is not active.")
        if not (self.service_active or placed):
            yield FailedPrecondition("SERVICE_INACTIVE", "The lesson type is not active.")
        if not self.vehicle_active:
            yield FailedPrecondition("VEHICLE_INACTIVE", "The vehicle is not active.")

    def _price(self, wanted: Wanted) -> Iterator[DomainError]:
        if self.price_cents is None:
            yield FailedPrecondition("NO_PRICE", "No rate card has a price for that date.")
        elif wanted.quote is not None and wanted.quote.price_cents != self.price_cents:
            yield FailedPrecondition(
                "PRICE_CHANGED",
                "The price is no longer the one that the slot token quotes.",
                metadata={"price_cents": str(self.price_cents), "currency": self.currency},
            )

    def _hours_changed(self, wanted: Wanted) -> bool:
        quote = wanted.quote
        return quote is not None and quote.calendar_version != self.calendar_version

    def _taken(self) -> Iterator[DomainError]:
        if self.instructor_taken:
            yield slot_taken("instructor")
        if self.vehicle_taken:
            yield slot_taken("vehicle")
        if self.student_taken:
            yield slot_taken("student")


def slot_taken(conflict: str) -> Aborted:
    """Something else has the time of the `conflict`: instructor, vehicle or student."""
    return Aborted(
        "SLOT_TAKEN", f"The {conflict} is taken at that time.", metadata={"conflict": conflict}
    )


def offer(taken: DomainError, starts: Sequence[datetime]) -> None:
    """Name free starts, nearest first, beside a slot that is taken."""
    for place, start_at in enumerate(starts, 1):
        taken.metadata[f"free_slot_{place}"] = start_at.isoformat().replace("+00:00", "Z")


def outside_availability(hours_changed: bool = False) -> FailedPrecondition:
    return FailedPrecondition(
        "OUTSIDE_AVAILABILITY",
        "The instructor does not work then.",
        metadata={"changed": "hours"} if hours_changed else None,
    )


def check_start(start_at: datetime, now: datetime) -> None:
    """Raise InvalidArgument for a start that no calendar would have."""
    if start_at < now:
        raise InvalidArgument(
            "START_TIME_IN_PAST",
            "The start lies in the past.",
            fields=[("start_time", "lies in the past")],
        )
    if start_at > now + AHEAD_MAX:
        raise InvalidArgument(
            "START_TIME_TOO_FAR",
            f"The start lies more than {AHEAD_MAX.days} days ahead.",
            fields=[("start_time", "lies too far ahead")],
        )


def starts_until(now: datetime) -> datetime:
    """The end, half-open, of the times at which a lesson may start that is booked now."""
    return now + AHEAD_MAX + timedelta(microseconds=1)


def check_search(start_at: datetime, end_at: datetime) -> None:
    """Raise InvalidArgument for times between which nobody may search."""
    if end_at <= start_at:
        raise bookings.end_before_start()
    if end_at - start_at > SEARCH_MAX:
        raise InvalidArgument(
            "SEARCH_RANGE_TOO_LONG",
            f"The times are more than {SEARCH_MAX.days} days apart.",
            fields=[("end_time", "lies too far behind start_time")],
        )
