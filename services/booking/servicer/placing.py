"""Placing bookings: hold, create, batch, series, reschedule."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls
from libs.errors import FailedPrecondition, InvalidArgument
from libs.interceptors import Context
from libs.messages import optional_id, stamp, time
from services.booking import zones
from services.booking.messages import slots as messages
from services.booking.messages.bookings import booking as booking_message
from services.booking.model.bookings import Booking
from services.booking.model.placing import Outcome
from services.booking.model.slots import Quote, Wanted
from services.booking.placing import Move, Order, Placing
from services.booking.servicer.desk import Desk

WEEK = timedelta(weeks=1)


class Places:
    """HoldSlot, CreateBooking, BatchCreateBookings, CreateBookingSeries, RescheduleBooking."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._placing = Placing(desk.orgs, desk.zone, desk.clock)

    async def HoldSlot(self, request: pb.HoldSlotRequest, context: Context) -> pb.Booking:
        org_id = calls.org()
        booking = pb.Booking(
            student_id=request.student_id,
            instructor_id=request.instructor_id,
            service_id=request.service_id,
            vehicle_id=request.vehicle_id,
        )
        if request.HasField("start_time"):
            booking.start_time.CopyFrom(request.start_time)
        wanted = messages.wanted(booking, self._quote(org_id, request.slot_token), "")
        order = Order(request=request, wanted=[wanted], status="held")
        return await self._placing.place(org_id, order, pb.Booking, _only)

    async def CreateBooking(self, request: pb.CreateBookingRequest, context: Context) -> pb.Booking:
        org_id = calls.org()
        wanted = messages.wanted(request.booking, self._quote(org_id, request.slot_token))
        keep = not request.validate_only
        order = Order(request=request, wanted=[wanted], status="requested", keep=keep)
        return await self._placing.place(org_id, order, pb.Booking, _only if keep else _draft)

    async def BatchCreateBookings(
        self, request: pb.BatchCreateBookingsRequest, context: Context
    ) -> pb.BatchCreateBookingsResponse:
        wanted = [
            messages.wanted(booking, None, f"bookings[{index}].")
            for index, booking in enumerate(request.bookings)
        ]
        order = Order(request=request, wanted=wanted, status="requested", many=True)

        def answer(outcomes: list[Outcome]) -> pb.BatchCreateBookingsResponse:
            return pb.BatchCreateBookingsResponse(bookings=[_only([each]) for each in outcomes])

        kind = pb.BatchCreateBookingsResponse
        return await self._placing.place(calls.org(), order, kind, answer)

    async def CreateBookingSeries(
        self, request: pb.CreateBookingSeriesRequest, context: Context
    ) -> pb.BookingSeries:
        org_id = calls.org()
        first = messages.wanted(request.first, None, "first.")
        skip = request.on_conflict == pb.ON_CONFLICT_SKIP
        weeks = _weeks(first, request.weeks, await self._desk.zone(org_id), skip=skip)
        order = Order(
            request=request,
            wanted=[each for each in weeks if isinstance(each, Wanted)],
            status="requested",
            many=True,
            series_id=uuid.uuid4(),
            skip=skip,
        )

        def answer(outcomes: list[Outcome]) -> pb.BookingSeries:
            return _series(str(order.series_id), weeks, outcomes)

        return await self._placing.place(org_id, order, pb.BookingSeries, answer)

    async def RescheduleBooking(
        self, request: pb.RescheduleBookingRequest, context: Context
    ) -> pb.Booking:
        org_id = calls.org()
        quote = self._quote(org_id, request.slot_token)

        def wanted(booking: Booking) -> Wanted:
            return _moved_to(request, quote, booking)

        move = Move(
            request=request,
            booking_id=uuid.UUID(request.booking_id),
            etag=request.etag,
            reason=request.reason,
            wanted=wanted,
        )
        return await self._placing.move(org_id, move)

    def _quote(self, org_id: uuid.UUID, token: str) -> Quote | None:
        return self._desk.slot_tokens.read(org_id, token) if token else None


def _only(outcomes: Sequence[Outcome]) -> pb.Booking:
    (outcome,) = outcomes
    if outcome.booking is None:
        raise AssertionError("an order that does not skip gives bookings")
    return booking_message(outcome.booking)


def _draft(outcomes: Sequence[Outcome]) -> pb.Booking:
    """What would be made: it has no id, version or time of its making."""
    draft = _only(outcomes)
    for field in ("id", "etag", "create_time", "update_time"):
        draft.ClearField(field)
    return draft


def _weeks(first: Wanted, count: int, zone: str, *, skip: bool) -> list[Wanted | Outcome]:
    """The occurrences by the wall clock; one whose time does not exist is an outcome at once."""
    wall = zones.local(zone, first.start_at)
    weeks: list[Wanted | Outcome] = []
    for week in range(count):
        reads = wall.replace(tzinfo=None, fold=0) + week * WEEK
        start_at = zones.moment(zone, reads, wall.fold)
        if start_at is not None:
            weeks.append(
                dataclasses.replace(first, start_at=start_at, end_at=_end(first, start_at))
            )
            continue
        error = _missing(reads.isoformat(" "), week)
        if not skip:
            raise error
        weeks.append(Outcome(first.start_at + week * WEEK, error=error))
    return weeks


def _missing(reads: str, index: int) -> FailedPrecondition:
    return FailedPrecondition(
        "LOCAL_TIME_MISSING",
        f"The clocks skip {reads} that day.",
        metadata={"index": str(index)},
    )


def _end(first: Wanted, start_at: datetime) -> datetime | None:
    return None if first.end_at is None else start_at + (first.end_at - first.start_at)


def _series(
    series_id: str, weeks: Sequence[Wanted | Outcome], placed: Sequence[Outcome]
) -> pb.BookingSeries:
    rest = iter(placed)
    outcomes = [week if isinstance(week, Outcome) else next(rest) for week in weeks]
    return pb.BookingSeries(
        series_id=series_id, occurrences=[_occurrence(outcome) for outcome in outcomes]
    )


def _occurrence(outcome: Outcome) -> pb.Occurrence:
    return pb.Occurrence(
        start_time=stamp(outcome.start_at),
        booking=None if outcome.booking is None else booking_message(outcome.booking),
        reason="" if outcome.error is None else outcome.error.reason,
    )


def _moved_to(
    request: pb.RescheduleBookingRequest, quote: Quote | None, booking: Booking
) -> Wanted:
    """The booking as it is to be; a token stands for start and instructor."""
    if quote is not None and quote.service_id != booking.service_id:
        raise InvalidArgument(
            "SLOT_TOKEN_INVALID",
            "The slot token is of another lesson type.",
            fields=[("slot_token", "is of another lesson type")],
        )
    start_at = time(request, "start_time") or booking.start_at
    return Wanted(
        student_id=booking.student_id,
        instructor_id=quote.instructor_id
        if quote
        else optional_id(request.instructor_id) or booking.instructor_id,
        service_id=booking.service_id,
        vehicle_id=optional_id(request.vehicle_id) or booking.vehicle_id,
        start_at=quote.start_at if quote else start_at,
        quote=quote,
    )
