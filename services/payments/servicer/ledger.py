"""The ledger, read."""

from __future__ import annotations

import uuid

from driveflow.payments.v1 import payments_pb2 as pb
from libs import calls, masks, pages
from libs.interceptors import Context
from services.payments.messages import ledger as messages
from services.payments.model import ledger
from services.payments.servicer.desk import Desk
from services.payments.store import ledger as store
from services.payments.store import payouts as payout_store
from services.payments.store.payments import LAST_ID


class Ledger:
    """GetInstructorBalance, ListLedgerEntries."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def GetInstructorBalance(
        self, request: pb.GetInstructorBalanceRequest, context: Context
    ) -> pb.InstructorBalance:
        org_id = calls.org()
        instructor_id = uuid.UUID(request.instructor_id)
        async with self._desk.orgs.read(org_id) as conn:
            sums = await store.sum_account(conn, org_id, ledger.instructor(instructor_id))
            due = await payout_store.sum_due(conn, org_id, instructor_id)
        return messages.balance(instructor_id, sums, due)

    async def ListLedgerEntries(
        self, request: pb.ListLedgerEntriesRequest, context: Context
    ) -> pb.ListLedgerEntriesResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        (last_id,) = self._desk.pages.start(request, org_id, [str(LAST_ID)])
        before_id, reader = uuid.UUID(last_id), self._desk.orgs.reader(org_id)
        if request.account:
            found = await store.list_ledger_entries_of_account(
                reader, org_id, request.account, before_id=before_id, limit=limit + 1, paths=paths
            )
        else:
            found = await store.list_ledger_entries(
                reader, org_id, before_id=before_id, limit=limit + 1, paths=paths
            )
        response = pb.ListLedgerEntriesResponse(
            entries=map(masks.reader(pb.LedgerEntry, paths), found[:limit])
        )
        if len(found) > limit:
            last = str(found[limit - 1][-1])
            response.next_page_token = self._desk.pages.token(request, org_id, [last])
        return response
