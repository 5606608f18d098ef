"""The waitlist: join, leave, list. Who is offered what is for services/booking/sweeps.py."""

from __future__ import annotations

import uuid
from typing import Any

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, errors, idempotency, masks, pages
from libs.interceptors import Context
from libs.messages import optional_id, time
from libs.pooling import Connection
from services.booking import guard, telling
from services.booking.messages import waitlist as messages
from services.booking.model import slots as rules
from services.booking.model.waitlist import OPEN
from services.booking.servicer.desk import Desk
from services.booking.store import directory
from services.booking.store import waitlist as store

NOBODY = uuid.UUID(int=0)


class Waitlist:
    """JoinWaitlist, LeaveWaitlist, ListWaitlist."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def JoinWaitlist(
        self, request: pb.JoinWaitlistRequest, context: Context
    ) -> pb.WaitlistEntry:
        org_id = calls.org()
        wanted = request.waitlist_entry
        start_at, end_at = time(wanted, "start_time"), time(wanted, "end_time")
        if start_at is None or end_at is None:
            raise AssertionError("the proto requires both")
        rules.check_search(start_at, end_at)
        rules.check_start(end_at, self._desk.clock())
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.WaitlistEntry)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            await _check_there(conn, org_id, wanted)
            entry = await store.join_waitlist(
                conn,
                org_id,
                student_id=uuid.UUID(wanted.student_id),
                service_id=uuid.UUID(wanted.service_id),
                instructor_id=optional_id(wanted.instructor_id),
                start_at=start_at,
                end_at=end_at,
            )
            await telling.record_waitlist_entry(conn, org_id, entry, "create")
            answer = messages.entry(entry)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def LeaveWaitlist(
        self, request: pb.LeaveWaitlistRequest, context: Context
    ) -> pb.WaitlistEntry:
        org_id = calls.org()
        entry_id = uuid.UUID(request.waitlist_entry_id)
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.WaitlistEntry)
            if answer is not None:
                return answer
            entry = await store.lock_waitlist_entry(conn, org_id, entry_id)
            if entry is None:
                raise errors.not_found("waitlist_entry", entry_id)
            if entry.status in OPEN:
                left = await store.set_waitlist_status(conn, org_id, entry, "left")
                entry = left or entry
                await telling.record_waitlist_entry(conn, org_id, entry, "leave")
            answer = messages.entry(entry)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def ListWaitlist(
        self, request: pb.ListWaitlistRequest, context: Context
    ) -> pb.ListWaitlistResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        (after_id,) = self._desk.pages.start(request, org_id, [str(NOBODY)])
        arguments: dict[str, Any] = {
            "after_id": uuid.UUID(after_id),
            "limit": limit + 1,
            "paths": paths,
        }
        reader = self._desk.orgs.reader(org_id)
        if request.status:
            status = messages.STATUS_NAMES[request.status]
            entries = await store.list_waitlist_with_status(reader, org_id, status, **arguments)
        else:
            entries = await store.list_waitlist(reader, org_id, **arguments)
        response = pb.ListWaitlistResponse(
            waitlist_entries=map(masks.reader(pb.WaitlistEntry, paths), entries[:limit])
        )
        if len(entries) > limit:
            last = str(entries[limit - 1][-1])
            response.next_page_token = self._desk.pages.token(request, org_id, [last])
        return response


async def _check_there(conn: Connection, org_id: uuid.UUID, wanted: pb.WaitlistEntry) -> None:
    """Raise NotFound for ids that the school does not have."""
    student_id, service_id = uuid.UUID(wanted.student_id), uuid.UUID(wanted.service_id)
    student = await directory.get_student(conn, org_id, student_id)
    if student is None:
        raise errors.not_found("student", student_id)
    student.check_changeable()
    if await directory.get_service(conn, org_id, service_id) is None:
        raise errors.not_found("service", service_id)
    instructor_id = optional_id(wanted.instructor_id)
    if instructor_id is None:
        return
    if await directory.get_instructor(conn, org_id, instructor_id) is None:
        raise errors.not_found("instructor", instructor_id)
