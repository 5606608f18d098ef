"""The ledger as messages."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from driveflow.payments.v1 import payments_pb2 as pb


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
