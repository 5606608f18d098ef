"""Statements of payouts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.payments.model.payments import Payment
from services.payments.model.payouts import Item, Payout
from services.payments.store import payments
from services.payments.store.payments import AFTER_ALL, BEFORE_ALL, LAST_ID

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "payouts.sql")
COLUMNS = (
    "id",
    '"instructorId"',
    '"amountCents"',
    "currency::text",
    "status",
    '"stripeAccountId"',
    '"stripeTransferId"',
    '"transferredAt"',
    '"failureCode"',
    "reversal",
    '"reversalReason"',
    '"stripeReversalId"',
    '"keyGeneration"',
    "attempts",
    '"nextAttemptAt"',
    "version",
    '"createdAt"',
    '"updatedAt"',
)
FIELDS = tuple(Payout.__dataclass_fields__)
# API path -> SQL, of what is read to be told.
LIST_PATHS = {
    "id": "id",
    "instructor_id": '"instructorId"',
    "amount_cents": '"amountCents"',
    "currency": "currency::text",
    "status": "status",
    "stripe_account_id": '"stripeAccountId"',
    "stripe_transfer_id": '"stripeTransferId"',
    "failure_code": '"failureCode"',
    "reversal": "NULLIF(reversal, 'none')",
    "reversal_reason": '"reversalReason"',
    "create_time": '"createdAt"',
    "update_time": '"updatedAt"',
}
# Items are rows of another table: list_payout_items fetches them.
PATHS = {**LIST_PATHS, "items": "NULL"}
ALL = tuple(PATHS)
ALL_OF_LIST = tuple(LIST_PATHS)
PAYMENTS_MAX = 5_000
"""What one payout pays at most; the rest stays due for the next one."""
INSTRUCTORS_MAX = 1_000
"""Of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which payouts a list has, behind which row; None filters nothing."""

    instructor_id: uuid.UUID | None = None
    from_at: datetime = BEFORE_ALL
    before_at: datetime = AFTER_ALL
    before_id: uuid.UUID = LAST_ID


# --- what is due ---


async def lock_payments_due(
    conn: Connection,
    org_id: uuid.UUID,
    instructor_id: uuid.UUID,
    from_at: datetime,
    to_at: datetime,
) -> list[Payment]:
    return await _payments(
        conn,
        "lock_payments_due",
        org_id=org_id,
        instructor_id=instructor_id,
        from_at=from_at,
        to_at=to_at,
        limit=PAYMENTS_MAX,
    )


async def lock_payments_named(
    conn: Connection, org_id: uuid.UUID, payment_ids: Sequence[uuid.UUID]
) -> list[Payment]:
    return await _payments(
        conn, "lock_payments_named", org_id=org_id, payment_ids=list(payment_ids)
    )


async def lock_payments_of_payout(
    conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID
) -> list[Payment]:
    return await _payments(conn, "lock_payments_of_payout", org_id=org_id, payout_id=payout_id)


async def list_instructors_due(
    conn: Reader, org_id: uuid.UUID, from_at: datetime, to_at: datetime
) -> list[uuid.UUID]:
    parameters = {"org_id": org_id, "from_at": from_at, "to_at": to_at, "limit": INSTRUCTORS_MAX}
    rows = await (await conn.execute(SQL.list_instructors_due, parameters)).fetchall()
    return [row[0] for row in rows]


async def sum_due(conn: Reader, org_id: uuid.UUID, instructor_id: uuid.UUID) -> dict[str, int]:
    """Minor units by currency."""
    parameters = {"org_id": org_id, "instructor_id": instructor_id}
    return dict(await (await conn.execute(SQL.sum_due, parameters)).fetchall())


async def pay_payments_out(
    conn: Connection,
    org_id: uuid.UUID,
    payout_id: uuid.UUID,
    payment_ids: Sequence[uuid.UUID],
    now: datetime,
) -> None:
    await conn.send(
        SQL.pay_payments_out,
        {"org_id": org_id, "payout_id": payout_id, "payment_ids": list(payment_ids), "now": now},
    )


async def release_payments(
    conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID, now: datetime
) -> None:
    parameters = {"org_id": org_id, "payout_id": payout_id, "now": now}
    await conn.send(SQL.release_payments, parameters)


# --- payouts ---


async def add_payout(conn: Connection, org_id: uuid.UUID, now: datetime, **values: Any) -> Payout:
    (row,) = await _rows(conn, "add_payout", org_id=org_id, now=now, **values)
    return payout(row)


async def add_payout_items(
    conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID, items: Sequence[Item]
) -> None:
    await conn.send(
        SQL.add_payout_items,
        {
            "org_id": org_id,
            "payout_id": payout_id,
            "payment_ids": [item.payment_id for item in items],
            "cents": [item.amount_cents for item in items],
        },
    )


async def release_payout_items(conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID) -> None:
    await conn.send(SQL.release_payout_items, {"org_id": org_id, "payout_id": payout_id})


async def list_payout_items(conn: Reader, org_id: uuid.UUID, payout_id: uuid.UUID) -> list[Item]:
    parameters = {"org_id": org_id, "payout_id": payout_id}
    rows = await (await conn.execute(SQL.list_payout_items, parameters)).fetchall()
    return [Item(*row) for row in rows]


async def get_payout(
    conn: Reader, org_id: uuid.UUID, payout_id: uuid.UUID, paths: tuple[str, ...] = ALL
) -> masks.Row | None:
    """A row that ends with the id."""
    query = SQL.select("get_payout", (*masks.columns(PATHS, paths), "id"))
    return await (await conn.execute(query, {"org_id": org_id, "payout_id": payout_id})).fetchone()


async def find_payout(conn: Reader, org_id: uuid.UUID, payout_id: uuid.UUID) -> Payout | None:
    return _payout(await _rows(conn, "find_payout", org_id=org_id, payout_id=payout_id))


async def lock_payout(conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID) -> Payout | None:
    return _payout(await _rows(conn, "lock_payout", org_id=org_id, payout_id=payout_id))


async def claim_payout(
    conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID, now: datetime, call_by: datetime
) -> Payout | None:
    rows = await _rows(
        conn, "claim_payout", org_id=org_id, payout_id=payout_id, now=now, call_by=call_by
    )
    return _payout(rows)


async def save_payout(
    conn: Connection, org_id: uuid.UUID, changed: Payout, now: datetime
) -> Payout:
    """The payout as it is then; `changed` has the version of the row that was locked."""
    values = {name: getattr(changed, name) for name in FIELDS}
    rows = await _rows(conn, "save_payout", org_id=org_id, payout_id=changed.id, now=now, **values)
    if not rows:
        raise AssertionError("a locked payout changed")
    return payout(rows[0])


async def lookup_payout(
    conn: Reader, org_id: uuid.UUID, transfer_id: str, paths: tuple[str, ...] = ALL
) -> masks.Row | None:
    """A row that ends with the id."""
    query = SQL.select("lookup_payout", (*masks.columns(PATHS, paths), "id"))
    parameters = {"org_id": org_id, "transfer_id": transfer_id}
    return await (await conn.execute(query, parameters)).fetchone()


async def list_payouts(
    conn: Reader,
    org_id: uuid.UUID,
    asked: Filter,
    limit: int,
    paths: tuple[str, ...] = ALL_OF_LIST,
) -> list[masks.Row]:
    return await _list(conn, "list_payouts", org_id, asked, limit, paths)


async def list_payouts_of_instructor(
    conn: Reader,
    org_id: uuid.UUID,
    asked: Filter,
    limit: int,
    paths: tuple[str, ...] = ALL_OF_LIST,
) -> list[masks.Row]:
    return await _list(conn, "list_payouts_of_instructor", org_id, asked, limit, paths)


def payout(row: tuple[Any, ...]) -> Payout:
    """The payout of a row with these columns."""
    return Payout(**dict(zip(FIELDS, row, strict=True)))


def _payout(rows: list[tuple[Any, ...]]) -> Payout | None:
    return payout(rows[0]) if rows else None


async def _list(
    conn: Reader,
    name: str,
    org_id: uuid.UUID,
    asked: Filter,
    limit: int,
    paths: tuple[str, ...],
) -> list[masks.Row]:
    """Rows that end with createdAt and id, behind which the next page goes on."""
    query = SQL.select(name, (*masks.columns(LIST_PATHS, paths), '"createdAt"', "id"))
    values = {field: getattr(asked, field) for field in Filter.__dataclass_fields__}
    parameters = {**values, "org_id": org_id, "limit": limit}
    return await (await conn.execute(query, parameters)).fetchall()


async def _payments(conn: Connection, name: str, **parameters: Any) -> list[Payment]:
    rows = await (await conn.execute(SQL.select(name, payments.COLUMNS), parameters)).fetchall()
    return [payments.payment(row) for row in rows]


async def _rows(conn: Reader, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return await (await conn.execute(SQL.select(name, COLUMNS), parameters)).fetchall()
