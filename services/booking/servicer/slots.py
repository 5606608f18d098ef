"""Free slots: search and explanation."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, errors, pages
from libs.interceptors import Context
from libs.messages import optional_id, time
from services.booking import explaining, zones
from services.booking.messages import slots as messages
from services.booking.model import slots as rules
from services.booking.model.slots import LESSON_MAX, NOBODY
from services.booking.servicer.desk import Desk
from services.booking.store import directory
from services.booking.store import slots as store


class Slots:
    """SearchSlots and ExplainAvailability."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def SearchSlots(
        self, request: pb.SearchSlotsRequest, context: Context
    ) -> pb.SearchSlotsResponse:
        org_id = calls.org()
        desk, now = self._desk, self._desk.clock()
        service_id = uuid.UUID(request.service_id)
        instructor_id = optional_id(request.instructor_id)
        from_at, to_at = _times(request)
        to_at = min(to_at, rules.starts_until(now))
        limit = pages.size(request)
        first = [(from_at - timedelta(days=1)).isoformat(), str(NOBODY)]
        after_at, after_id = desk.pages.start(request, org_id, first)
        zone = await desk.zone(org_id)
        async with desk.orgs.read(org_id) as conn:
            if await directory.get_service(conn, org_id, service_id) is None:
                raise errors.not_found("service", service_id)
            if instructor_id is not None:
                found = await directory.get_instructor(conn, org_id, instructor_id)
                if found is None:
                    raise errors.not_found("instructor", instructor_id)
            slots = await store.search_slots(
                conn,
                org_id,
                service_id=service_id,
                instructor_id=instructor_id,
                from_at=from_at,
                to_at=to_at,
                now=now,
                zone=zones.periods(zone, from_at, to_at + LESSON_MAX),
                after=(datetime.fromisoformat(after_at), uuid.UUID(after_id)),
                limit=limit + 1,
            )
        response = pb.SearchSlotsResponse(
            slots=[
                messages.slot(slot, desk.slot_tokens.token(org_id, service_id, slot, now))
                for slot in slots[:limit]
            ]
        )
        if len(slots) > limit:
            last = slots[limit - 1]
            response.next_page_token = desk.pages.token(
                request, org_id, [last.start_at.isoformat(), str(last.instructor_id)]
            )
        return response

    async def ExplainAvailability(
        self, request: pb.ExplainAvailabilityRequest, context: Context
    ) -> pb.AvailabilityExplanation:
        org_id = calls.org()
        explanation = await explaining.explain(
            self._desk.orgs,
            org_id,
            instructor_id=uuid.UUID(request.instructor_id),
            service_id=uuid.UUID(request.service_id),
            at=_required(request, "time"),
            zone=await self._desk.zone(org_id),
            now=self._desk.clock(),
        )
        return messages.explanation(explanation)


def _required(request: Any, field: str) -> datetime:
    moment = time(request, field)
    if moment is None:
        raise AssertionError(f"the proto requires {field}")
    return moment


def _times(request: pb.SearchSlotsRequest) -> tuple[datetime, datetime]:
    from_at, to_at = _required(request, "start_time"), _required(request, "end_time")
    rules.check_search(from_at, to_at)
    return from_at, to_at
