"""Revenue reports as messages, and the periods that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from driveflow.payments.v1 import payments_pb2 as pb
from libs.messages import stamp, time
from services.payments.model.revenue import Bucket, total

BUCKETS = {
    pb.REVENUE_BUCKET_UNSPECIFIED: "day",
    pb.REVENUE_BUCKET_DAY: "day",
    pb.REVENUE_BUCKET_WEEK: "week",
    pb.REVENUE_BUCKET_MONTH: "month",
}


def period(message: pb.Period) -> tuple[datetime, datetime]:
    """Start and end of a period; that both are there was checked by the proto's rule."""
    start, end = time(message, "start_time"), time(message, "end_time")
    if start is None or end is None:
        raise AssertionError("the rules of the contract were not applied")
    return start, end


def period_message(start: datetime, end: datetime) -> pb.Period:
    """A period."""
    return pb.Period(start_time=stamp(start), end_time=stamp(end))


def report(zone: str, buckets: Sequence[Bucket], from_at: datetime) -> pb.RevenueReport:
    """A report of these buckets with their sum."""
    return pb.RevenueReport(
        time_zone=zone,
        rows=[_row(each) for each in buckets],
        total=_row(total(buckets, from_at)),
    )


def _row(bucket: Bucket) -> pb.RevenueRow:
    return pb.RevenueRow(
        start_time=stamp(bucket.start_at),
        payments=bucket.payments,
        captured_cents=bucket.captured_cents,
        refunded_cents=bucket.refunded_cents,
        fee_cents=bucket.fee_cents,
        net_cents=bucket.net_cents,
    )
