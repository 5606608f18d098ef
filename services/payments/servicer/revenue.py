"""Revenue reports."""

from __future__ import annotations

from driveflow.payments.v1 import payments_pb2 as pb
from libs import calls
from libs.interceptors import Context
from services.payments.messages import revenue as messages
from services.payments.model import revenue as model
from services.payments.servicer.charges import end_before_start
from services.payments.servicer.desk import Desk
from services.payments.store import revenue as store


class Revenue:
    """GetRevenueReport."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def GetRevenueReport(
        self, request: pb.GetRevenueReportRequest, context: Context
    ) -> pb.RevenueReport:
        org_id = calls.org()
        from_at, to_at = messages.period(request.range)
        if to_at <= from_at:
            raise end_before_start("range.end_time")
        bucket = messages.BUCKETS[request.bucket]
        zone = await self._desk.bookings.zone(org_id)
        model.check_length(from_at, to_at, bucket, zone)
        found = await store.revenue(
            self._desk.orgs.reader(org_id),
            org_id,
            from_at=from_at,
            to_at=to_at,
            bucket=bucket,
            zone=zone,
            currency=request.currency,
        )
        return messages.report(zone, found, from_at)
