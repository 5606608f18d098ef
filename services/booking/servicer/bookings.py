"""Reading bookings."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial

from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, consistency, errors, masks, pages, wire
from libs.errors import NotFound
from libs.interceptors import Context
from libs.messages import date_message, day, no_such_day, optional_id, stamp, time
from libs.orgs import Reader
from services.booking import zones
from services.booking.messages import bookings as messages
from services.booking.model import bookings as model
from services.booking.servicer.desk import Desk
from services.booking.store import bookings as store
from services.booking.store.bookings import Filter, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEARS = range(2, 9_999)
"""In the first and the last year a day's edges are not all on the calendar."""
QUICK_ROWS_MAX = 100
"""More take longer than others should have to wait for."""
List = Callable[[Reader, uuid.UUID, Filter, int, tuple[str, ...]], Awaitable[list[Row]]]


class Reads:
    """GetBooking, BatchGetBookings, ListBookings, ListDaySchedule."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def GetBooking(self, request: pb.GetBookingRequest, context: Context) -> pb.Booking:
        org_id = calls.org()
        found: pb.Booking | None
        if request.HasField("read_mask") and request.read_mask.paths:
            paths = _paths(request.read_mask, store.GET_PATHS)
            found = await self._read(org_id, uuid.UUID(request.booking_id), paths)
        else:
            at_least = consistency.wanted(calls.metadata())
            found = self._desk.cache.hit(org_id, "booking", request.booking_id, at_least)
            if found is None:
                booking_id = uuid.UUID(request.booking_id)
                # What is kept is the message as it is sent.
                fill = partial(self._read, org_id, booking_id, store.GET_PATHS)
                found = await self._desk.cache.fetch(
                    org_id, "booking", booking_id, fill, at_least=at_least
                )
        if found is None:
            raise errors.not_found("booking", uuid.UUID(request.booking_id))
        return found

    async def _read(
        self, org_id: uuid.UUID, booking_id: uuid.UUID, paths: tuple[str, ...]
    ) -> pb.Booking | None:
        reader = self._desk.orgs.quick_reader(org_id)
        row = await store.get_booking(reader, org_id, booking_id, paths)
        return None if row is None else wire.response(pb.Booking, messages.writer(paths)(row))

    async def BatchGetBookings(
        self, request: pb.BatchGetBookingsRequest, context: Context
    ) -> pb.BatchGetBookingsResponse:
        org_id = calls.org()
        paths = _paths(request.read_mask, store.GET_PATHS)
        wanted = [uuid.UUID(each) for each in request.booking_ids]
        reader = self._reader(org_id, len(wanted))
        rows = await store.batch_get_bookings(reader, org_id, wanted, paths)
        for index, booking_id in enumerate(wanted):
            if booking_id not in rows:
                raise _not_found_at(index, booking_id)
        kind, found = pb.BatchGetBookingsResponse, [rows[each] for each in wanted]
        return wire.response(kind, messages.listed(kind.DESCRIPTOR, paths, found))

    async def ListBookings(
        self, request: pb.ListBookingsRequest, context: Context
    ) -> pb.ListBookingsResponse:
        org_id = calls.org()
        paths = _paths(request.read_mask, store.LIST_PATHS)
        limit = pages.size(request)
        wanted = self._filter(request, org_id)
        reader = self._reader(org_id, limit)
        rows = await _list_of(wanted)(reader, org_id, wanted, limit + 1, paths)
        kind, token = pb.ListBookingsResponse, ""
        if len(rows) > limit:
            last = [rows[limit - 1][at] for at in store.ends(paths)]
            token = wire.field(kind.DESCRIPTOR, "next_page_token")
            token += wire.string(self._desk.pages.token(request, org_id, last))
        shown = messages.listed(kind.DESCRIPTOR, paths, rows[:limit])
        return wire.response(kind, shown, token)

    def _reader(self, org_id: uuid.UUID, rows: int) -> Reader:
        """One that suits so many rows."""
        orgs = self._desk.orgs
        return orgs.quick_reader(org_id) if rows <= QUICK_ROWS_MAX else orgs.reader(org_id)

    def _filter(self, request: pb.ListBookingsRequest, org_id: uuid.UUID) -> Filter:
        start_from = time(request, "start_time_from") or store.FIRST_START
        before = store.LAST
        start_to = time(request, "start_time_to")
        if start_to is not None:
            if start_to < start_from:
                raise model.end_before_start("start_time_to")
            # Nothing lies before the least id, so a booking that starts then is left out.
            before = (start_to, uuid.UUID(int=0))
        last = self._desk.pages.start(request, org_id, [])
        if last:
            before = (EPOCH + timedelta(microseconds=last[0]), uuid.UUID(last[1]))
        return Filter(
            start_from=start_from,
            before=before,
            student_id=optional_id(request.student_id),
            instructor_id=optional_id(request.instructor_id),
            status=messages.STATUS_NAMES.get(request.status),
            active_instructors_only=request.active_instructors_only,
        )

    async def ListDaySchedule(
        self, request: pb.ListDayScheduleRequest, context: Context
    ) -> pb.ListDayScheduleResponse:
        org_id = calls.org()
        paths = _paths(request.read_mask, store.DAY_PATHS)
        zone = await self._desk.zone(org_id)
        of = day(request, "date") or zones.today(zone, self._desk.clock())
        if of.year not in YEARS:
            raise no_such_day("date")
        start, end = zones.day(zone, of)
        reader = self._desk.orgs.reader(org_id)
        rows = await store.list_day_schedule(reader, org_id, start, end, paths)
        kind = pb.ListDayScheduleResponse
        head = kind(
            date=date_message(of), start_time=stamp(start), end_time=stamp(end), time_zone=zone
        )
        shown = messages.listed(kind.DESCRIPTOR, paths, rows)
        return wire.response(kind, wire.written(head), shown)


def _list_of(wanted: Filter) -> List:
    """The statement whose index serves the narrowest of the filters."""
    if wanted.student_id is not None:
        return store.list_bookings_of_student
    if wanted.instructor_id is not None:
        return store.list_bookings_of_instructor
    if wanted.status is not None:
        return store.list_bookings_with_status
    return store.list_bookings


def _paths(mask: FieldMask, default: tuple[str, ...]) -> tuple[str, ...]:
    return _known_paths(tuple(dict.fromkeys(mask.paths))) if mask.paths else default


@lru_cache(store.MASKS_MAX)
def _known_paths(asked: tuple[str, ...]) -> tuple[str, ...]:
    return masks.paths(FieldMask(paths=asked), store.FIELDS, ())


def _not_found_at(index: int, booking_id: uuid.UUID) -> NotFound:
    return NotFound(
        "BOOKING_NOT_FOUND",
        "No such booking.",
        metadata={"index": str(index)},
        resource=("booking", str(booking_id)),
    )
