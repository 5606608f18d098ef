"""Placing: how a slot becomes a booking, and one booking at most.

Every transaction that places or moves bookings takes the advisory locks of all parties (instructor,
vehicle, student; old and new) in one order, judges by the rule that search uses, expires overdue
holds that the constraints would take for live ones, and writes. The exclusion constraints have the
last word.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message
from psycopg import errors as pg

from driveflow.booking.v1 import booking_pb2 as pb
from libs import errors, idempotency
from libs.errors import Aborted, DomainError
from libs.orgs import Orgs
from libs.pooling import Connection
from services.booking import locks, telling, zones
from services.booking.messages.bookings import booking as booking_message
from services.booking.model import placing as rules
from services.booking.model.bookings import Booking, invalid_transition
from services.booking.model.placing import Outcome, Parties
from services.booking.model.slots import (
    LESSON_MAX,
    NEAREST_WITHIN,
    Judged,
    Wanted,
    offer,
    slot_taken,
    starts_until,
)
from services.booking.store import life
from services.booking.store import placing as store
from services.booking.store import slots as slots_store

Answer = TypeVar("Answer", bound=Message)
MOVABLE = ("held", "requested", "confirmed")
# What one more try may cure: someone else was in the way for a moment.
_PASSING = (pg.DeadlockDetected, pg.LockNotAvailable, pg.SerializationFailure)
_CONFLICTS = {
    "booking_no_instructor_overlap": "instructor",
    "booking_no_vehicle_overlap": "vehicle",
    "booking_no_student_overlap": "student",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a call wants placed, and how."""

    request: Message | None
    """None: work of the service itself, which remembers no answer."""
    wanted: Sequence[Wanted]
    status: str
    """held or requested"""
    many: bool = False
    """Errors name the index of the bad one."""
    series_id: uuid.UUID | None = None
    skip: bool = False
    """Leave out what can't be had, instead of refusing all."""
    keep: bool = True
    """False: judge only."""
    also: Callable[[Connection, list[Outcome]], Awaitable[None]] | None = None
    """What happens in the same transaction, once all is placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Where a booking is to go."""

    request: Any
    booking_id: uuid.UUID
    etag: str
    reason: str
    wanted: Callable[[Booking], Wanted]
    """Given the booking as it is, how it is to be."""


@dataclass(slots=True)
class _Judging:
    """What one try has found out, for the answer to who came too late."""

    now: datetime
    zone: str
    wanted: Sequence[Wanted]
    facts: Sequence[Judged] = ()


class Placing:
    """Places and moves bookings of any school."""

    def __init__(
        self,
        orgs: Orgs,
        zone_of: Callable[[uuid.UUID], Awaitable[str]],
        clock: Callable[[], datetime],
    ) -> None:
        self._orgs = orgs
        self.zone_of = zone_of
        self._clock = clock

    async def place(
        self,
        org_id: uuid.UUID,
        order: Order,
        kind: type[Answer],
        answer: Callable[[list[Outcome]], Answer],
    ) -> Answer:
        """All of the order or none, unless it skips; the same answer to the same request_id."""
        now = self._clock()
        for index, wanted in enumerate(order.wanted):
            with _located(index, order.many):
                wanted.check(now)
        zone = await self.zone_of(org_id)

        async def attempt() -> Answer:
            judging = _Judging(now, zone, order.wanted)
            async with self._alternatives(org_id, judging), self._orgs.write(org_id) as conn:
                return await self._place(conn, org_id, order, judging, kind, answer)

        return await _twice(attempt)

    async def _place(
        self,
        conn: Connection,
        org_id: uuid.UUID,
        order: Order,
        judging: _Judging,
        kind: type[Answer],
        answer: Callable[[list[Outcome]], Answer],
    ) -> Answer:
        if order.keep and order.request is not None:
            recalled = await idempotency.recall(conn, org_id, order.request, kind)
            if recalled is not None:
                return recalled
        await _lock(conn, org_id, Parties.of(*order.wanted))
        await self._judge(conn, org_id, judging)
        outcomes = _outcomes(order, judging)
        response = answer(outcomes)
        if order.keep:
            await self._expire_overdue(conn, org_id, judging)
            placed = [each.booking for each in outcomes if each.booking is not None]
            await store.place_bookings(conn, org_id, telling.caller(), placed)
            if order.also is not None:
                await order.also(conn, outcomes)
            if order.request is not None:
                await idempotency.remember(conn, org_id, order.request, response)
        return response

    async def move(self, org_id: uuid.UUID, move: Move) -> pb.Booking:
        """The booking at its new place, by the rules of placing; its price stays."""
        now = self._clock()
        zone = await self.zone_of(org_id)

        async def attempt() -> pb.Booking:
            seen = await life.find_booking(self._orgs.reader(org_id), org_id, move.booking_id)
            if seen is None:
                raise errors.not_found("booking", move.booking_id)
            wanted = move.wanted(seen)
            wanted.check(now)
            judging = _Judging(now, zone, [wanted])
            async with self._alternatives(org_id, judging), self._orgs.write(org_id) as conn:
                return await self._move(conn, org_id, move, judging, seen)

        return await _twice(attempt)

    async def _move(
        self, conn: Connection, org_id: uuid.UUID, move: Move, judging: _Judging, seen: Booking
    ) -> pb.Booking:
        recalled = await idempotency.recall(conn, org_id, move.request, pb.Booking)
        if recalled is not None:
            return recalled
        (wanted,) = judging.wanted
        await _lock(conn, org_id, Parties.of(seen, wanted))
        before = await life.lock_booking(conn, org_id, move.booking_id)
        _check_movable(before, seen, move, judging.now)
        if rules.stays(seen, wanted):
            return booking_message(seen)
        await self._judge(conn, org_id, judging, except_ids=[seen.id])
        (fact,) = judging.facts
        error = fact.first_wrong(wanted, judging.now, placed=True)
        if error is not None:
            raise error
        await self._expire_overdue(conn, org_id, judging)
        moved = await store.move_booking(conn, org_id, rules.moved(seen, wanted, fact))
        await telling.changed(conn, org_id, seen, moved, "reschedule", reason=move.reason)
        response = booking_message(moved)
        await idempotency.remember(conn, org_id, move.request, response)
        return response

    async def _judge(
        self,
        conn: Connection,
        org_id: uuid.UUID,
        judging: _Judging,
        except_ids: Sequence[uuid.UUID] = (),
    ) -> None:
        while True:
            zone = judging.zone
            starts = [each.start_at for each in judging.wanted]
            judging.facts = await slots_store.judge_starts(
                conn,
                org_id,
                [(each, zones.today(zone, each.start_at)) for each in judging.wanted],
                now=judging.now,
                zone=zones.periods(zone, min(starts), max(starts) + LESSON_MAX),
                except_ids=except_ids,
            )
            if not judging.facts:
                raise errors.not_found("org", org_id)
            judging.zone = judging.facts[0].time_zone
            # The school may have moved a moment ago; what was remembered of it is older.
            if judging.zone == zone:
                return

    async def _expire_overdue(self, conn: Connection, org_id: uuid.UUID, judging: _Judging) -> None:
        if any(fact.overdue_in_the_way for fact in judging.facts):
            parties = Parties.of(*judging.wanted)
            overdue = await store.expire_overdue(conn, org_id, parties, judging.now)
            await tell_expired(conn, org_id, overdue)

    @asynccontextmanager
    async def _alternatives(self, org_id: uuid.UUID, judging: _Judging) -> AsyncIterator[None]:
        """Whoever came too late hears of the nearest free slots; read once all is rolled back."""
        try:
            yield
            return
        except pg.ExclusionViolation as error:
            taken = slot_taken(_CONFLICTS[error.diag.constraint_name or ""])
        except Aborted as error:
            if error.reason != "SLOT_TAKEN":
                raise
            taken = error
        index = int(taken.metadata.get("index", 0))
        offer(taken, await self._nearest(org_id, judging, index))
        raise taken

    async def _nearest(self, org_id: uuid.UUID, judging: _Judging, index: int) -> list[datetime]:
        wanted, fact = judging.wanted[index], judging.facts[index]
        from_at = max(judging.now, wanted.start_at - NEAREST_WITHIN)
        to_at = min(wanted.start_at + NEAREST_WITHIN, starts_until(judging.now))
        return await slots_store.nearest_slots(
            self._orgs.reader(org_id),
            org_id,
            instructor_id=wanted.instructor_id,
            judged=fact,
            at=wanted.start_at,
            from_at=from_at,
            to_at=to_at,
            now=judging.now,
            zone=zones.periods(judging.zone, from_at, to_at),
        )


async def tell_expired(
    conn: Connection, org_id: uuid.UUID, overdue: Sequence[store.Expired]
) -> None:
    """History, audit entry and event of holds that have just been expired."""
    for before, after in overdue:
        await telling.changed(conn, org_id, before, after, "expire", actor="booking")


async def _lock(conn: Connection, org_id: uuid.UUID, parties: Parties) -> None:
    await locks.take(
        conn,
        org_id,
        instructors=parties.instructor_ids,
        vehicles=parties.vehicle_ids,
        students=parties.student_ids,
    )


def _outcomes(order: Order, judging: _Judging) -> list[Outcome]:
    """What becomes of each; raises the first error unless the order skips."""
    outcomes = []
    for index, (wanted, fact) in enumerate(zip(order.wanted, judging.facts, strict=True)):
        outcome = rules.outcome(wanted, fact, order.status, judging.now, order.series_id)
        if outcome.error is not None and not order.skip:
            with _located(index, order.many):
                raise outcome.error
        outcomes.append(outcome)
    return outcomes


def _check_movable(before: Booking | None, seen: Booking, move: Move, now: datetime) -> None:
    """Raise unless the locked booking is the one that was seen, and may still move."""
    if before is None or before.version != seen.version:
        raise conflict()
    before.check_etag(move.etag)
    if before.status not in MOVABLE:
        raise invalid_transition(before.status, before.status)
    before.check_not_overdue(now)


def conflict() -> Aborted:
    return Aborted("CONFLICT", "Another call was under way on the same thing.", retry_after_s=0.1)


@contextmanager
def _located(index: int, many: bool) -> Iterator[None]:
    """Errors of one among many name its index."""
    try:
        yield
    except DomainError as error:
        if many:
            error.metadata["index"] = str(index)
        raise


async def _twice(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """Once more for what passes by itself."""
    try:
        return await attempt()
    except _PASSING:
        return await attempt()
