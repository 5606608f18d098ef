"""Statements of the ledger."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.payments.model.ledger import Movement

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "ledger.sql")
# API path -> SQL, of what is read to be told.
PATHS = {
    "id": "id",
    "transaction_id": '"transactionId"',
    "account": "account",
    "amount_cents": '"amountCents"',
    "currency": "currency::text",
    "kind": "kind",
    "source_id": '"sourceId"',
    "create_time": '"createdAt"',
}
ALL = tuple(PATHS)


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
    conn: Reader,
    org_id: uuid.UUID,
    *,
    before_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    parameters = {"org_id": org_id, "before_id": before_id, "limit": limit}
    return await _entries(conn, "list_ledger_entries", paths, parameters)


async def list_ledger_entries_of_account(
    conn: Reader,
    org_id: uuid.UUID,
    account: str,
    *,
    before_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    parameters = {"org_id": org_id, "account": account, "before_id": before_id, "limit": limit}
    return await _entries(conn, "list_ledger_entries_of_account", paths, parameters)


async def sum_account(conn: Reader, org_id: uuid.UUID, account: str) -> list[tuple[str, int, int]]:
    """(currency, owed, paid) of an account, in minor units."""
    cursor = await conn.execute(SQL.sum_account, {"org_id": org_id, "account": account})
    return [(row[0], row[1], row[2]) for row in await cursor.fetchall()]


async def _entries(
    conn: Reader, name: str, paths: tuple[str, ...], parameters: dict[str, Any]
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    query = SQL.select(name, (*masks.columns(PATHS, paths), "id"))
    return await (await conn.execute(query, parameters)).fetchall()
