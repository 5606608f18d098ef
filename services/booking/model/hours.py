"""The hours that instructors work: weekly rules and what is different on single dates. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from libs.errors import InvalidArgument, NotFound, not_found
from services.booking.model.directory import UNSAVED

DATE_MIN, DATE_MAX = date(2000, 1, 1), date(2100, 12, 31)
"""Hours are kept for these dates."""
RULES_SHOWN_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Hours of one weekday (0 = Sunday), minutes of the day on the school's wall clock."""

    id: uuid.UUID = UNSAVED
    day_of_week: int
    start_minute: int
    end_minute: int
    effective_from: date
    effective_to: date | None

    def check(self, path: str, first: date) -> None:
        """Raise InvalidArgument unless it holds some time on or after `first`."""
        if self.end_minute <= self.start_minute:
            raise rule_invalid(f"{path}.end_minute", "is not after start_minute")
        if self.effective_from < first:
            raise rule_invalid(f"{path}.effective_from", "is before that of the request")
        check_date(f"{path}.effective_from", self.effective_from)
        if self.effective_to is not None:
            if self.effective_to < self.effective_from:
                raise rule_invalid(f"{path}.effective_to", "is before its first date")
            check_date(f"{path}.effective_to", self.effective_to)

    def values(self) -> dict[str, Any]:
        """For the audit log, in JSON types."""
        ends = self.effective_to
        return {
            "day_of_week": self.day_of_week,
            "start_minute": self.start_minute,
            "end_minute": self.end_minute,
            "effective_from": self.effective_from.isoformat(),
            "effective_to": None if ends is None else ends.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DateException:
    """What is different on one date; without minutes: all day."""

    id: uuid.UUID = UNSAVED
    instructor_id: uuid.UUID
    date: date
    available: bool
    start_minute: int | None
    end_minute: int | None
    note: str
    created_at: datetime | None = None

    def check(self) -> None:
        """Raise InvalidArgument unless it is a date of ours and a time of the day."""
        check_date("exception.date", self.date)
        start, end = self.start_minute, self.end_minute
        if (start is None) != (end is None):
            raise rule_invalid("exception.end_minute", "start and end are set both or not at all")
        if start is not None and end is not None and end <= start:
            raise rule_invalid("exception.end_minute", "is not after start_minute")

    def values(self) -> dict[str, Any]:
        """For the audit log, in JSON types."""
        return {
            "instructor_id": str(self.instructor_id),
            "date": self.date.isoformat(),
            "available": self.available,
            "start_minute": self.start_minute,
            "end_minute": self.end_minute,
            "note": self.note,
        }


def audited(rules: Sequence[Rule]) -> dict[str, Any]:
    """Rules for the audit log."""
    return {"rules": [rule.values() for rule in rules]}


def check_date(path: str, value: date) -> None:
    """Raise InvalidArgument for a date that hours are not kept for."""
    if not DATE_MIN <= value <= DATE_MAX:
        wrong = "dates of 2000 to 2100 are kept"
        raise InvalidArgument("INVALID_REQUEST", f"{path}: {wrong}.", fields=[(path, wrong)])


def check_all(rules: Sequence[Rule], first: date) -> None:
    """Raise InvalidArgument for the first rule that can't be."""
    for path, rule in _located(rules):
        rule.check(path, first)


def _located(rules: Sequence[Rule]) -> Iterator[tuple[str, Rule]]:
    return ((f"rules[{index}]", rule) for index, rule in enumerate(rules))


def rule_invalid(path: str, wrong: str) -> InvalidArgument:
    return InvalidArgument("RULE_INVALID", f"{path}: {wrong}.", fields=[(path, wrong)])


def instructor_not_found(instructor_id: uuid.UUID) -> NotFound:
    return not_found("instructor", instructor_id)


def exception_not_found(exception_id: uuid.UUID) -> NotFound:
    return not_found("availability_exception", exception_id)
