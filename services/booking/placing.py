"""Placing: how a slot becomes a booking, and one booking at most.

Every transaction that places or moves bookings takes the advisory locks of all parties (instructor,
vehicle, student; old and new) in one order, judges by the rule that search uses, expires overdue
holds that the constraints would take for live ones, and writes. The exclusion constraints have the
last word.

Calls for one booking each that come at once are placed together (gathering.py), by the same steps,
in a transaction that goes from school to school: it waits for no lock and writes what is certain.
Everyone else is judged once more alone.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import chain
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message
from psycopg import errors as pg

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, errors, idempotency
from libs.errors import Aborted, DomainError
from libs.orgs import Orgs, rescope
from libs.pooling import Connection
from services.booking import locks, telling, zones
from services.booking.gathering import Gathering
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
# What one more try may cure: someone else was in the way for a moment, or had the request_id.
_PASSING = (
    pg.DeadlockDetected,
    pg.LockNotAvailable,
    pg.SerializationFailure,
    pg.UniqueViolation,
)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bid(Generic[Answer]):
    """An order with its caller."""

    org_id: uuid.UUID
    order: Order
    kind: type[Answer]
    answer: Callable[[list[Outcome]], Answer]
    actor: str
    key: idempotency.Key | None
    """Under which its answer is kept; None when nobody asks again."""
    call: calls.Call | None
    task: asyncio.Task[Any] | None
    """In which the call waits."""

    @classmethod
    def of(
        cls,
        org_id: uuid.UUID,
        order: Order,
        kind: type[Answer],
        answer: Callable[[list[Outcome]], Answer],
    ) -> Bid[Answer]:
        """Of the call under way."""
        remembers = order.keep and order.request is not None
        return cls(
            org_id=org_id,
            order=order,
            kind=kind,
            answer=answer,
            actor=telling.caller(),
            key=idempotency.Key.of(order.request) if remembers else None,
            call=calls.current(),
            task=asyncio.current_task(),
        )

    @property
    def keys(self) -> list[idempotency.Key]:
        return [] if self.key is None else [self.key]

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for it any more: cancelled, or past its deadline."""
        task, deadline = self.task, None if self.call is None else self.call.deadline
        if task is not None and (task.done() or task.cancelling()):
            return True
        return deadline is not None and time.monotonic() >= deadline

    @property
    def goes_together(self) -> bool:
        """Whether it may share a transaction: one booking, to be placed as it is or not at all."""
        order = self.order
        plain = order.keep and order.request is not None and order.also is None
        return plain and len(order.wanted) == 1 and not (order.many or order.skip)


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

    def dated(self) -> list[tuple[Wanted, date]]:
        """What is wanted, with the local date of its start."""
        return [(each, zones.today(self.zone, each.start_at)) for each in self.wanted]

    def periods(self) -> list[zones.Period]:
        """The zone for as long as lessons may take that start as wanted."""
        starts = [each.start_at for each in self.wanted]
        return zones.periods(self.zone, min(starts), max(starts) + LESSON_MAX)


@dataclass(slots=True)
class _Group:
    """Bids of a school that go together, each for one booking."""

    org_id: uuid.UUID
    bids: Sequence[Bid[Any]]
    judging: _Judging

    def locks(self) -> list[set[int]]:
        """What each of the bids needs."""
        return [_locks_of(self.org_id, Parties.of(each)) for each in self.judging.wanted]


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
        self._gathering: Gathering[Bid[Any], Any] = Gathering(self._alone, self._together)

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
        bid = Bid.of(org_id, order, kind, answer)
        if bid.goes_together:
            return cast("Answer", await self._gathering.do(bid))
        return await self._alone(bid)

    async def _alone(self, bid: Bid[Answer]) -> Answer:
        org_id, now = bid.org_id, self._clock()
        zone = await self.zone_of(org_id)

        async def attempt() -> Answer:
            judging = _Judging(now, zone, bid.order.wanted)
            async with self._alternatives(org_id, judging), self._orgs.write(org_id) as conn:
                return await self._place(conn, bid, judging)

        return await _twice(attempt)

    async def _place(self, conn: Connection, bid: Bid[Answer], judging: _Judging) -> Answer:
        await _lock(conn, bid.org_id, Parties.of(*judging.wanted))
        # Behind the locks: of two calls with one request_id the second finds the first's answer.
        found = idempotency.look_up(conn, bid.org_id, bid.keys)
        await self._judge(conn, bid.org_id, judging)
        known = await idempotency.answers(conn, bid.org_id, found)
        decided = _decide(bid, judging.facts, judging.now, known)
        if isinstance(decided.answer, DomainError):
            raise decided.answer
        if decided.outcomes:
            await self._expire_overdue(conn, bid.org_id, judging)
            await _write(conn, bid.org_id, [decided])
        return cast("Answer", decided.answer)

    async def _together(self, bids: Sequence[Bid[Any]]) -> Sequence[Message | DomainError | None]:
        """An answer for each; None for who must go alone.

        Nobody here waits for a lock that someone else has. A slot may be taken by another of them
        who then did not get it either. And what fails for one fails for all.
        """
        calls.begin(_shared_call(bids))
        try:
            groups = await self._groups(bids)
            async with self._orgs.walk("placing") as conn:
                answers = await _place_groups(conn, groups)
        except (pg.IntegrityError, *_PASSING):
            return [None] * len(bids)
        for bid in bids:
            _tell_position(bid)
        return [answers.get(bid) for bid in bids]

    async def _groups(self, bids: Sequence[Bid[Any]]) -> list[_Group]:
        """The bids by school, in one order; without those of a school that can't be read."""
        now, groups = self._clock(), []
        for org_id in sorted({bid.org_id for bid in bids}):
            own = [bid for bid in bids if bid.org_id == org_id]
            with suppress(DomainError):
                zone = await self.zone_of(org_id)
                wanted = [bid.order.wanted[0] for bid in own]
                groups.append(_Group(org_id, own, _Judging(now, zone, wanted)))
        return groups

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
            alternatives = self._alternatives(org_id, judging, except_ids=[seen.id])
            async with alternatives, self._orgs.write(org_id) as conn:
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
            unmoved = booking_message(seen)
            await idempotency.remember(conn, org_id, move.request, unmoved)
            return unmoved
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
            judging.facts = await slots_store.judge_starts(
                conn,
                org_id,
                judging.dated(),
                now=judging.now,
                zone=judging.periods(),
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
    async def _alternatives(
        self, org_id: uuid.UUID, judging: _Judging, except_ids: Sequence[uuid.UUID] = ()
    ) -> AsyncIterator[None]:
        """Whoever came too late hears of the nearest free slots; read once all is rolled back."""
        try:
            yield
            return
        except pg.ExclusionViolation as error:
            taken = slot_taken(_CONFLICTS[error.diag.constraint_name or ""])
        except Aborted as error:
            if not _is_taken(error):
                raise
            taken = error
        index = int(taken.metadata.get("index", 0))
        offer(taken, await self._nearest(org_id, judging, index, except_ids))
        raise taken

    async def _nearest(
        self, org_id: uuid.UUID, judging: _Judging, index: int, except_ids: Sequence[uuid.UUID]
    ) -> list[datetime]:
        wanted, fact = judging.wanted[index], judging.facts[index]
        from_at = max(judging.now, wanted.start_at - NEAREST_WITHIN)
        to_at = min(wanted.start_at + NEAREST_WITHIN, starts_until(judging.now))
        return await slots_store.nearest_slots(
            self._orgs.reader(org_id),
            org_id,
            wanted=wanted,
            judged=fact,
            from_at=from_at,
            to_at=to_at,
            now=judging.now,
            zone=zones.periods(judging.zone, from_at, to_at),
            except_ids=except_ids,
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


def _locks_of(org_id: uuid.UUID, parties: Parties) -> set[int]:
    return locks.keys(
        org_id,
        instructors=parties.instructor_ids,
        vehicles=parties.vehicle_ids,
        students=parties.student_ids,
    )


@dataclass(frozen=True, slots=True)
class _Decided:
    """What becomes of a bid."""

    bid: Bid[Any]
    answer: Message | DomainError
    outcomes: list[Outcome] = field(default_factory=list)
    """What is to be written; nothing for an answer that is remembered or refuses."""


async def _place_groups(
    conn: Connection, groups: Sequence[_Group]
) -> dict[Bid[Any], Message | DomainError]:
    """The answers that are certain; nothing is written of who has none, or is refused."""
    locks_of = [group.locks() for group in groups]
    tried = await locks.try_all(conn, chain.from_iterable(chain.from_iterable(locks_of)))
    asked = [await _ask(conn, group) for group in groups]
    await conn.flush()
    missing = tried.missing()
    answers: dict[Bid[Any], Message | DomainError] = {}
    for group, wants, (found, facts) in zip(groups, locks_of, asked, strict=True):
        group.judging.facts = facts()
        free = [want.isdisjoint(missing) for want in wants]
        await rescope(conn, group.org_id)
        known = await idempotency.answers(conn, group.org_id, found)
        decided = _certain(group, free, known)
        await _write(conn, group.org_id, decided)
        answers |= {each.bid: each.answer for each in decided}
    return answers


async def _ask(
    conn: Connection, group: _Group
) -> tuple[idempotency.Found | None, Callable[[], list[Judged]]]:
    """What decides about a school's bids, put off. Behind the locks, as ever."""
    await rescope(conn, group.org_id)
    keys = [key for bid in group.bids for key in bid.keys]
    found = idempotency.look_up(conn, group.org_id, keys)
    judging = group.judging
    return found, slots_store.judge_starts_later(
        conn, group.org_id, judging.dated(), now=judging.now, zone=judging.periods()
    )


def _certain(
    group: _Group, free: Sequence[bool], known: Mapping[idempotency.Key, bytes | DomainError]
) -> list[_Decided]:
    """What becomes of the bids whose locks were free, where it does not depend on the others'.

    Nothing becomes of those that were given up. This is the last look at them: what follows is put
    ahead, and leaves with the COMMIT before the event loop turns to anyone else.
    """
    judging = group.judging
    facts = judging.facts
    if not facts or facts[0].time_zone != judging.zone:
        return []
    decided = [
        _decide(bid, [fact], judging.now, known)
        for bid, fact, is_free in zip(group.bids, facts, free, strict=True)
        if is_free and not fact.overdue_in_the_way and not bid.is_given_up
    ]
    return [each for each in decided if not _is_taken(each.answer)]


async def _write(conn: Connection, org_id: uuid.UUID, decided: Sequence[_Decided]) -> None:
    """All that is to be written of these, in one statement, and the answers under their keys."""
    fresh = [each for each in decided if each.outcomes]
    if not fresh:
        return
    placed = [
        (each.bid.actor, outcome.booking)
        for each in fresh
        for outcome in each.outcomes
        if outcome.booking is not None
    ]
    await store.place_bookings(conn, org_id, placed)
    for each in fresh:
        if each.bid.order.also is not None:
            await each.bid.order.also(conn, each.outcomes)
    answered = [
        (key, each.answer)
        for each in fresh
        for key in each.bid.keys
        if isinstance(each.answer, Message)
    ]
    await idempotency.keep(conn, org_id, answered)


def _decide(
    bid: Bid[Any],
    facts: Sequence[Judged],
    now: datetime,
    known: Mapping[idempotency.Key, bytes | DomainError],
) -> _Decided:
    remembered = None if bid.key is None else known.get(bid.key)
    if isinstance(remembered, DomainError):
        return _Decided(bid, remembered)
    if remembered is not None:
        return _Decided(bid, bid.kind.FromString(remembered))
    try:
        outcomes = _outcomes(bid.order, facts, now)
    except DomainError as refused:
        return _Decided(bid, refused)
    return _Decided(bid, bid.answer(outcomes), outcomes if bid.order.keep else [])


def _outcomes(order: Order, facts: Sequence[Judged], now: datetime) -> list[Outcome]:
    """What becomes of each; raises the first error unless the order skips."""
    outcomes = []
    for index, (wanted, fact) in enumerate(zip(order.wanted, facts, strict=True)):
        outcome = rules.outcome(wanted, fact, order.status, now, order.series_id)
        if outcome.error is not None and not order.skip:
            with _located(index, order.many):
                raise outcome.error
        outcomes.append(outcome)
    return outcomes


def _is_taken(answer: Message | DomainError) -> bool:
    return isinstance(answer, Aborted) and answer.reason == "SLOT_TAKEN"


def _shared_call(bids: Sequence[Bid[Any]]) -> calls.Call:
    """Stands for the calls of all: it ends when the last of them does; traced as one of them."""
    each = [bid.call for bid in bids if bid.call is not None]
    deadlines = [call.deadline for call in each if call.deadline is not None]
    method = each[0].method if each else ""
    return calls.Call(
        method,
        deadline=max(deadlines) if len(deadlines) == len(bids) else None,
        span=next((call.span for call in each if call.span is not None), None),
    )


def _tell_position(bid: Bid[Any]) -> None:
    """The consistency token of the transaction is that of each call in it."""
    shared = calls.current()
    if bid.call is not None and shared is not None:
        bid.call.consistency = shared.consistency


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
