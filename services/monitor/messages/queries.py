"""Statements, their figures and plans as messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from driveflow.monitor.v1 import queries_pb2 as pb
from libs.messages import stamp
from services.monitor.model.plans import PlanCheck, PlanVerdict
from services.monitor.model.queries import Order, Point, Window
from services.monitor.snapshots import Snapshot

ORDERS = {
    pb.QUERY_ORDER_UNSPECIFIED: Order.MEAN,
    pb.QUERY_ORDER_MEAN: Order.MEAN,
    pb.QUERY_ORDER_TOTAL: Order.TOTAL,
    pb.QUERY_ORDER_CALLS: Order.CALLS,
}
VERDICTS = {
    PlanVerdict.USED: pb.PLAN_VERDICT_USED,
    PlanVerdict.SMALL_TABLE: pb.PLAN_VERDICT_SMALL_TABLE,
    PlanVerdict.NOT_USED: pb.PLAN_VERDICT_NOT_USED,
    PlanVerdict.NOT_SEEN: pb.PLAN_VERDICT_NOT_SEEN,
    PlanVerdict.INDEX_MISSING: pb.PLAN_VERDICT_INDEX_MISSING,
    PlanVerdict.FAILED: pb.PLAN_VERDICT_FAILED,
}


def stats(row: dict[str, Any], paths: Sequence[str]) -> pb.QueryStats:
    """A statement's figures, those that were asked for."""
    return pb.QueryStats(**{path: row[path] for path in paths if row.get(path) is not None})


def window(of: Window) -> pb.Window:
    """The time that figures are of."""
    return pb.Window(start_time=stamp(of.start_at), end_time=stamp(of.end_at), evicted=of.evicted)


def point(of: Point) -> pb.QueryPoint:
    """Figures between two snapshots."""
    return pb.QueryPoint(
        start_time=stamp(of.start_at),
        end_time=stamp(of.end_at),
        calls=of.calls,
        mean_ms=of.total_ms / of.calls,
        total_ms=of.total_ms,
        rows=of.rows,
    )


def plan_check(of: PlanCheck) -> pb.PlanCheck:
    """A line of the ledger."""
    return pb.PlanCheck(
        index=of.index,
        table=f'{of.schema}."{of.table}"',
        rpc=of.rpc,
        query=of.query,
        verdict=VERDICTS[of.verdict] if of.verdict else pb.PLAN_VERDICT_UNSPECIFIED,
        detail=of.detail,
        query_id=of.query_id,
        last_used_time=stamp(of.last_used_at),
    )


def snapshot(of: Snapshot) -> pb.Snapshot:
    """What was taken down."""
    return pb.Snapshot(time=stamp(of.at), queries=of.queries, tables=of.tables, indexes=of.indexes)
