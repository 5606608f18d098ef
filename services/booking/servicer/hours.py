"""DirectoryService: the hours that instructors work.

Whoever changes hours takes the instructor's lock first, as whoever places a booking does: neither
judges by what the other is about to change.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import date

from driveflow.booking.v1 import directory_pb2 as pb
from libs import audit, cache, calls, consistency, idempotency, masks, pages
from libs.interceptors import Context
from libs.messages import day
from libs.pooling import Connection
from services.booking import guard, locks, zones
from services.booking.messages import hours as messages
from services.booking.model import hours as model
from services.booking.model.bookings import etag_mismatch
from services.booking.model.directory import Instructor
from services.booking.model.hours import Rule
from services.booking.servicer.desk import Desk
from services.booking.store import hours as store


class Hours:
    """Weekly hours and their exceptions."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def SetWeeklyAvailability(
        self, request: pb.SetWeeklyAvailabilityRequest, context: Context
    ) -> pb.WeeklyAvailability:
        org_id = calls.org()
        instructor_id = uuid.UUID(request.instructor_id)
        wanted_from = day(request, "effective_from")
        async with self._desk.orgs.write(org_id) as conn:
            await locks.take(conn, org_id, instructors=[instructor_id])
            answer = await idempotency.recall(conn, org_id, request, pb.WeeklyAvailability)
            if answer is not None:
                return answer
            org = await guard.open_org(conn, org_id)
            today = zones.today(org.time_zone, self._desk.clock())
            first = wanted_from or today
            rules = _wanted(request, first)
            version = await _raised(conn, org_id, instructor_id)
            if request.etag not in ("", str(version - 1)):
                raise etag_mismatch()
            await _replace(conn, org_id, instructor_id, first, rules)
            kept = await store.list_rules(conn, org_id, instructor_id, today)
            answer = messages.availability(instructor_id, kept, version)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def GetAvailability(
        self, request: pb.GetAvailabilityRequest, context: Context
    ) -> pb.WeeklyAvailability:
        org_id = calls.org()
        instructor_id = uuid.UUID(request.instructor_id)
        paths = masks.paths(request.read_mask, messages.AVAILABILITY_PATHS)
        since = model.DATE_MIN if request.include_past else await self._today(org_id, context)
        async with self._desk.orgs.read(org_id) as conn:
            # Before the rules: an etag that is too old is refused, one that is too new would not.
            version = await store.get_calendar_version(conn, org_id, instructor_id)
            if version is None:
                raise model.instructor_not_found(instructor_id)
            rules: list[Rule] = []
            if "rules" in paths:
                rules = await store.list_rules(conn, org_id, instructor_id, since)
        return masks.kept(messages.availability(instructor_id, rules, version), paths)

    async def CreateAvailabilityException(
        self, request: pb.CreateAvailabilityExceptionRequest, context: Context
    ) -> pb.AvailabilityException:
        org_id = calls.org()
        wanted = messages.new_exception(request.exception)
        wanted.check()
        async with self._desk.orgs.write(org_id) as conn:
            await locks.take(conn, org_id, instructors=[wanted.instructor_id])
            answer = await idempotency.recall(conn, org_id, request, pb.AvailabilityException)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            await _raised(conn, org_id, wanted.instructor_id)
            made = await store.create_exception(conn, org_id, wanted)
            await audit.record(
                conn, org_id, "availability_exception", made.id, "create", after=made.values()
            )
            answer = messages.exception(made)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def DeleteAvailabilityException(
        self, request: pb.DeleteAvailabilityExceptionRequest, context: Context
    ) -> pb.AvailabilityException:
        org_id = calls.org()
        exception_id = uuid.UUID(request.exception_id)
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.AvailabilityException)
            if answer is not None:
                return answer
            found = await store.get_exception(conn, org_id, exception_id)
            if found is None:
                raise model.exception_not_found(exception_id)
            await locks.take(conn, org_id, instructors=[found.instructor_id])
            await guard.open_org(conn, org_id)
            if not await store.delete_exception(conn, org_id, exception_id):
                raise model.exception_not_found(exception_id)
            await _raised(conn, org_id, found.instructor_id)
            await audit.record(
                conn, org_id, "availability_exception", found.id, "delete", before=found.values()
            )
            answer = messages.exception(found)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def ListAvailabilityExceptions(
        self, request: pb.ListAvailabilityExceptionsRequest, context: Context
    ) -> pb.ListAvailabilityExceptionsResponse:
        org_id = calls.org()
        instructor_id = uuid.UUID(request.instructor_id)
        paths = masks.paths(request.read_mask, store.EXCEPTION_PATHS)
        limit = pages.size(request)
        date_from = day(request, "date_from") or await self._today(org_id, context)
        date_to = day(request, "date_to") or date.max
        tokens = self._desk.pages
        after, place = tokens.start(request, org_id, [date.min.isoformat(), -1])
        async with self._desk.orgs.read(org_id) as conn:
            if await store.get_calendar_version(conn, org_id, instructor_id) is None:
                raise model.instructor_not_found(instructor_id)
            found = await store.list_exceptions(
                conn,
                org_id,
                instructor_id,
                within=(date_from, date_to),
                after=(date.fromisoformat(after), place),
                limit=limit + 1,
                paths=paths,
            )
        response = pb.ListAvailabilityExceptionsResponse(
            exceptions=map(masks.reader(pb.AvailabilityException, paths), found[:limit])
        )
        if len(found) > limit:
            last, place = found[limit - 1][-2:]
            response.next_page_token = tokens.token(request, org_id, [last.isoformat(), place])
        return response

    async def _today(self, org_id: uuid.UUID, context: Context) -> date:
        at_least = consistency.wanted(calls.metadata())
        org = await self._desk.org(org_id, at_least)
        return zones.today(org.time_zone, self._desk.clock())


def _wanted(request: pb.SetWeeklyAvailabilityRequest, first: date) -> list[Rule]:
    model.check_date("effective_from", first)
    rules = [messages.new_rule(each, first) for each in request.rules]
    model.check_all(rules, first)
    return rules


async def _raised(conn: Connection, org_id: uuid.UUID, instructor_id: uuid.UUID) -> int:
    """The new version of a calendar that is about to change."""
    version = await store.raise_calendar_version(conn, org_id, instructor_id)
    if version is None:
        raise model.instructor_not_found(instructor_id)
    await cache.invalidate(conn, org_id, Instructor.KIND, instructor_id)
    return version


async def _replace(
    conn: Connection,
    org_id: uuid.UUID,
    instructor_id: uuid.UUID,
    first: date,
    rules: Sequence[Rule],
) -> None:
    """New hours from a date on, and a note of those that were to hold then."""
    before = await store.list_rules(conn, org_id, instructor_id, first)
    await store.delete_rules(conn, org_id, instructor_id, first)
    await store.end_rules(conn, org_id, instructor_id, first)
    await store.add_rules(conn, org_id, instructor_id, rules)
    await audit.record(
        conn,
        org_id,
        "availability",
        instructor_id,
        "set",
        before=model.audited(before),
        after=model.audited(rules),
    )
