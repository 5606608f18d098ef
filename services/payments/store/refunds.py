"""Statements of refunds and disputes."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.payments.model.payments import Dispute, Refund

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "refunds.sql")
COLUMNS = (
    "id",
    '"paymentId"',
    '"amountCents"',
    '"feeCents"',
    "currency::text",
    "status",
    "cause",
    "reason",
    '"stripeRefundId"',
    '"failureCode"',
    '"keyGeneration"',
    "attempts",
    '"nextAttemptAt"',
    '"createdAt"',
    '"updatedAt"',
)
DISPUTE_COLUMNS = (
    "id",
    '"paymentId"',
    '"amountCents"',
    "currency::text",
    "status",
    "reason",
    '"stripeDisputeId"',
    '"stripeStateAt"',
    '"closedAt"',
    '"createdAt"',
    '"updatedAt"',
)
REFUND_FIELDS = tuple(Refund.__dataclass_fields__)
DISPUTE_FIELDS = tuple(Dispute.__dataclass_fields__)
# API path -> SQL, of what is read to be told.
PATHS = {
    "id": "id",
    "payment_id": '"paymentId"',
    "amount_cents": '"amountCents"',
    "currency": "currency::text",
    "status": "status",
    "cause": "cause",
    "reason": "reason",
    "stripe_refund_id": '"stripeRefundId"',
    "failure_code": '"failureCode"',
    "create_time": '"createdAt"',
    "update_time": '"updatedAt"',
}
DISPUTE_PATHS = {
    "id": "id",
    "payment_id": '"paymentId"',
    "amount_cents": '"amountCents"',
    "currency": "currency::text",
    "status": "status",
    "reason": "reason",
    "stripe_dispute_id": '"stripeDisputeId"',
    "create_time": '"createdAt"',
    "close_time": '"closedAt"',
}
ALL = tuple(PATHS)
ALL_OF_DISPUTE = tuple(DISPUTE_PATHS)


async def add_refund(conn: Connection, org_id: uuid.UUID, now: datetime, **values: Any) -> Refund:
    (row,) = await _rows(conn, "add_refund", COLUMNS, org_id=org_id, now=now, **values)
    return refund(row)


async def find_refund(conn: Reader, org_id: uuid.UUID, refund_id: uuid.UUID) -> Refund | None:
    return _refund(await _rows(conn, "find_refund", COLUMNS, org_id=org_id, refund_id=refund_id))


async def lock_refund(conn: Connection, org_id: uuid.UUID, refund_id: uuid.UUID) -> Refund | None:
    return _refund(await _rows(conn, "lock_refund", COLUMNS, org_id=org_id, refund_id=refund_id))


async def lookup_refund(
    conn: Connection, org_id: uuid.UUID, stripe_refund_id: str
) -> Refund | None:
    rows = await _rows(
        conn, "lookup_refund", COLUMNS, org_id=org_id, stripe_refund_id=stripe_refund_id
    )
    return _refund(rows)


async def save_refund(
    conn: Connection, org_id: uuid.UUID, changed: Refund, now: datetime
) -> Refund:
    values = {name: getattr(changed, name) for name in REFUND_FIELDS}
    (row,) = await _rows(
        conn, "save_refund", COLUMNS, org_id=org_id, refund_id=changed.id, now=now, **values
    )
    return refund(row)


async def erase_reasons(conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID) -> None:
    await conn.execute(SQL.erase_reasons, {"org_id": org_id, "student_id": student_id})


async def sum_refunds(conn: Connection, org_id: uuid.UUID, payment_id: uuid.UUID) -> int:
    parameters = {"org_id": org_id, "payment_id": payment_id}
    ((amount,),) = await (await conn.execute(SQL.sum_refunds, parameters)).fetchall()
    return int(amount)


async def sum_policy_refunds(conn: Connection, org_id: uuid.UUID, payment_id: uuid.UUID) -> int:
    parameters = {"org_id": org_id, "payment_id": payment_id}
    ((amount,),) = await (await conn.execute(SQL.sum_policy_refunds, parameters)).fetchall()
    return int(amount)


async def list_refunds(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    before_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    columns = (*masks.columns(PATHS, paths), "id")
    return await _rows(
        conn, "list_refunds", columns, org_id=org_id, before_id=before_id, limit=limit
    )


async def list_refunds_of_payment(
    conn: Reader,
    org_id: uuid.UUID,
    payment_id: uuid.UUID,
    *,
    before_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    return await _rows(
        conn,
        "list_refunds_of_payment",
        (*masks.columns(PATHS, paths), "id"),
        org_id=org_id,
        payment_id=payment_id,
        before_id=before_id,
        limit=limit,
    )


async def add_dispute(
    conn: Connection, org_id: uuid.UUID, now: datetime, **values: Any
) -> Dispute | None:
    rows = await _rows(conn, "add_dispute", DISPUTE_COLUMNS, org_id=org_id, now=now, **values)
    return _dispute(rows)


async def lock_dispute(
    conn: Connection, org_id: uuid.UUID, stripe_dispute_id: str
) -> Dispute | None:
    rows = await _rows(
        conn, "lock_dispute", DISPUTE_COLUMNS, org_id=org_id, stripe_dispute_id=stripe_dispute_id
    )
    return _dispute(rows)


async def save_dispute(
    conn: Connection, org_id: uuid.UUID, changed: Dispute, now: datetime
) -> Dispute:
    values = {name: getattr(changed, name) for name in DISPUTE_FIELDS}
    (row,) = await _rows(
        conn,
        "save_dispute",
        DISPUTE_COLUMNS,
        org_id=org_id,
        dispute_id=changed.id,
        now=now,
        **values,
    )
    return dispute(row)


async def is_held_back(conn: Connection, org_id: uuid.UUID, payment_id: uuid.UUID) -> bool:
    parameters = {"org_id": org_id, "payment_id": payment_id}
    ((held,),) = await (await conn.execute(SQL.is_held_back, parameters)).fetchall()
    return bool(held)


async def list_disputes(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    before_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL_OF_DISPUTE,
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    columns = (*masks.columns(DISPUTE_PATHS, paths), "id")
    return await _rows(
        conn, "list_disputes", columns, org_id=org_id, before_id=before_id, limit=limit
    )


async def list_disputes_of_payment(
    conn: Reader,
    org_id: uuid.UUID,
    payment_id: uuid.UUID,
    *,
    before_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL_OF_DISPUTE,
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    return await _rows(
        conn,
        "list_disputes_of_payment",
        (*masks.columns(DISPUTE_PATHS, paths), "id"),
        org_id=org_id,
        payment_id=payment_id,
        before_id=before_id,
        limit=limit,
    )


def refund(row: tuple[Any, ...]) -> Refund:
    """The refund of a row with these columns."""
    return Refund(**dict(zip(REFUND_FIELDS, row, strict=True)))


def dispute(row: tuple[Any, ...]) -> Dispute:
    """The dispute of a row with these columns."""
    return Dispute(**dict(zip(DISPUTE_FIELDS, row, strict=True)))


def _refund(rows: list[tuple[Any, ...]]) -> Refund | None:
    return refund(rows[0]) if rows else None


def _dispute(rows: list[tuple[Any, ...]]) -> Dispute | None:
    return dispute(rows[0]) if rows else None


async def _rows(
    conn: Reader, name: str, columns: tuple[str, ...], **parameters: Any
) -> list[tuple[Any, ...]]:
    return await (await conn.execute(SQL.select(name, columns), parameters)).fetchall()
