"""Statements of the ledger."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.payments.model.ledger import Movement

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "ledger.sql")
COLUMNS = (
    "id",
    '"transactionId"',
    "account",
    '"amountCents"',
    "currency::text",
    "kind",
    '"sourceId"',
    '"createdAt"',
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a movement."""

    id: uuid.UUID
    transaction_id: uuid.UUID
    account: str
    amount_cents: int
    currency: str
    kind: str
    source_id: uuid.UUID
    created_at: datetime


async def move_money(conn: Connection, org_id: uuid.UUID, movement: Movement) -> None:
    await conn.send(
        SQL.move_money,
        {
            "org_id": org_id,
            "kind": movement.kind,
            "source_id": movement.source_id,
            "currency": movement.currency,
            "accounts": list(movement.amounts),
            "amounts": list(movement.amounts.values()),
        },
    )


async def list_ledger_entries(
    conn: Reader, org_id: uuid.UUID, *, before_id: uuid.UUID, limit: int
) -> list[Entry]:
    parameters = {"org_id": org_id, "before_id": before_id, "limit": limit}
    return await _entries(conn, "list_ledger_entries", parameters)


async def list_ledger_entries_of_account(
    conn: Reader, org_id: uuid.UUID, account: str, *, before_id: uuid.UUID, limit: int
) -> list[Entry]:
    parameters = {"org_id": org_id, "account": account, "before_id": before_id, "limit": limit}
    return await _entries(conn, "list_ledger_entries_of_account", parameters)


async def sum_account(conn: Reader, org_id: uuid.UUID, account: str) -> list[tuple[str, int, int]]:
    """(currency, owed, paid) of an account, in minor units."""
    cursor = await conn.execute(SQL.sum_account, {"org_id": org_id, "account": account})
    return [(row[0], row[1], row[2]) for row in await cursor.fetchall()]


async def _entries(conn: Reader, name: str, parameters: dict[str, Any]) -> list[Entry]:
    rows = await (await conn.execute(SQL.select(name, COLUMNS), parameters)).fetchall()
    return [Entry(*row) for row in rows]
