"""Why a lesson could start at a time, or not: the rules in the order in which they are judged."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs import errors
from libs.errors import DomainError
from libs.orgs import Orgs
from services.booking import zones
from services.booking.model.slots import AHEAD_MAX, LESSON_MAX, NOBODY, Judged, Wanted
from services.booking.store import slots as store
from services.booking.store.slots import HoursOfDate, InTheWay


@dataclass(frozen=True, slots=True)
class Step:
    """A rule and what it says: True allows, False denies, None says nothing of this time."""

    rule: str
    allows: bool | None
    detail: str
    id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a lesson could start, and why."""

    reason: str
    """Empty when it could."""
    local_time: str
    steps: Sequence[Step]


async def explain(
    orgs: Orgs,
    org_id: uuid.UUID,
    *,
    instructor_id: uuid.UUID,
    service_id: uuid.UUID,
    at: datetime,
    zone: str,
    now: datetime,
) -> Explanation:
    """The same facts as placing's, without student and vehicle."""
    wanted = Wanted(
        student_id=NOBODY,
        instructor_id=instructor_id,
        service_id=service_id,
        vehicle_id=None,
        start_at=at,
    )
    date = zones.today(zone, at)
    async with orgs.read(org_id) as conn:
        periods = zones.periods(zone, at, at + LESSON_MAX)
        facts = await store.judge_starts(conn, org_id, [(wanted, date)], now=now, zone=periods)
        if not facts:
            raise errors.not_found("org", org_id)
        hours = await store.explain_hours(conn, org_id, instructor_id, date)
        (judged,) = facts
        if not judged.instructor_found:
            raise errors.not_found("instructor", instructor_id)
        if not judged.service_found:
            raise errors.not_found("service", service_id)
        in_the_way = await store.bookings_in_the_way(
            conn,
            org_id,
            instructor_id,
            at - timedelta(minutes=judged.buffer_before_min),
            judged.end_at(at) + timedelta(minutes=judged.buffer_after_min),
            now,
        )
    wrong = _first_wrong(judged, wanted, now)
    steps = [*_general(judged, wanted, now), *_of_hours(judged, wanted, zone, hours)]
    steps += _of_bookings(in_the_way, zone)
    return Explanation("" if wrong is None else wrong.reason, _reads(zone, at), steps)


def _first_wrong(judged: Judged, wanted: Wanted, now: datetime) -> DomainError | None:
    """What placing would meet first."""
    try:
        wanted.check(now)
    except DomainError as error:
        return error
    return judged.first_wrong(wanted, now)


def _general(judged: Judged, wanted: Wanted, now: datetime) -> Iterator[Step]:
    if judged.org_suspended:
        yield Step("school", False, "the school is suspended")
    active = judged.instructor_active
    yield Step("instructor", active, "active" if active else "not active", wanted.instructor_id)
    active = judged.service_active
    detail = (
        f"{judged.duration_min} min, {judged.buffer_before_min} min before,"
        f" {judged.buffer_after_min} min after"
    )
    yield Step("service", active, detail if active else "not active", wanted.service_id)
    yield _in_time(judged, wanted, now)
    price = judged.price_cents
    if price is None:
        yield Step("price", False, "no rate card has a price for that date")
    else:
        yield Step("price", True, f"{price / 100:.2f} {judged.currency}")


def _in_time(judged: Judged, wanted: Wanted, now: datetime) -> Step:
    if wanted.start_at > now + AHEAD_MAX:
        return Step("notice", False, f"at most {AHEAD_MAX.days} days before the start")
    in_time = wanted.start_at >= judged.earliest(now)
    return Step("notice", in_time, f"{judged.notice_minutes} min before the start")


def _of_hours(
    judged: Judged, wanted: Wanted, zone: str, hours: Sequence[HoursOfDate]
) -> Iterator[Step]:
    begins = zones.local(zone, wanted.start_at)
    ends = zones.local(zone, judged.end_at(wanted.start_at))
    if begins.fold:
        yield Step("daylight_saving", None, "the clocks go back: this hour comes a second time")
    if begins.utcoffset() != ends.utcoffset():
        yield Step("daylight_saving", None, "the clocks change during the lesson")
    first = begins.hour * 60 + begins.minute
    minutes = (first, first + judged.duration_min)
    for each in hours:
        yield Step(each.kind, _says(each, minutes), _described(each), each.id)
    detail = "the whole lesson lies in them" if judged.open else "not all of the lesson"
    yield Step("hours", judged.open, detail)


def _says(hours: HoursOfDate, minutes: tuple[int, int]) -> bool | None:
    """What one rule of the date says of these minutes of the day."""
    if hours.start_minute >= minutes[1] or hours.end_minute <= minutes[0]:
        return None
    return hours.kind != "closed"


def _described(hours: HoursOfDate) -> str:
    span = f"{_clock(hours.start_minute)}-{_clock(hours.end_minute)}"
    return f"{span} {hours.note}".rstrip()


def _of_bookings(bookings: Sequence[InTheWay], zone: str) -> Iterator[Step]:
    for each in bookings:
        begins, ends = zones.local(zone, each.start_at), zones.local(zone, each.end_at)
        detail = (
            f"{each.status} {begins:%H:%M}-{ends:%H:%M}, with {each.buffer_before_min} min before"
            f" and {each.buffer_after_min} min after"
        )
        yield Step("booking", False, detail, each.id)


def _reads(zone: str, at: datetime) -> str:
    wall = zones.local(zone, at)
    return f"{wall:%Y-%m-%d %H:%M}{' (second)' if wall.fold else ''}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
