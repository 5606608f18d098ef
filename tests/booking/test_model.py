"""The calendar against a model that is naive on purpose: it decides minute by minute.

DRIVEFLOW_MODEL_EXAMPLES and DRIVEFLOW_MODEL_STEPS make it run longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import grpc
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2 as directory
from libs.client import refusal
from libs.server import Server
from libs.settings import Settings
from services.booking.__main__ import LEADER_LOCK, build
from tests import postgres
from tests.booking.calendars import administer
from tests.booking.serving import Booking
from tests.booking.stories import SCOPES, School, at, on, request_id
from tests.postgres import Database
from tests.serving import Clock, common_settings, running

EXAMPLES = int(os.environ.get("DRIVEFLOW_MODEL_EXAMPLES", "4"))
STEPS = int(os.environ.get("DRIVEFLOW_MODEL_STEPS", "25"))
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
TICK = timedelta(microseconds=1)
AHEAD_MAX = timedelta(days=731)
AnswerT = TypeVar("AnswerT")

# Zones and dates on which a calendar is easily wrong; the clock stands two days before.
PLACES = (
    ("Australia/Sydney", date(2027, 4, 4)),
    ("Australia/Sydney", date(2027, 10, 3)),
    ("Australia/Sydney", date(2027, 12, 31)),
    ("Europe/Berlin", date(2027, 3, 28)),
    ("Europe/Berlin", date(2027, 10, 31)),
    ("Europe/Berlin", date(2028, 2, 29)),
    ("America/New_York", date(2027, 3, 14)),
    ("America/New_York", date(2027, 11, 7)),
    ("Australia/Lord_Howe", date(2027, 4, 4)),
    ("Asia/Kathmandu", date(2028, 1, 1)),
    ("America/Sao_Paulo", date(2018, 11, 4)),
    ("America/St_Johns", date(2010, 11, 7)),
    ("Pacific/Apia", date(2011, 12, 30)),
)


# --- the model ---------------------------------------------------------------------------------


@dataclass
class Hours:
    """What a call of SetWeeklyAvailability said: from `first` on, these rules and no others."""

    first: date
    rules: Sequence[tuple[int, int, int, date, date | None]]
    """Day of the week (0 = Sunday), minutes, first and last date."""

    def hold(self, on_date: date, minute: int) -> bool:
        return any(
            day == on_date.isoweekday() % 7
            and start <= minute < end
            and first <= on_date
            and (last is None or on_date <= last)
            for day, start, end, first, last in self.rules
        )

    def contradict(self) -> bool:
        """Whether two of the rules hold at once somewhere."""
        return any(
            one is not two
            and one[0] == two[0]
            and max(one[1], two[1]) < min(one[2], two[2])
            and max(one[3], two[3]) <= min(one[4] or date.max, two[4] or date.max)
            for one in self.rules
            for two in self.rules
        )


Known = dict[tuple[str, datetime], bool]
"""Whether an instructor works when the wall clock reads so."""


@dataclass
class Lesson:
    """A lesson type, minutes."""

    id: str
    minutes: int
    before: int
    after: int
    step: int


@dataclass
class Instructor:
    """Whose calendar it is."""

    id: str
    travel: int
    active: bool = True
    hours: list[Hours] = field(default_factory=list)
    exceptions: dict[tuple[date, int | None], tuple[str, int, int, bool]] = field(
        default_factory=dict
    )
    """By date and start: id, minutes, whether they are extra."""

    def works(self, wall: datetime) -> bool:
        """Whether within the hours when the wall clock reads so."""
        on_date, minute = wall.date(), wall.hour * 60 + wall.minute
        says = {
            extra
            for (day, _), (_, start, end, extra) in self.exceptions.items()
            if day == on_date and start <= minute < end
        }
        told = [hours for hours in self.hours if hours.first <= on_date]
        weekly = bool(told) and told[-1].hold(on_date, minute)
        return True in says or (weekly and False not in says)


@dataclass
class Booked:
    """A booking; the model's own memory of it."""

    id: str
    student: str
    instructor: str
    vehicle: str
    lesson: Lesson
    start: datetime
    before: int
    status: str
    expires: datetime | None

    @property
    def end(self) -> datetime:
        return self.start + self.lesson.minutes * MINUTE

    @property
    def busy(self) -> tuple[datetime, datetime]:
        return self.start - self.before * MINUTE, self.end + self.lesson.after * MINUTE

    def lives(self, now: datetime) -> bool:
        return self.status == "confirmed" or (self.waits and not self.overdue(now))

    @property
    def waits(self) -> bool:
        return self.status in ("held", "requested")

    def overdue(self, now: datetime) -> bool:
        return self.waits and self.expires is not None and self.expires <= now


def meet(one: tuple[datetime, datetime], two: tuple[datetime, datetime]) -> bool:
    return one[0] < two[1] and two[0] < one[1]


@dataclass
class Model:
    """A school, and what may be booked in it."""

    zone: ZoneInfo
    notice: int
    hold: int
    prices: Sequence[tuple[date, date | None, int]]
    instructors: list[Instructor] = field(default_factory=list)
    booked: list[Booked] = field(default_factory=list)
    inactive_vehicles: set[str] = field(default_factory=set)

    def instructor(self, id: str) -> Instructor:  # noqa: A002
        return next(each for each in self.instructors if each.id == id)

    def wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self.zone)

    def price(self, start: datetime) -> int | None:
        today = self.wall(start).date()
        return next(
            (
                cents
                for first, last, cents in self.prices
                if first <= today and (last is None or today <= last)
            ),
            None,
        )

    def opens(
        self, instructor: Instructor, lesson: Lesson, start: datetime, known: Known | None = None
    ) -> bool:
        """Whether every minute of the lesson is within the hours; `known` remembers for a while."""
        known = {} if known is None else known
        moments = [start + minute * MINUTE for minute in range(lesson.minutes)]
        moments.append(start + lesson.minutes * MINUTE - TICK)
        for moment in moments:
            reads = self.wall(moment).replace(second=0, microsecond=0, tzinfo=None)
            if (instructor.id, reads) not in known:
                known[instructor.id, reads] = instructor.works(reads)
            if not known[instructor.id, reads]:
                return False
        return True

    def wrong(
        self,
        wanted: Booked,
        now: datetime,
        *,
        moving: Booked | None = None,
        known: Known | None = None,
    ) -> str:
        """With which reason it is refused; empty: it is not."""
        instructor = self.instructor(wanted.instructor)
        if wanted.start < now:
            return "START_TIME_IN_PAST"
        if wanted.start > now + AHEAD_MAX:
            return "START_TIME_TOO_FAR"
        if not instructor.active:
            return "INSTRUCTOR_INACTIVE"
        if wanted.vehicle in self.inactive_vehicles:
            return "VEHICLE_INACTIVE"
        if wanted.start < now + self.notice * MINUTE:
            return "NOTICE_TOO_SHORT"
        if moving is None and self.price(wanted.start) is None:
            return "NO_PRICE"
        if not self.opens(instructor, wanted.lesson, wanted.start, known):
            return "OUTSIDE_AVAILABILITY"
        return self.taken(wanted, now, moving)

    def taken(self, wanted: Booked, now: datetime, moving: Booked | None = None) -> str:
        others = [each for each in self.booked if each is not moving and each.lives(now)]
        for whose in ("instructor", "vehicle"):
            mine = getattr(wanted, whose)
            theirs = [each for each in others if mine and getattr(each, whose) == mine]
            if any(meet(each.busy, wanted.busy) for each in theirs):
                return f"SLOT_TAKEN {whose}"
        lesson = wanted.start, wanted.end
        theirs = [each for each in others if each.student == wanted.student]
        if any(meet((each.start, each.end), lesson) for each in theirs):
            return "SLOT_TAKEN student"
        return ""

    def wanted(self, instructor: Instructor, lesson: Lesson, start: datetime) -> Booked:
        before = max(lesson.before, instructor.travel)
        return Booked("", "", instructor.id, "", lesson, start, before, "", None)

    def slots(
        self, lesson: Lesson, start: datetime, end: datetime, now: datetime
    ) -> list[tuple[datetime, str, int]]:
        """Free starts on the grid of the wall clock, with instructor and price."""
        found = []
        known: Known = {}
        moment = start.replace(second=0, microsecond=0)
        while moment < end:
            wall = self.wall(moment)
            if (wall.hour * 60 + wall.minute) % lesson.step == 0 and moment >= start:
                for instructor in self.instructors:
                    wanted = self.wanted(instructor, lesson, moment)
                    if self.wrong(wanted, now, known=known) == "":
                        found.append((moment, instructor.id, self.price(moment) or 0))
            moment += MINUTE
        return sorted(found)


# --- the service, on a loop of its own -----------------------------------------------------------


@dataclass
class Still(Clock):
    """A clock that moves only when told to."""

    stands: datetime = datetime(2027, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.stands


@dataclass
class Bridge:
    """The service in a thread with a loop; `run` waits for what it does there."""

    loop: asyncio.AbstractEventLoop
    service: Booking
    clock: Still

    def run(self, work: Coroutine[Any, Any, AnswerT]) -> AnswerT:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


@contextmanager
def bridged(database: Database, folder: Path) -> Iterator[Bridge]:
    """Run a service until the block ends; it leaves overdue holds as they are."""
    clock, stop = Still(), asyncio.Event()
    began = threading.Event()
    made: list[Bridge] = []

    async def built(stack: AsyncExitStack, _: Clock) -> Server:
        chosen = {**common_settings(folder), "dsn": database.dsn("booking")}
        return await build(Settings(**chosen), stack, clock)

    async def serve() -> None:
        async with running(Booking, database, folder, built) as service:
            made.append(Bridge(asyncio.get_running_loop(), service, clock))
            began.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    with psycopg.connect(database.admin_dsn, autocommit=True) as leader:
        leader.execute("SELECT pg_advisory_lock(%s)", (LEADER_LOCK,))
        thread.start()
        try:
            assert began.wait(60), "the service does not start"
            yield made[0]
        finally:
            if made:
                made[0].loop.call_soon_threadsafe(stop.set)
            thread.join(60)


# --- what is done to both ------------------------------------------------------------------------

MINUTES = some.integers(0, 1440) | some.sampled_from([0, 60, 120, 150, 180, 480, 1440])


@some.composite
def spans(draw: some.DrawFn) -> tuple[int, int]:
    """Minutes of a day, in order."""
    start, end = sorted(draw(some.lists(MINUTES, min_size=2, max_size=2, unique=True)))
    return start, end


WHOLE_DAY = some.just((0, 1440))
WEEKS = (spans() | WHOLE_DAY).map(lambda span: [(day, span, 0, -1) for day in range(7)])
RULES = some.lists(
    some.tuples(
        some.integers(0, 6), spans() | WHOLE_DAY, some.integers(0, 3), some.integers(-1, 4)
    ),
    max_size=8,
)
"""Day of the week, minutes, days until it begins, days that it lasts (-1: for ever)."""
PLACES_IN_DAYS = some.integers(-2, 3)
NEAR = some.integers(-90, 300)
ANYWHERE = some.integers(-2 * 1440, 4 * 1440)
ON_GRID = some.integers(-2 * 96, 4 * 96).map(lambda quarter: quarter * 15)
AHEAD_OF_DAY = NEAR | ANYWHERE | ON_GRID
"""Minutes after the first moment of the odd day."""
SECONDS = some.sampled_from([0, 0, 0, 1, 59])
INDEX = some.integers(0, 1_000)
EDGES = {
    "instructor": ("behind its buffer", "before its buffer", "upon"),
    "vehicle": ("behind its buffer", "before its buffer", "upon"),
    "student": ("behind", "before", "upon"),
}
"""Where a booking that shares this with another just fits; upon it, when that is over."""


class Calendar(RuleBasedStateMachine):
    """The service and the model, told the same; they must answer the same."""

    bridge: Bridge

    # --- a school ---

    @initialize(
        place=some.sampled_from(PLACES),
        notice=some.sampled_from([0, 120, 1500]),
        hold=some.sampled_from([5, 30, 1440]),
        travel=some.sampled_from([None, 0, 7, 240]),
        lessons=some.lists(
            some.tuples(
                some.sampled_from([5, 45, 60, 61, 400, 720]),
                some.sampled_from([0, 10, 240]),
                some.sampled_from([0, 5, 240]),
                some.sampled_from([5, 10, 15, 20, 30, 60]),
            ),
            min_size=1,
            max_size=2,
        ),
        gap=some.integers(1, 4),
    )
    def open_school(
        self,
        place: tuple[str, date],
        notice: int,
        hold: int,
        travel: int | None,
        lessons: list[tuple[int, int, int, int]],
        gap: int,
    ) -> None:
        zone, self.day = place
        self.looks = random.Random(0)
        self.anchor = self._first_moment(ZoneInfo(zone), self.day)
        self.bridge.clock.stands = self.anchor - 2 * DAY
        # From a price that ends to one that begins there is a day without.
        last = self.day + timedelta(days=gap)
        prices = [(date(2000, 1, 1), last, 8_000), (last + 2 * DAY, None, 9_000)]
        self.model = Model(ZoneInfo(zone), notice, hold, prices)
        self.run(self._found(zone, notice, hold, travel, lessons))
        self._book("requested", self._wanted(0, 0, 0, 0, self.anchor + timedelta(hours=3)))

    def _first_moment(self, zone: ZoneInfo, day: date) -> datetime:
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC) - 2 * DAY
        while moment.astimezone(zone).date() < day:
            moment += MINUTE
        return moment

    async def _found(
        self,
        zone: str,
        notice: int,
        hold: int,
        travel: int | None,
        lessons: list[tuple[int, int, int, int]],
    ) -> None:
        self.connections = AsyncExitStack()
        service = replace(self.bridge.service, connections=self.connections)
        school = await School.founded(service, zone)
        self.school = school
        token = service.token(school.org_id, SCOPES, ttl=timedelta(hours=4))
        connection = service.connect(token)
        self.directory, self.bookings = connection.directory, connection.bookings
        org = directory.Organization(notice_minutes=notice, hold_minutes=hold)
        request = directory.UpdateOrganizationRequest(organization=org)
        request.update_mask.paths.extend(["notice_minutes", "hold_minutes"])
        await self.directory.UpdateOrganization(request)
        self.lessons = [
            await self._lesson(number, *lesson) for number, lesson in enumerate(lessons)
        ]
        await self._prices()
        for own in (None, travel):
            made = await school.add_instructor(travel_buffer_minutes=own)
            instructor = Instructor(made.id, 15 if own is None else own)
            self.model.instructors.append(instructor)
            rules = [(day, 0, 1440, date(2000, 1, 1), None) for day in range(7)]
            await self._set_hours(instructor, Hours(date(2000, 1, 1), rules))
        self.students = [(await school.add_student(f"Student {n}")).id for n in range(2)]
        self.vehicles = ["", (await school.add_vehicle("Yaris")).id]

    async def _lesson(
        self, number: int, minutes: int, before: int, after: int, step: int
    ) -> Lesson:
        made = await self.school.add_lesson(
            f"Lesson {number}",
            minutes,
            buffer_before_minutes=before,
            buffer_after_minutes=after,
            slot_step_minutes=step,
        )
        return Lesson(made.id, minutes, before, after, step)

    async def _prices(self) -> None:
        for first, last, cents in self.model.prices:
            for lesson in self.lessons:
                wanted = directory.Service(id=lesson.id)
                await self.school.set_price(wanted, cents, first, last)

    def teardown(self) -> None:
        if hasattr(self, "connections"):
            self.run(self.connections.aclose())

    # --- how both are asked ---

    def run(self, work: Coroutine[Any, Any, AnswerT]) -> AnswerT:
        return self.bridge.run(work)

    @property
    def now(self) -> datetime:
        return self.bridge.clock.stands

    def ask(self, call: Callable[[Any], Any], request: Any) -> tuple[Any, str]:
        """The answer, or the reason of the refusal."""

        async def asked() -> tuple[Any, str]:
            try:
                return await call(request), ""
            except grpc.aio.AioRpcError as error:
                refused = refusal(error)
                return None, f"{refused.reason} {refused.metadata.get('conflict', '')}".strip()

        return self.run(asked())

    def moment(self, minutes: int, seconds: int = 0) -> datetime:
        return self.anchor + minutes * MINUTE + timedelta(seconds=seconds)

    # --- hours ---

    @rule(
        who=INDEX,
        ahead=PLACES_IN_DAYS,
        rules=WEEKS | RULES,
    )
    def set_hours(
        self,
        who: int,
        ahead: int,
        rules: list[tuple[int, tuple[int, int], int, int]],
    ) -> None:
        instructor = self.model.instructors[who % 2]
        first = self.day + ahead * DAY
        made = []
        for day, (start, end), later, length in rules:
            begins = first + later * DAY
            ends = None if length < 0 else begins + length * DAY
            made.append((day, start, end, begins, ends))
        hours = Hours(first, made)
        reason = self.run(self._set_hours(instructor, hours))
        assert reason == ("AVAILABILITY_NO_OVERLAP" if hours.contradict() else "")

    async def _set_hours(self, instructor: Instructor, hours: Hours) -> str:
        rules = [
            directory.AvailabilityRule(
                day_of_week=day,
                start_minute=start,
                end_minute=end,
                effective_from=on(first),
                effective_to=None if last is None else on(last),
            )
            for day, start, end, first, last in hours.rules
        ]
        request = directory.SetWeeklyAvailabilityRequest(
            instructor_id=instructor.id, rules=rules, effective_from=on(hours.first)
        )
        try:
            await self.directory.SetWeeklyAvailability(request)
        except grpc.aio.AioRpcError as error:
            return refusal(error).reason
        instructor.hours.append(hours)
        return ""

    @rule(who=INDEX, ahead=PLACES_IN_DAYS, extra=some.booleans(), span=some.none() | spans())
    def except_date(self, who: int, ahead: int, extra: bool, span: tuple[int, int] | None) -> None:
        self._except(who, ahead, extra=extra, span=span)

    def _except(self, who: int, ahead: int, *, extra: bool, span: tuple[int, int] | None) -> None:
        instructor, day = self.model.instructors[who % 2], self.day + ahead * DAY
        wanted = directory.AvailabilityException(
            instructor_id=instructor.id, date=on(day), available=extra
        )
        if span is not None:
            wanted.start_minute, wanted.end_minute = span
        request = directory.CreateAvailabilityExceptionRequest(exception=wanted)
        answer, reason = self.ask(self.directory.CreateAvailabilityException, request)
        key = day, None if span is None else span[0]
        if key in instructor.exceptions:
            assert reason == "IDX_AVAILABILITY_EXCEPTION_INSTRUCTOR_DATE"
            return
        assert reason == ""
        start, end = span or (0, 1440)
        instructor.exceptions[key] = (answer.id, start, end, extra)

    @rule(who=INDEX, ahead=PLACES_IN_DAYS, span=spans())
    def close_a_date_but_for_some_hours(self, who: int, ahead: int, span: tuple[int, int]) -> None:
        self._except(who, ahead, extra=False, span=None)
        self._except(who, ahead, extra=True, span=span)

    @precondition(lambda self: any(each.exceptions for each in self.model.instructors))
    @rule(which=INDEX)
    def take_exception_back(self, which: int) -> None:
        known = [(each, key) for each in self.model.instructors for key in each.exceptions]
        instructor, key = known[which % len(known)]
        request = directory.DeleteAvailabilityExceptionRequest(
            exception_id=instructor.exceptions.pop(key)[0]
        )
        assert self.ask(self.directory.DeleteAvailabilityException, request)[1] == ""

    # --- people, things and time ---

    @rule(who=INDEX, active=some.sampled_from([True, True, False]))
    def set_instructor_active(self, who: int, active: bool) -> None:
        instructor = self.model.instructors[who % 2]
        wanted = directory.Instructor(id=instructor.id, active=active)
        request = directory.UpdateInstructorRequest(instructor=wanted)
        assert self.ask(self.directory.UpdateInstructor, request)[1] == ""
        instructor.active = active

    @rule(active=some.booleans())
    def set_vehicle_active(self, active: bool) -> None:
        wanted = directory.Vehicle(id=self.vehicles[1], active=active)
        request = directory.UpdateVehicleRequest(vehicle=wanted)
        assert self.ask(self.directory.UpdateVehicle, request)[1] == ""
        self.model.inactive_vehicles = set() if active else {self.vehicles[1]}

    @rule(minutes=some.sampled_from([1, 5, 30, 119, 300, 1440]))
    def let_time_pass(self, minutes: int) -> None:
        self.bridge.clock.stands += minutes * MINUTE

    # --- bookings ---

    @rule(
        how=some.sampled_from(["held", "requested", "judged"]),
        who=INDEX,
        student=INDEX,
        vehicle=INDEX,
        lesson=INDEX,
        ahead=AHEAD_OF_DAY | some.sampled_from([731 * 1440, 750 * 1440, -4 * 1440]),
        seconds=SECONDS,
    )
    def book(
        self, how: str, who: int, student: int, vehicle: int, lesson: int, ahead: int, seconds: int
    ) -> None:
        wanted = self._wanted(who, student, vehicle, lesson, self.moment(ahead, seconds))
        self._book(how, wanted)

    @rule(
        how=some.sampled_from(["held", "requested"]),
        which=INDEX,
        student=INDEX,
        vehicle=INDEX,
        lesson=INDEX,
        ahead=AHEAD_OF_DAY,
    )
    def book_what_is_offered(
        self, how: str, which: int, student: int, vehicle: int, lesson: int, ahead: int
    ) -> None:
        kind = self.lessons[lesson % len(self.lessons)]
        start = self.moment(ahead)
        offered = self.model.slots(kind, start, start + timedelta(hours=6), self.now)
        if not offered:
            return
        moment, instructor, _ = offered[which % len(offered)]
        who = [each.id for each in self.model.instructors].index(instructor)
        self._book(how, self._wanted(who, student, vehicle, lesson, moment))

    @precondition(lambda self: self.model.booked)
    @rule(which=INDEX, shared=some.sampled_from(list(EDGES)), edge=INDEX, lesson=INDEX)
    def book_beside(self, which: int, shared: str, edge: int, lesson: int) -> None:
        booked = self.model.booked[which % len(self.model.booked)]
        edges = EDGES[shared]
        wanted = self._beside(booked, shared, edges[edge % len(edges)], timedelta(0), lesson)
        self._book("held", wanted)

    def _beside(
        self, booked: Booked, shared: str, edge: str, off: timedelta, lesson: int
    ) -> Booked:
        who = [each.id for each in self.model.instructors].index(booked.instructor)
        student = self.students.index(booked.student)
        wanted = self._wanted(
            who + ("instructor" not in shared),
            student + ("student" not in shared),
            "vehicle" in shared,
            lesson,
            booked.start,
        )
        length = wanted.lesson.minutes * MINUTE
        starts = {
            "upon": booked.start,
            "behind": booked.end,
            "behind its buffer": booked.busy[1] + wanted.before * MINUTE,
            "before": booked.start - length,
            "before its buffer": booked.busy[0] - length - wanted.lesson.after * MINUTE,
        }
        wanted.start = starts[edge] + off
        return wanted

    def _wanted(self, who: int, student: int, vehicle: int, lesson: int, start: datetime) -> Booked:
        instructor = self.model.instructors[who % 2]
        kind = self.lessons[lesson % len(self.lessons)]
        wanted = self.model.wanted(instructor, kind, start)
        wanted.student, wanted.vehicle = self.students[student % 2], self.vehicles[vehicle % 2]
        return wanted

    def _book(self, how: str, wanted: Booked) -> None:
        given: dict[str, Any] = {
            "student_id": wanted.student,
            "instructor_id": wanted.instructor,
            "service_id": wanted.lesson.id,
            "vehicle_id": wanted.vehicle,
            "start_time": at(wanted.start),
        }
        if how == "held":
            request = pb.HoldSlotRequest(request_id=request_id(), **given)
            booking, reason = self.ask(self.bookings.HoldSlot, request)
        else:
            booking, reason = self.ask(
                self.bookings.CreateBooking,
                pb.CreateBookingRequest(
                    booking=pb.Booking(**given),
                    request_id=request_id(),
                    validate_only=how == "judged",
                ),
            )
        assert reason == self.model.wrong(wanted, self.now)
        if reason or how == "judged":
            return
        assert booking.price_cents == self.model.price(wanted.start)
        wanted.id, wanted.status = booking.id, how
        wanted.expires = min(self.now + self.model.hold * MINUTE, wanted.start)
        assert booking.hold_expire_time.ToDatetime(UTC) == wanted.expires
        self.model.booked.append(wanted)

    @precondition(lambda self: self.model.booked)
    @rule(which=INDEX)
    def confirm(self, which: int) -> None:
        booked = self.model.booked[which % len(self.model.booked)]
        request = pb.ConfirmBookingRequest(booking_id=booked.id)
        _, reason = self.ask(self.bookings.ConfirmBooking, request)
        if booked.overdue(self.now):
            assert reason == "HOLD_EXPIRED"
        elif booked.waits:
            assert reason == ""
            booked.status = "confirmed"
        else:
            assert reason == "INVALID_TRANSITION"

    @precondition(lambda self: self.model.booked)
    @rule(which=INDEX)
    def cancel(self, which: int) -> None:
        booked = self.model.booked[which % len(self.model.booked)]
        request = pb.CancelBookingRequest(booking_id=booked.id)
        _, reason = self.ask(self.bookings.CancelBooking, request)
        if booked.lives(self.now):
            assert reason == ""
        elif booked.waits:
            # Nobody knows whether its end was noticed already.
            assert reason in ("", "INVALID_TRANSITION")
        else:
            assert reason == "INVALID_TRANSITION"
        booked.status = "cancelled" if booked.lives(self.now) or not reason else booked.status

    @precondition(lambda self: self.model.booked)
    @rule(
        which=INDEX,
        ahead=some.none() | AHEAD_OF_DAY,
        who=some.none() | INDEX,
        vehicle=some.none() | INDEX,
    )
    def reschedule(
        self, which: int, ahead: int | None, who: int | None, vehicle: int | None
    ) -> None:
        booked = self.model.booked[which % len(self.model.booked)]
        instructor = self.model.instructor(booked.instructor)
        instructor = instructor if who is None else self.model.instructors[who % 2]
        start = booked.start if ahead is None else self.moment(ahead)
        wanted = replace(
            booked,
            instructor=instructor.id,
            start=start,
            vehicle=(vehicle and self.vehicles[vehicle % 2]) or booked.vehicle,
            before=max(booked.lesson.before, instructor.travel),
        )
        request = pb.RescheduleBookingRequest(
            booking_id=booked.id,
            start_time=at(wanted.start),
            instructor_id=wanted.instructor,
            vehicle_id=wanted.vehicle,
        )
        _, reason = self.ask(self.bookings.RescheduleBooking, request)
        self._check_move(booked, wanted, reason)

    def _check_move(self, booked: Booked, wanted: Booked, reason: str) -> None:
        if wanted.start < self.now:
            assert reason == "START_TIME_IN_PAST"
        elif booked.overdue(self.now):
            assert reason in ("HOLD_EXPIRED", "INVALID_TRANSITION")
        elif not booked.lives(self.now):
            assert reason == "INVALID_TRANSITION"
        elif self._place(booked) == self._place(wanted):
            assert reason == ""
        else:
            assert reason == self.model.wrong(wanted, self.now, moving=booked)
            if not reason:
                self.model.booked[self.model.booked.index(booked)] = wanted

    def _place(self, booked: Booked) -> tuple[str, str, datetime]:
        return booked.instructor, booked.vehicle, booked.start

    # --- what always holds ---

    @invariant()
    def search_offers_what_is_free(self) -> None:
        if not hasattr(self, "vehicles"):
            return
        lesson = self.looks.choice(self.lessons)
        ahead = self.looks.choice([*[self.looks.randrange(-2 * 1440, 3 * 1440)] * 5, 728 * 1440])
        start = self.moment(ahead, self.looks.choice((0, 1)))
        end = start + self.looks.randrange(10, 2 * 1440) * MINUTE
        request = pb.SearchSlotsRequest(
            service_id=lesson.id, start_time=at(start), end_time=at(end), page_size=1000
        )
        answer, reason = self.ask(self.bookings.SearchSlots, request)
        assert reason == ""
        found = [
            (slot.start_time.ToDatetime(UTC), slot.instructor_id, slot.price_cents)
            for slot in answer.slots
        ]
        expected = self.model.slots(lesson, start, end, self.now)
        assert found == expected[:1000]

    @invariant()
    def explanations_say_what_a_booking_would_meet(self) -> None:
        if not hasattr(self, "vehicles"):
            return
        lesson, instructor = (
            self.looks.choice(self.lessons),
            self.looks.choice(self.model.instructors),
        )
        ahead = self.looks.choice([self.looks.randrange(-3 * 1440, 4 * 1440), 740 * 1440])
        start = self.moment(ahead)
        request = pb.ExplainAvailabilityRequest(
            instructor_id=instructor.id, service_id=lesson.id, time=at(start)
        )
        answer, _ = self.ask(self.bookings.ExplainAvailability, request)
        expected = self.model.wrong(self.model.wanted(instructor, lesson, start), self.now)
        assert (answer.available, answer.reason) == (not expected, expected.partition(" ")[0])
        assert answer.local_time[:16] == f"{self.model.wall(start):%Y-%m-%d %H:%M}"

    @invariant()
    def what_just_fits_beside_another_is_booked_and_no_more(self) -> None:
        if not hasattr(self, "vehicles") or not self.model.booked:
            return
        booked = self.looks.choice(self.model.booked)
        for shared, edges in EDGES.items():
            off = timedelta(seconds=self.looks.choice((0, 0, 1, -1)))
            lesson = self.looks.randrange(len(self.lessons))
            wanted = self._beside(booked, shared, self.looks.choice(edges), off, lesson)
            self._book("judged", wanted)

    @invariant()
    def nobody_is_booked_twice(self) -> None:
        if hasattr(self, "vehicles"):
            assert administer(self.school, OVERLAPS, {"org_id": self.school.org_id}) == []


OVERLAPS = """
SELECT a.id, b.id
  FROM booking."Booking" AS a
  JOIN booking."Booking" AS b ON b."orgId" = a."orgId" AND a.id < b.id
 WHERE a."orgId" = %(org_id)s
   AND a.status IN ('held', 'requested', 'confirmed', 'in_progress')
   AND b.status IN ('held', 'requested', 'confirmed', 'in_progress')
   AND (a."instructorId" = b."instructorId" AND a.busy && b.busy
        OR a."vehicleId" = b."vehicleId" AND a.busy && b.busy
        OR a."studentId" = b."studentId" AND a."startAt" < b."endAt" AND b."startAt" < a."endAt")
"""


@pytest.fixture(scope="module")
def bridge(template: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    with (
        postgres.copied(template) as database,
        bridged(database, tmp_path_factory.mktemp("model")) as made,
    ):
        yield made


def test_the_calendar_is_that_of_a_model_that_looks_at_every_minute(bridge: Bridge) -> None:
    machine = type("Calendar", (Calendar,), {"bridge": bridge})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
