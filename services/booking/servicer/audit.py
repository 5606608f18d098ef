"""Reading the audit log."""

from __future__ import annotations

import uuid
from datetime import datetime

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, masks, pages
from libs.errors import InvalidArgument
from libs.interceptors import Context
from libs.orgs import Reader
from services.booking.servicer.desk import Desk
from services.booking.store import audit as store
from services.booking.store.audit import Filter

FIRST_PAGE = [store.LAST[0].isoformat(), str(store.LAST[1])]


class Audit:
    """ListAuditEntries."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
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
        found = await _list(self._desk.orgs.reader(org_id), org_id, wanted, limit + 1, paths)
        response = pb.ListAuditEntriesResponse(
            audit_entries=map(masks.reader(pb.AuditEntry, paths), found[:limit])
        )
        if len(found) > limit:
            created_at, last_id = found[limit - 1][-2:]
            response.next_page_token = self._desk.pages.token(
                request, org_id, [created_at.isoformat(), str(last_id)]
            )
        return response


async def _list(
    conn: Reader, org_id: uuid.UUID, wanted: Filter, limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    """By the statement whose index serves the narrowest of the filters."""
    if wanted.entity_id is not None:
        return await store.list_audit_entries_of_entity(conn, org_id, wanted, limit, paths)
    if wanted.entity_type is not None:
        return await store.list_audit_entries_of_kind(conn, org_id, wanted, limit, paths)
    if wanted.actor_user_id is not None:
        return await store.list_audit_entries_of_actor(conn, org_id, wanted, limit, paths)
    return await store.list_audit_entries(conn, org_id, wanted, limit, paths)


def _kind_wanted() -> InvalidArgument:
    return InvalidArgument(
        "INVALID_REQUEST",
        "entity_id: needs entity_type.",
        fields=[("entity_type", "is wanted with entity_id")],
    )
