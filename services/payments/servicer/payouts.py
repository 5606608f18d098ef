"""Payouts: made, taken back, read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from driveflow.payments.v1 import payments_pb2 as pb
from libs import calls, errors, idempotency, masks, pages
from libs.errors import FailedPrecondition, NotFound
from libs.interceptors import Context
from libs.messages import optional_id, time
from libs.pooling import Connection
from services.payments import paying_out
from services.payments.messages import payouts as messages
from services.payments.messages.revenue import period
from services.payments.model import payouts as model
from services.payments.model.payments import Payment
from services.payments.paying_out import PayingOut
from services.payments.servicer.charges import end_before_start
from services.payments.servicer.desk import Desk
from services.payments.store import payouts as store
from services.payments.store.payments import AFTER_ALL, BEFORE_ALL
from services.payments.store.payouts import Filter

FoundT = TypeVar("FoundT")
FIRST_ID = uuid.UUID(int=0)
AT_ONCE = 8
"""Payouts of a batch that are under way at a time."""


class Payouts:
    """CreatePayout, BatchCreatePayouts, GetPayout, ListPayouts, LookupPayout, ReversePayout.

    A suspended school still pays what was earned.
    """

    def __init__(self, desk: Desk, paying_out: PayingOut) -> None:
        self._desk = desk
        self._paying_out = paying_out

    async def CreatePayout(self, request: pb.CreatePayoutRequest, context: Context) -> pb.Payout:
        return await self._create(calls.org(), request)

    async def _create(self, org_id: uuid.UUID, request: pb.CreatePayoutRequest) -> pb.Payout:
        """One transaction, the call to Stripe, another one; without an answer it is in transit."""
        _check_period(request)
        reader = self._desk.orgs.reader(org_id)
        answer = await idempotency.answered(reader, org_id, request, pb.Payout)
        if answer is not None:
            return answer
        account = await self._account(org_id, uuid.UUID(request.instructor_id))
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Payout)
            if answer is not None:
                return answer
            chosen = await _choose(conn, org_id, request)
            payout = await paying_out.open_payout(conn, org_id, chosen, account, now)
            items = model.items(chosen)
            await idempotency.remember(conn, org_id, request, messages.payout(payout, items))
        payout = await self._paying_out.call(org_id, payout)
        answer = messages.payout(payout, items)
        return await self._desk.remembered(org_id, request, answer)

    async def BatchCreatePayouts(
        self, request: pb.BatchCreatePayoutsRequest, context: Context
    ) -> pb.BatchCreatePayoutsResponse:
        org_id = calls.org()
        _period(request.period)
        reader = self._desk.orgs.reader(org_id)
        answer = await idempotency.answered(reader, org_id, request, pb.BatchCreatePayoutsResponse)
        if answer is not None:
            return answer
        planned = await self._plan(org_id, request)
        results = await self._results(org_id, request, planned)
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.BatchCreatePayoutsResponse)
            if answer is None:
                answer = pb.BatchCreatePayoutsResponse(results=results)
                await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def _plan(
        self, org_id: uuid.UUID, request: pb.BatchCreatePayoutsRequest
    ) -> pb.BatchCreatePayoutsResponse:
        """Whom the batch pays, kept before the first is paid: a repeat goes on with the same."""
        asked = pb.BatchCreatePayoutsRequest()
        asked.CopyFrom(request)
        asked.request_id = _derived(request, "plan")
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, asked, pb.BatchCreatePayoutsResponse)
            if answer is not None:
                return answer
            wanted = {uuid.UUID(each) for each in request.instructor_ids}
            if not wanted:
                found = await store.list_instructors_due(conn, org_id, *_period(request.period))
                wanted = set(found)
            results = [pb.PayoutResult(instructor_id=str(each)) for each in sorted(wanted)]
            answer = pb.BatchCreatePayoutsResponse(results=results)
            await idempotency.remember(conn, org_id, asked, answer)
        return answer

    async def _results(
        self,
        org_id: uuid.UUID,
        request: pb.BatchCreatePayoutsRequest,
        planned: pb.BatchCreatePayoutsResponse,
    ) -> Sequence[pb.PayoutResult]:
        """What became of each; an outage ends it, and a repeat goes on."""
        results: list[pb.PayoutResult] = []
        for start in range(0, len(planned.results), AT_ONCE):
            some = planned.results[start : start + AT_ONCE]
            ended = await asyncio.gather(
                *(self._result(org_id, request, each.instructor_id) for each in some),
                return_exceptions=True,
            )
            for result in ended:
                if isinstance(result, BaseException):
                    raise result
                results.append(result)
        return results

    async def _result(
        self, org_id: uuid.UUID, request: pb.BatchCreatePayoutsRequest, instructor_id: str
    ) -> pb.PayoutResult:
        asked = pb.CreatePayoutRequest(
            instructor_id=instructor_id,
            period=request.period,
            request_id=_derived(request, instructor_id),
        )
        try:
            payout = await self._create(org_id, asked)
        except (FailedPrecondition, NotFound) as error:
            return pb.PayoutResult(instructor_id=instructor_id, reason=error.reason)
        payout.ClearField("items")
        return pb.PayoutResult(instructor_id=instructor_id, payout=payout)

    async def GetPayout(self, request: pb.GetPayoutRequest, context: Context) -> pb.Payout:
        org_id = calls.org()
        payout_id = uuid.UUID(request.payout_id)
        paths = masks.paths(request.read_mask, store.PATHS)
        async with self._desk.orgs.read(org_id) as conn:
            row = await store.get_payout(conn, org_id, payout_id, paths)
            return await _told(conn, org_id, _found(row, payout_id), paths)

    async def LookupPayout(self, request: pb.LookupPayoutRequest, context: Context) -> pb.Payout:
        org_id = calls.org()
        transfer_id = request.stripe_transfer_id
        paths = masks.paths(request.read_mask, store.PATHS)
        async with self._desk.orgs.read(org_id) as conn:
            row = await store.lookup_payout(conn, org_id, transfer_id, paths)
            return await _told(conn, org_id, _found(row, transfer_id), paths)

    async def ListPayouts(
        self, request: pb.ListPayoutsRequest, context: Context
    ) -> pb.ListPayoutsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.LIST_PATHS)
        limit = pages.size(request)
        asked = self._filter(request, org_id)
        listing = store.list_payouts
        if asked.instructor_id is not None:
            listing = store.list_payouts_of_instructor
        found = await listing(self._desk.orgs.reader(org_id), org_id, asked, limit + 1, paths)
        response = pb.ListPayoutsResponse(
            payouts=map(masks.reader(pb.Payout, paths), found[:limit])
        )
        if len(found) > limit:
            created_at, last_id = found[limit - 1][-2:]
            response.next_page_token = self._desk.pages.token(
                request, org_id, [created_at.isoformat(), str(last_id)]
            )
        return response

    def _filter(self, request: pb.ListPayoutsRequest, org_id: uuid.UUID) -> Filter:
        from_at = time(request, "create_time_from") or BEFORE_ALL
        to_at = time(request, "create_time_to") or AFTER_ALL
        if from_at >= to_at:
            raise end_before_start("create_time_to")
        # Nothing lies before the least id, so a payout of that very time is left out.
        first = [to_at.isoformat(), str(FIRST_ID)]
        before_at, before_id = self._desk.pages.start(request, org_id, first)
        return Filter(
            instructor_id=optional_id(request.instructor_id),
            from_at=from_at,
            before_at=datetime.fromisoformat(before_at),
            before_id=uuid.UUID(before_id),
        )

    async def ReversePayout(self, request: pb.ReversePayoutRequest, context: Context) -> pb.Payout:
        org_id = calls.org()
        payout_id = uuid.UUID(request.payout_id)
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Payout)
            if answer is not None:
                return answer
            before = _found(await store.lock_payout(conn, org_id, payout_id), payout_id)
            payout = await paying_out.ask_reversal(conn, org_id, before, request.reason, now)
            items = await store.list_payout_items(conn, org_id, payout_id)
            await idempotency.remember(conn, org_id, request, messages.payout(payout, items))
        payout = await self._paying_out.call(org_id, payout)
        return await self._desk.remembered(org_id, request, messages.payout(payout, items))

    async def _account(self, org_id: uuid.UUID, instructor_id: uuid.UUID) -> str:
        """The instructor's account at Stripe, as booking knows it."""
        instructor = await self._desk.bookings.get_instructor(org_id, instructor_id)
        if not instructor.stripe_account_id:
            raise model.account_missing()
        return instructor.stripe_account_id


async def _choose(
    conn: Connection, org_id: uuid.UUID, request: pb.CreatePayoutRequest
) -> list[Payment]:
    """The payments that the request means, locked: some, due, of one currency."""
    instructor_id = uuid.UUID(request.instructor_id)
    if request.HasField("period"):
        within = _period(request.period)
        chosen = await store.lock_payments_due(conn, org_id, instructor_id, *within)
    else:
        wanted = [uuid.UUID(each) for each in request.payments.payment_ids]
        chosen = await store.lock_payments_named(conn, org_id, wanted)
        model.check_named(wanted, {each.id: each for each in chosen}, instructor_id)
    model.check_whole(chosen)
    return chosen


def _check_period(request: pb.CreatePayoutRequest) -> None:
    if request.HasField("period"):
        _period(request.period)


def _period(message: pb.Period) -> tuple[datetime, datetime]:
    from_at, to_at = period(message)
    if from_at >= to_at:
        raise end_before_start("period.end_time")
    return from_at, to_at


def _derived(request: pb.BatchCreatePayoutsRequest, part: str) -> str:
    """The request id of a part of a batch: the same for the same part."""
    return str(uuid.uuid5(uuid.UUID(request.request_id), part))


async def _told(
    conn: Connection, org_id: uuid.UUID, row: masks.Row, paths: tuple[str, ...]
) -> pb.Payout:
    payout = masks.reader(pb.Payout, paths)(row)
    if "items" in paths:
        items = await store.list_payout_items(conn, org_id, row[-1])
        payout.items.extend(map(messages.item, items))
    return payout


def _found(payout: FoundT | None, name: object) -> FoundT:
    if payout is None:
        raise errors.not_found("payout", name)
    return payout
