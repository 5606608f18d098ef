"""What one process of all does for each school, every few seconds: overdue holds expire, and who
waits for a slot is offered one that is free, first come first, as a hold of the school's hold time.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from functools import partial

from driveflow.booking.v1 import booking_pb2 as pb
from libs import outbox
from libs.errors import DomainError
from libs.leader import forget_requests
from libs.orgs import Orgs
from libs.pooling import Connection
from services.booking import placing, telling, zones
from services.booking.messages.bookings import booking as booking_message
from services.booking.model.placing import Outcome
from services.booking.model.slots import LESSON_MAX, NOBODY, Slot, Wanted
from services.booking.model.waitlist import WaitlistEntry
from services.booking.placing import Order, Placing
from services.booking.store import placing as placing_store
from services.booking.store import slots as slots_store
from services.booking.store import waitlist as store

HOLDS_A_TRANSACTION = 100
ENTRIES_A_PAGE = 200
SLOTS_TRIED = 5
"""A free slot may be taken for this student by a lesson of his with someone else."""


class Sweeps:
    """The duties that go school by school."""

    def __init__(self, orgs: Orgs, places: Placing, clock: Callable[[], datetime]) -> None:
        self._orgs = orgs
        self._placing = places
        self._clock = clock

    async def school(self, org_id: uuid.UUID) -> None:
        """One look at a school: costs a statement when there is nothing to do."""
        now = self._clock()
        reader = self._orgs.reader(org_id)
        overdue, waiting = await store.work_of_sweep(reader, org_id, now)
        if overdue:
            await self.expire_holds(org_id, now)
        if waiting:
            await self.offer(org_id, now)

    async def forget(self, org_id: uuid.UUID) -> None:
        """Forget the answers to request ids that no longer count."""
        await forget_requests(self._orgs, org_id)

    async def expire_holds(self, org_id: uuid.UUID, now: datetime) -> None:
        """Publish the end of holds whose time is over."""
        while True:
            async with self._orgs.write(org_id) as conn:
                overdue = await placing_store.expire_holds(conn, org_id, now, HOLDS_A_TRANSACTION)
                await placing.tell_expired(conn, org_id, overdue)
            if len(overdue) < HOLDS_A_TRANSACTION:
                return

    async def offer(self, org_id: uuid.UUID, now: datetime) -> None:
        """Hold a free slot for each who waits and can be served, first come first."""
        async with self._orgs.write(org_id) as conn:
            for lapsed in await store.lapse_waitlist(conn, org_id, now):
                await telling.record_waitlist_entry(conn, org_id, lapsed, "lapse")
        async for entry in self._waiting(org_id):
            for slot in await self._free(org_id, entry, now):
                if await self._offered(org_id, entry, slot):
                    break

    async def _waiting(self, org_id: uuid.UUID) -> AsyncIterator[WaitlistEntry]:
        """All who wait: the first may want what nobody gives."""
        after_id = NOBODY
        while True:
            entries = await store.find_waiting(
                self._orgs.reader(org_id), org_id, after_id=after_id, limit=ENTRIES_A_PAGE
            )
            for entry in entries:
                yield entry
            if len(entries) < ENTRIES_A_PAGE:
                return
            after_id = entries[-1].id

    async def _free(self, org_id: uuid.UUID, entry: WaitlistEntry, now: datetime) -> list[Slot]:
        zone = await self._placing.zone_of(org_id)
        from_at = max(entry.start_at, now)
        return await slots_store.search_slots(
            self._orgs.reader(org_id),
            org_id,
            service_id=entry.service_id,
            instructor_id=entry.instructor_id,
            from_at=from_at,
            to_at=entry.end_at,
            now=now,
            zone=zones.periods(zone, from_at, entry.end_at + LESSON_MAX),
            after=(from_at - timedelta(days=1), NOBODY),
            limit=SLOTS_TRIED,
        )

    async def _offered(self, org_id: uuid.UUID, entry: WaitlistEntry, slot: Slot) -> bool:
        """Whether the slot could be held for the student; else someone was faster."""
        wanted = Wanted(
            student_id=entry.student_id,
            instructor_id=slot.instructor_id,
            service_id=entry.service_id,
            vehicle_id=None,
            start_at=slot.start_at,
        )
        tell = partial(_tell_offer, org_id, entry)
        order = Order(request=None, wanted=[wanted], status="held", also=tell)
        try:
            await self._placing.place(org_id, order, pb.Booking, _message)
        except DomainError:
            return False
        return True


async def _tell_offer(
    org_id: uuid.UUID, entry: WaitlistEntry, conn: Connection, outcomes: list[Outcome]
) -> None:
    """In the transaction of the hold: the entry and the event."""
    booking = outcomes[0].booking
    if booking is None:
        raise AssertionError("an order that does not skip gives bookings")
    offered = await store.set_waitlist_status(conn, org_id, entry, "offered", booking.id)
    if offered is None:
        raise placing.conflict()
    await telling.record_waitlist_entry(conn, org_id, offered, "offer")
    told = {
        "entry_id": str(entry.id),
        "booking_id": str(booking.id),
        "student_id": str(entry.student_id),
    }
    await outbox.emit(conn, org_id, "waitlist", entry.id, offered.version, "waitlist.offered", told)


def _message(outcomes: list[Outcome]) -> pb.Booking:
    booking = outcomes[0].booking
    return pb.Booking() if booking is None else booking_message(booking)
