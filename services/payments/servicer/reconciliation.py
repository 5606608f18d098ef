"""ReconciliationService: our books against Stripe's."""

from __future__ import annotations

import uuid
from datetime import datetime

from driveflow.payments.v1 import reconciliation_pb2 as pb
from driveflow.payments.v1 import reconciliation_pb2_grpc
from libs import audit, calls, errors, idempotency, masks, pages
from libs.interceptors import Context
from libs.messages import optional_id
from libs.orgs import Reader
from services.payments.messages import reconciliation as messages
from services.payments.messages.revenue import period
from services.payments.model.reconciliation import Discrepancy, check_period
from services.payments.servicer.charges import end_before_start
from services.payments.servicer.desk import Desk
from services.payments.store import reconciliation as store
from services.payments.store.reconciliation import Filter


class ReconciliationServicer(reconciliation_pb2_grpc.ReconciliationServiceServicer):
    """Runs and what they found; reconciling.py carries them out."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def StartReconciliation(
        self, request: pb.StartReconciliationRequest, context: Context
    ) -> pb.ReconciliationRun:
        org_id = calls.org()
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.ReconciliationRun)
            if answer is not None:
                return answer
            from_at, to_at = _period(request, now)
            run = await store.add_run(
                conn, org_id, now, from_at=from_at, to_at=to_at, dry_run=request.dry_run
            )
            started = {
                "from": run.from_at.isoformat(),
                "to": run.to_at.isoformat(),
                "dry_run": run.dry_run,
            }
            await audit.record(conn, org_id, "reconciliation_run", run.id, "start", after=started)
            answer = messages.run(run)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def GetReconciliationRun(
        self, request: pb.GetReconciliationRunRequest, context: Context
    ) -> pb.ReconciliationRun:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.RUN_PATHS)
        reader = self._desk.orgs.reader(org_id)
        row = await _run(reader, org_id, uuid.UUID(request.run_id), paths)
        return masks.reader(pb.ReconciliationRun, paths)(row)

    async def ListDiscrepancies(
        self, request: pb.ListDiscrepanciesRequest, context: Context
    ) -> pb.ListDiscrepanciesResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        (before_id,) = self._desk.pages.start(request, org_id, [str(store.LAST_ID)])
        asked = Filter(
            run_id=optional_id(request.run_id),
            kind=messages.KIND_NAMES.get(request.kind),
            unresolved_only=request.unresolved_only,
            before_id=uuid.UUID(before_id),
        )
        async with self._desk.orgs.read(org_id) as conn:
            found = await _list(conn, org_id, asked, limit + 1, paths)
        response = pb.ListDiscrepanciesResponse(
            discrepancies=map(masks.reader(pb.Discrepancy, paths), found[:limit])
        )
        if len(found) > limit:
            last = str(found[limit - 1][-1])
            response.next_page_token = self._desk.pages.token(request, org_id, [last])
        return response

    async def ResolveDiscrepancy(
        self, request: pb.ResolveDiscrepancyRequest, context: Context
    ) -> pb.Discrepancy:
        org_id = calls.org()
        discrepancy_id = uuid.UUID(request.discrepancy_id)
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Discrepancy)
            if answer is not None:
                return answer
            before = await store.lock_discrepancy(conn, org_id, discrepancy_id)
            if before is None:
                raise errors.not_found("discrepancy", discrepancy_id)
            after = await store.resolve_discrepancy(
                conn,
                org_id,
                discrepancy_id,
                self._desk.clock(),
                note=request.note,
                resolved_by=calls.caller().subject,
            )
            await audit.record(
                conn,
                org_id,
                "discrepancy",
                discrepancy_id,
                "resolve",
                before=_audited(before),
                after=_audited(after),
            )
            answer = messages.discrepancy(after)
            await idempotency.remember(conn, org_id, request, answer)
        return answer


def _period(request: pb.StartReconciliationRequest, now: datetime) -> tuple[datetime, datetime]:
    """What is compared; raises InvalidArgument for a time that can't be."""
    from_at, to_at = period(request.period)
    if to_at <= from_at:
        raise end_before_start("period.end_time")
    check_period(from_at, to_at, now)
    return from_at, to_at


async def _run(
    conn: Reader, org_id: uuid.UUID, run_id: uuid.UUID, paths: tuple[str, ...]
) -> masks.Row:
    found = await store.get_run(conn, org_id, run_id, paths)
    if found is None:
        raise errors.not_found("reconciliation_run", run_id)
    return found


async def _list(
    conn: Reader, org_id: uuid.UUID, asked: Filter, limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    """By the statement whose index serves it."""
    if asked.run_id is None:
        return await store.list_discrepancies(conn, org_id, asked, limit, paths)
    await _run(conn, org_id, asked.run_id, ("id",))
    return await store.list_discrepancies_of_run(conn, org_id, asked, limit, paths)


def _audited(discrepancy: Discrepancy) -> dict[str, str]:
    return {"note": discrepancy.note, "resolved_by": discrepancy.resolved_by}
