"""Reading the audit log."""

from __future__ import annotations

import uuid
from datetime import datetime

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, pages
from libs.errors import InvalidArgument
from libs.interceptors import Context
from libs.orgs import Reader
from services.booking.messages import audit as messages
from services.booking.servicer.desk import Desk
from services.booking.store import audit as store
from services.booking.store.audit import AuditEntry, Filter

FIRST_PAGE = [store.LAST[0].isoformat(), str(store.LAST[1])]


class Audit:
    """ListAuditEntries."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        org_id = calls.caller().org
        limit = pages.size(request)
        last_time, last_id = self._desk.pages.start(request, org_id, FIRST_PAGE)
        if request.entity_id and not request.entity_type:
            raise _kind_wanted()
        wanted = Filter(
            before=(datetime.fromisoformat(last_time), uuid.UUID(last_id)),
            entity_type=request.entity_type or None,
            entity_id=request.entity_id or None,
            actor_user_id=request.actor_user_id or None,
        )
        found = await _list(self._desk.orgs.reader(org_id), org_id, wanted, limit + 1)
        response = pb.ListAuditEntriesResponse(
            audit_entries=[*map(messages.audit_entry, found[:limit])]
        )
        if len(found) > limit:
            last = found[limit - 1]
            response.next_page_token = self._desk.pages.token(
                request, org_id, [last.created_at.isoformat(), str(last.id)]
            )
        return response


async def _list(conn: Reader, org_id: uuid.UUID, wanted: Filter, limit: int) -> list[AuditEntry]:
    """By the statement whose index serves the narrowest of the filters."""
    if wanted.entity_id is not None:
        return await store.list_audit_entries_of_entity(conn, org_id, wanted, limit)
    if wanted.entity_type is not None:
        return await store.list_audit_entries_of_kind(conn, org_id, wanted, limit)
    if wanted.actor_user_id is not None:
        return await store.list_audit_entries_of_actor(conn, org_id, wanted, limit)
    return await store.list_audit_entries(conn, org_id, wanted, limit)


def _kind_wanted() -> InvalidArgument:
    return InvalidArgument(
        "INVALID_REQUEST",
        "entity_id: needs entity_type.",
        fields=[("entity_type", "is wanted with entity_id")],
    )
