"""A booking's life, from its confirmation to its end."""

from __future__ import annotations

import uuid
from typing import Any

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, errors, idempotency, masks, pages
from libs.interceptors import Context
from libs.pooling import Connection
from services.booking import confirming, guard, telling
from services.booking.messages import bookings as messages
from services.booking.model.bookings import Booking
from services.booking.model.directory import Org, org_not_found
from services.booking.servicer.desk import Desk
from services.booking.store import directory
from services.booking.store import life as store

FIRST_ID = str(uuid.UUID(int=0))


class Life:
    """ConfirmBooking, CancelBooking, QuoteCancellation, StartLesson, CompleteLesson, MarkNoShow,
    ListBookingTransitions.

    A suspended school may end what is under way, and begin nothing.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ConfirmBooking(
        self, request: pb.ConfirmBookingRequest, context: Context
    ) -> pb.Booking:
        org_id = calls.org()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Booking)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            before = await _lock(conn, org_id, request)
            before.check_confirmable(self._desk.clock())
            after = await confirming.confirm(conn, org_id, before)
            answer = messages.booking(after)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def CancelBooking(self, request: pb.CancelBookingRequest, context: Context) -> pb.Booking:
        org_id = calls.org()
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Booking)
            if answer is not None:
                return answer
            before = await _lock(conn, org_id, request)
            quote = before.quote_cancellation((await _org(conn, org_id)).policy, now)
            after = await store.cancel_booking(
                conn,
                org_id,
                before,
                reason=request.reason,
                refund_cents=quote.refund_cents,
                now=now,
            )
            await telling.changed(
                conn,
                org_id,
                before,
                after,
                "cancel",
                reason=request.reason,
                refund_cents=quote.refund_cents,
            )
            answer = messages.booking(after)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def QuoteCancellation(
        self, request: pb.QuoteCancellationRequest, context: Context
    ) -> pb.CancellationQuote:
        org_id = calls.org()
        booking_id = uuid.UUID(request.booking_id)
        async with self._desk.orgs.read(org_id) as conn:
            booking = _found(await store.find_booking(conn, org_id, booking_id), booking_id)
            policy = (await _org(conn, org_id)).policy
        return messages.quote(booking.quote_cancellation(policy, self._desk.clock()))

    async def StartLesson(self, request: pb.StartLessonRequest, context: Context) -> pb.Lesson:
        org_id = calls.org()
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Lesson)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            before = await _lock(conn, org_id, request)
            before.check_start(now)
            after = await store.set_booking_status(conn, org_id, before, "in_progress")
            lesson = await store.add_lesson(conn, org_id, after, now)
            await telling.changed(conn, org_id, before, after, "start")
            await telling.emit_lesson(conn, org_id, lesson, after, "lesson.started")
            answer = messages.lesson(lesson)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def CompleteLesson(
        self, request: pb.CompleteLessonRequest, context: Context
    ) -> pb.Lesson:
        org_id = calls.org()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Lesson)
            if answer is not None:
                return answer
            before = await _lock(conn, org_id, request)
            before.check_transition("completed")
            after = await store.set_booking_status(conn, org_id, before, "completed")
            lesson = await store.end_lesson(
                conn,
                org_id,
                before.id,
                rating=request.rating or None,
                notes=request.notes,
                now=self._desk.clock(),
            )
            await telling.changed(conn, org_id, before, after, "complete")
            await telling.emit_lesson(conn, org_id, lesson, after, "lesson.completed")
            answer = messages.lesson(lesson)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def MarkNoShow(self, request: pb.MarkNoShowRequest, context: Context) -> pb.Booking:
        org_id = calls.org()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Booking)
            if answer is not None:
                return answer
            before = await _lock(conn, org_id, request)
            grace_minutes = (await _org(conn, org_id)).no_show_grace_minutes
            before.check_no_show(self._desk.clock(), grace_minutes)
            after = await store.set_booking_status(conn, org_id, before, "no_show")
            await telling.changed(conn, org_id, before, after, "no_show")
            answer = messages.booking(after)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def ListBookingTransitions(
        self, request: pb.ListBookingTransitionsRequest, context: Context
    ) -> pb.ListBookingTransitionsResponse:
        org_id = calls.org()
        booking_id = uuid.UUID(request.booking_id)
        paths = masks.paths(request.read_mask, store.TRANSITION_PATHS)
        limit = pages.size(request)
        (after_id,) = self._desk.pages.start(request, org_id, [FIRST_ID])
        async with self._desk.orgs.read(org_id) as conn:
            _found(await store.find_booking(conn, org_id, booking_id), booking_id)
            found = await store.list_transitions(
                conn,
                org_id,
                booking_id,
                after_id=uuid.UUID(after_id),
                limit=limit + 1,
                paths=paths,
            )
        response = pb.ListBookingTransitionsResponse(
            transitions=map(masks.reader(pb.BookingTransition, paths), found[:limit])
        )
        if len(found) > limit:
            last = str(found[limit - 1][-1])
            response.next_page_token = self._desk.pages.token(request, org_id, [last])
        return response


async def _lock(conn: Connection, org_id: uuid.UUID, request: Any) -> Booking:
    """The booking that the request names, locked, as the caller has seen it."""
    booking_id = uuid.UUID(request.booking_id)
    booking = _found(await store.lock_booking(conn, org_id, booking_id), booking_id)
    booking.check_etag(request.etag)
    return booking


def _found(booking: Booking | None, booking_id: uuid.UUID) -> Booking:
    if booking is None:
        raise errors.not_found("booking", booking_id)
    return booking


async def _org(conn: Connection, org_id: uuid.UUID) -> Org:
    """The school, suspended or not."""
    org = await directory.get_org(conn, org_id)
    if org is None:
        raise org_not_found(org_id)
    return org
