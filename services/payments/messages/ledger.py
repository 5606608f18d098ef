"""The ledger as messages."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from driveflow.payments.v1 import payments_pb2 as pb
from libs.messages import stamp
from services.payments.store.ledger import Entry


def entry(row: Entry) -> pb.LedgerEntry:
    """One side of a movement."""
    return pb.LedgerEntry(
        id=str(row.id),
        transaction_id=str(row.transaction_id),
        account=row.account,
        amount_cents=row.amount_cents,
        currency=row.currency,
        kind=row.kind,
        source_id=str(row.source_id),
        create_time=stamp(row.created_at),
    )


def balance(
    instructor_id: uuid.UUID, sums: Iterable[tuple[str, int, int]], due: Mapping[str, int]
) -> pb.InstructorBalance:
    """What the ledger says of an instructor: (currency, owed, paid), and what is due."""
    return pb.InstructorBalance(
        instructor_id=str(instructor_id),
        balances=[
            pb.Balance(
                currency=currency,
                owed_cents=owed,
                due_cents=due.get(currency, 0),
                paid_cents=paid,
            )
            for currency, owed, paid in sums
        ],
    )
