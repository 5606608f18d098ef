"""Instructors' figures, and when they are computed."""

from __future__ import annotations

import uuid
from datetime import datetime

from driveflow.booking.v1 import booking_pb2 as pb
from libs import audit, calls, errors, masks, pages
from libs.interceptors import Context
from libs.messages import stamp
from libs.orgs import Orgs
from libs.pooling import connection
from services.booking.servicer.desk import Desk
from services.booking.store import stats as store

FIRST_ID = str(uuid.UUID(int=0))
REFRESH_S = 300.0
"""A refresh may take so long; a server's other calls may not."""


class Stats:
    """GetInstructorStats, ListInstructorStats, RefreshInstructorStats."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def GetInstructorStats(
        self, request: pb.GetInstructorStatsRequest, context: Context
    ) -> pb.InstructorStats:
        org_id = calls.org()
        instructor_id = uuid.UUID(request.instructor_id)
        paths = masks.paths(request.read_mask, store.PATHS)
        reader = self._desk.orgs.reader(org_id)
        found = await store.get_instructor_stats(reader, org_id, instructor_id, paths)
        if found is None:
            raise errors.not_found("instructor_stats", instructor_id)
        return masks.reader(pb.InstructorStats, paths)(found)

    async def ListInstructorStats(
        self, request: pb.ListInstructorStatsRequest, context: Context
    ) -> pb.ListInstructorStatsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        (after_id,) = self._desk.pages.start(request, org_id, [FIRST_ID])
        found = await store.list_instructor_stats(
            self._desk.orgs.reader(org_id),
            org_id,
            after_id=uuid.UUID(after_id),
            limit=limit + 1,
            paths=paths,
        )
        response = pb.ListInstructorStatsResponse(
            instructor_stats=map(masks.reader(pb.InstructorStats, paths), found[:limit]),
            refresh_time=stamp(found[0][-2]) if found else None,
        )
        if len(found) > limit:
            last = str(found[limit - 1][-1])
            response.next_page_token = self._desk.pages.token(request, org_id, [last])
        return response

    async def RefreshInstructorStats(
        self, request: pb.RefreshInstructorStatsRequest, context: Context
    ) -> pb.RefreshInstructorStatsResponse:
        refreshed_at = await refresh(self._desk.orgs)
        return pb.RefreshInstructorStatsResponse(refresh_time=stamp(refreshed_at))


async def refresh(orgs: Orgs, timeout_s: float = REFRESH_S) -> datetime:
    """Compute the figures of all schools anew; when that was.

    Who calls while another computes waits for him, in whatever process, and answers his time.
    """
    async with connection(orgs.pool) as conn, conn.transaction():
        await store.allow_long_refresh(conn, timeout_s)
        before = await store.last_refresh(conn)
        await store.lock_refresh(conn)
        latest = await store.last_refresh(conn)
        if latest is not None and latest != before:
            return latest
        await store.refresh_instructor_stats(conn)
        refreshed_at = await store.refresh_time(conn)
        await audit.record(
            conn,
            audit.PLATFORM,
            "instructor_stats",
            "all",
            "refresh",
            after={"refresh_time": refreshed_at.isoformat()},
        )
        return refreshed_at
