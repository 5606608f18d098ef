"""Statements of payments."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.payments.model.payments import Payment

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "payments.sql")
COLUMNS = (
    "id",
    '"bookingId"',
    '"studentId"',
    '"instructorId"',
    '"amountCents"',
    "currency::text",
    '"applicationFeeCents"',
    '"instructorShareCents"',
    "status",
    '"stripePaymentIntentId"',
    '"capturedCents"',
    '"refundedCents"',
    '"capturedAt"',
    '"failureCode"',
    '"stripeStateAt"',
    '"cancelRequestedAt"',
    '"lessonCompletedAt"',
    '"shareStatus"',
    '"shareSourceId"',
    '"payoutId"',
    '"keyGeneration"',
    "attempts",
    '"nextAttemptAt"',
    "version",
    '"createdAt"',
    '"updatedAt"',
)
FIELDS = tuple(Payment.__dataclass_fields__)
# API path -> SQL, of what is read to be told.
PATHS = {
    "id": "id",
    "booking_id": '"bookingId"',
    "student_id": '"studentId"',
    "instructor_id": '"instructorId"',
    "amount_cents": '"amountCents"',
    "currency": "currency::text",
    "application_fee_cents": '"applicationFeeCents"',
    "instructor_share_cents": '"instructorShareCents"',
    "status": "status",
    "stripe_payment_intent_id": '"stripePaymentIntentId"',
    "captured_cents": '"capturedCents"',
    "refunded_cents": '"refundedCents"',
    "failure_code": '"failureCode"',
    "cancel_request_time": '"cancelRequestedAt"',
    "capture_time": '"capturedAt"',
    "payout_id": '"payoutId"',
    "create_time": '"createdAt"',
    "update_time": '"updatedAt"',
}
ALL = tuple(PATHS)
BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
AFTER_ALL = datetime.max.replace(tzinfo=UTC)
LAST_ID = uuid.UUID(int=2**128 - 1)
"""Before this row lie all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which payments a list has, behind which row; None filters nothing."""

    from_at: datetime = BEFORE_ALL
    to_at: datetime = AFTER_ALL
    status: str | None = None
    booking_id: uuid.UUID | None = None
    before_at: datetime = AFTER_ALL
    before_id: uuid.UUID = LAST_ID

    @property
    def is_of_any_time(self) -> bool:
        return (self.from_at, self.to_at) == (BEFORE_ALL, AFTER_ALL)


async def is_org_active(conn: Reader, org_id: uuid.UUID) -> bool:
    row = await (await conn.execute(SQL.is_org_active, {"org_id": org_id})).fetchone()
    return row is None or bool(row[0])


async def add_payment(
    conn: Connection, org_id: uuid.UUID, now: datetime, **values: Any
) -> Payment | None:
    return await _one(conn, "add_payment", org_id=org_id, now=now, **values)


async def get_payment(
    conn: Reader, org_id: uuid.UUID, payment_id: uuid.UUID, paths: tuple[str, ...] = ALL
) -> masks.Row | None:
    query = SQL.select("get_payment", masks.columns(PATHS, paths))
    return await (
        await conn.execute(query, {"org_id": org_id, "payment_id": payment_id})
    ).fetchone()


async def get_payment_of_intent(
    conn: Reader, org_id: uuid.UUID, intent_id: str, paths: tuple[str, ...] = ALL
) -> masks.Row | None:
    query = SQL.select("get_payment_of_intent", masks.columns(PATHS, paths))
    return await (await conn.execute(query, {"org_id": org_id, "intent_id": intent_id})).fetchone()


async def find_payment(conn: Reader, org_id: uuid.UUID, payment_id: uuid.UUID) -> Payment | None:
    return await _one(conn, "find_payment", org_id=org_id, payment_id=payment_id)


async def lock_payment(
    conn: Connection, org_id: uuid.UUID, payment_id: uuid.UUID
) -> Payment | None:
    return await _one(conn, "lock_payment", org_id=org_id, payment_id=payment_id)


async def lock_payments_of_booking(
    conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID
) -> list[Payment]:
    return await _all(conn, "lock_payments_of_booking", org_id=org_id, booking_id=booking_id)


async def find_live_payment(
    conn: Reader, org_id: uuid.UUID, booking_id: uuid.UUID, payment_id: uuid.UUID
) -> Payment | None:
    return await _one(
        conn, "find_live_payment", org_id=org_id, booking_id=booking_id, payment_id=payment_id
    )


async def lookup_payment(conn: Reader, org_id: uuid.UUID, intent_id: str) -> Payment | None:
    return await _one(conn, "lookup_payment", org_id=org_id, intent_id=intent_id)


async def save_payment(
    conn: Connection, org_id: uuid.UUID, payment: Payment, now: datetime
) -> Payment:
    """The payment as it is then; `payment` has the version of the row that was locked."""
    values = {name: getattr(payment, name) for name in FIELDS}
    saved = await _one(
        conn, "save_payment", org_id=org_id, payment_id=payment.id, now=now, **values
    )
    if saved is None:
        raise AssertionError("a locked payment changed")
    return saved


async def list_payments(
    conn: Reader, org_id: uuid.UUID, asked: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _list(conn, "list_payments", org_id, asked, limit, paths)


async def list_payments_with_status(
    conn: Reader, org_id: uuid.UUID, asked: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _list(conn, "list_payments_with_status", org_id, asked, limit, paths)


async def list_payments_of_booking(
    conn: Reader, org_id: uuid.UUID, asked: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _list(conn, "list_payments_of_booking", org_id, asked, limit, paths)


async def list_due(
    conn: Reader, org_id: uuid.UUID, now: datetime, limit: int
) -> list[tuple[str, uuid.UUID]]:
    parameters = {"org_id": org_id, "now": now, "limit": limit}
    rows = await (await conn.execute(SQL.list_due, parameters)).fetchall()
    return [(row[0], row[1]) for row in rows]


def payment(row: tuple[Any, ...]) -> Payment:
    """The payment of a row with these columns."""
    return Payment(**dict(zip(FIELDS, row, strict=True)))


async def _list(
    conn: Reader,
    name: str,
    org_id: uuid.UUID,
    asked: Filter,
    limit: int,
    paths: tuple[str, ...],
) -> list[masks.Row]:
    """Rows that end with createdAt and id, behind which the next page goes on."""
    query = SQL.select(name, (*masks.columns(PATHS, paths), '"createdAt"', "id"))
    values = {field: getattr(asked, field) for field in Filter.__dataclass_fields__}
    parameters = {**values, "org_id": org_id, "limit": limit}
    return await (await conn.execute(query, parameters)).fetchall()


async def _one(conn: Reader, name: str, **parameters: Any) -> Payment | None:
    row = await (await conn.execute(SQL.select(name, COLUMNS), parameters)).fetchone()
    return None if row is None else payment(row)


async def _all(conn: Reader, name: str, **parameters: Any) -> list[Payment]:
    rows = await (await conn.execute(SQL.select(name, COLUMNS), parameters)).fetchall()
    return [payment(row) for row in rows]
