"""Reconciliation runs and discrepancies as messages."""

from __future__ import annotations

from driveflow.payments.v1 import reconciliation_pb2 as pb
from libs.messages import stamp, text
from services.payments.messages.revenue import period_message
from services.payments.model.reconciliation import Discrepancy, Run

KINDS: dict[str, pb.DiscrepancyKind.ValueType] = {
    name.removeprefix("DISCREPANCY_KIND_").lower(): number
    for name, number in pb.DiscrepancyKind.items()
    if number
}
KIND_NAMES = {number: name for name, number in KINDS.items()}
"""What a filter asks for; UNSPECIFIED is not in it."""


def run(row: Run) -> pb.ReconciliationRun:
    """A run."""
    return pb.ReconciliationRun(
        id=str(row.id),
        period=period_message(row.from_at, row.to_at),
        dry_run=row.dry_run,
        status=pb.ReconciliationStatus.Value(f"RECONCILIATION_STATUS_{row.status.upper()}"),
        compared=row.compared,
        matched=row.matched,
        discrepancies=row.discrepancies,
        failure=row.failure,
        create_time=stamp(row.created_at),
        end_time=stamp(row.ended_at),
    )


def discrepancy(row: Discrepancy) -> pb.Discrepancy:
    """A discrepancy."""
    return pb.Discrepancy(
        id=str(row.id),
        run_id=str(row.run_id),
        kind=KINDS[row.kind],
        object_type=row.object_type,
        object_id=text(row.object_id),
        stripe_id=row.stripe_id,
        here=row.here,
        there=row.there,
        note=row.note,
        resolved_by=row.resolved_by,
        resolve_time=stamp(row.resolved_at),
        create_time=stamp(row.created_at),
    )
