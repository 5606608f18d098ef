"""Statements of reconciliation runs, what they compare and what they find."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.payments.model.reconciliation import (
    Difference,
    Discrepancy,
    PaymentHere,
    PayoutHere,
    Run,
    Tally,
)

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "reconciliation.sql")
RUN_COLUMNS = (
    "id",
    '"fromAt"',
    '"toAt"',
    '"dryRun"',
    "status",
    "compared",
    "matched",
    "discrepancies",
    "failure",
    "attempts",
    'coalesce("claimedUntil" > now(), false)',
    '"createdAt"',
    '"endedAt"',
)
COLUMNS = (
    "id",
    '"runId"',
    "kind",
    '"objectType"',
    '"objectId"',
    '"stripeId"',
    "here",
    "there",
    "note",
    '"resolvedBy"',
    '"resolvedAt"',
    '"createdAt"',
)
RUN_FIELDS = tuple(Run.__dataclass_fields__)
FIELDS = tuple(Discrepancy.__dataclass_fields__)
# API path -> SQL, of what is read to be told.
RUN_PATHS = {
    "id": "id",
    "period.start_time": '"fromAt"',
    "period.end_time": '"toAt"',
    "dry_run": '"dryRun"',
    "status": "status",
    "compared": "compared",
    "matched": "matched",
    "discrepancies": "discrepancies",
    "failure": "failure",
    "create_time": '"createdAt"',
    "end_time": '"endedAt"',
}
PATHS = {
    "id": "id",
    "run_id": '"runId"',
    "kind": "kind",
    "object_type": '"objectType"',
    "object_id": '"objectId"',
    "stripe_id": '"stripeId"',
    "here": "here",
    "there": "there",
    "note": "note",
    "resolved_by": '"resolvedBy"',
    "resolve_time": '"resolvedAt"',
    "create_time": '"createdAt"',
}
ALL = tuple(PATHS)
LAST_ID = uuid.UUID(int=2**128 - 1)
"""Before this row lie all."""
Place = tuple[datetime, uuid.UUID]
FIRST_PLACE: Place = (datetime.min.replace(tzinfo=UTC), uuid.UUID(int=0))
"""Behind this row lie all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which discrepancies a list has, behind which row; None filters nothing."""

    run_id: uuid.UUID | None = None
    kind: str | None = None
    unresolved_only: bool = False
    before_id: uuid.UUID = LAST_ID


async def add_run(
    conn: Connection,
    org_id: uuid.UUID,
    now: datetime,
    *,
    from_at: datetime,
    to_at: datetime,
    dry_run: bool,
) -> Run:
    run = await _run(
        conn, "add_run", org_id=org_id, now=now, from_at=from_at, to_at=to_at, dry_run=dry_run
    )
    if run is None:
        raise AssertionError("INSERT without a row")
    return run


async def get_run(
    conn: Reader, org_id: uuid.UUID, run_id: uuid.UUID, paths: tuple[str, ...]
) -> masks.Row | None:
    columns = masks.columns(RUN_PATHS, paths)
    rows = await _rows(conn, "get_run", columns, org_id=org_id, run_id=run_id)
    return rows[0] if rows else None


async def find_running_run(conn: Reader, org_id: uuid.UUID) -> Run | None:
    return await _run(conn, "find_running_run", org_id=org_id)


async def begin_run(conn: Connection, org_id: uuid.UUID, run: Run, claim: timedelta) -> Run | None:
    return await _run(
        conn, "begin_run", org_id=org_id, run_id=run.id, attempts=run.attempts, claim=claim
    )


async def advance_run(
    conn: Connection, org_id: uuid.UUID, run: Run, shown: Tally, claim: timedelta
) -> bool:
    """Whether the run is still this attempt's."""
    parameters = {
        "org_id": org_id,
        "run_id": run.id,
        "attempts": run.attempts,
        "compared": shown.compared,
        "matched": shown.matched,
        "discrepancies": len(shown.differences),
        "claim": claim,
    }
    return await (await conn.execute(SQL.advance_run, parameters)).fetchone() is not None


async def end_run(
    conn: Connection, org_id: uuid.UUID, run: Run, now: datetime, *, status: str, failure: str = ""
) -> Run | None:
    return await _run(
        conn,
        "end_run",
        org_id=org_id,
        run_id=run.id,
        attempts=run.attempts,
        now=now,
        status=status,
        failure=failure,
    )


async def delete_discrepancies(conn: Connection, org_id: uuid.UUID, run_id: uuid.UUID) -> None:
    await conn.send(SQL.delete_discrepancies, {"org_id": org_id, "run_id": run_id})


async def add_discrepancies(
    conn: Connection,
    org_id: uuid.UUID,
    run_id: uuid.UUID,
    found: Sequence[Difference],
    now: datetime,
) -> None:
    parameters = {
        "org_id": org_id,
        "run_id": run_id,
        "now": now,
        "kinds": [each.kind for each in found],
        "object_types": [each.object_type for each in found],
        "object_ids": [each.object_id for each in found],
        "stripe_ids": [each.stripe_id for each in found],
        "heres": [each.here for each in found],
        "theres": [each.there for each in found],
    }
    await conn.send(SQL.add_discrepancies, parameters)


async def list_discrepancies(
    conn: Reader, org_id: uuid.UUID, asked: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _list(conn, "list_discrepancies", org_id, asked, limit, paths)


async def list_discrepancies_of_run(
    conn: Reader, org_id: uuid.UUID, asked: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _list(conn, "list_discrepancies_of_run", org_id, asked, limit, paths)


async def lock_discrepancy(
    conn: Connection, org_id: uuid.UUID, discrepancy_id: uuid.UUID
) -> Discrepancy | None:
    rows = await _rows(
        conn, "lock_discrepancy", COLUMNS, org_id=org_id, discrepancy_id=discrepancy_id
    )
    return discrepancy(rows[0]) if rows else None


async def resolve_discrepancy(
    conn: Connection,
    org_id: uuid.UUID,
    discrepancy_id: uuid.UUID,
    now: datetime,
    *,
    note: str,
    resolved_by: str,
) -> Discrepancy:
    (row,) = await _rows(
        conn,
        "resolve_discrepancy",
        COLUMNS,
        org_id=org_id,
        discrepancy_id=discrepancy_id,
        now=now,
        note=note,
        resolved_by=resolved_by,
    )
    return discrepancy(row)


async def list_payments_by_intent(
    conn: Reader, org_id: uuid.UUID, intent_ids: Sequence[str]
) -> list[PaymentHere]:
    parameters = {"org_id": org_id, "intent_ids": list(intent_ids)}
    rows = await (await conn.execute(SQL.list_payments_by_intent, parameters)).fetchall()
    return [PaymentHere(*row) for row in rows]


async def list_payments_captured(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    from_at: datetime,
    to_at: datetime,
    after: Place,
    limit: int,
) -> list[PaymentHere]:
    parameters = _within(org_id, from_at, to_at, after, limit)
    rows = await (await conn.execute(SQL.list_payments_captured, parameters)).fetchall()
    return [PaymentHere(*row) for row in rows]


async def list_payouts_by_transfer(
    conn: Reader,
    org_id: uuid.UUID,
    transfer_ids: Sequence[str],
    payout_ids: Sequence[uuid.UUID],
) -> list[PayoutHere]:
    parameters = {
        "org_id": org_id,
        "transfer_ids": list(transfer_ids),
        "payout_ids": list(payout_ids),
    }
    rows = await (await conn.execute(SQL.list_payouts_by_transfer, parameters)).fetchall()
    return [PayoutHere(*row) for row in rows]


async def list_payouts_transferred(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    from_at: datetime,
    to_at: datetime,
    after: Place,
    limit: int,
) -> list[PayoutHere]:
    parameters = _within(org_id, from_at, to_at, after, limit)
    rows = await (await conn.execute(SQL.list_payouts_transferred, parameters)).fetchall()
    return [PayoutHere(*row) for row in rows]


def run_of(row: tuple[Any, ...]) -> Run:
    """The run of a row with these columns."""
    return Run(**dict(zip(RUN_FIELDS, row, strict=True)))


def discrepancy(row: tuple[Any, ...]) -> Discrepancy:
    """The discrepancy of a row with these columns."""
    return Discrepancy(**dict(zip(FIELDS, row, strict=True)))


def _within(
    org_id: uuid.UUID, from_at: datetime, to_at: datetime, after: Place, limit: int
) -> dict[str, Any]:
    return {
        "org_id": org_id,
        "from_at": from_at,
        "to_at": to_at,
        "after_at": after[0],
        "after_id": after[1],
        "limit": limit,
    }


async def _run(conn: Reader, name: str, **parameters: Any) -> Run | None:
    rows = await _rows(conn, name, RUN_COLUMNS, **parameters)
    return run_of(rows[0]) if rows else None


async def _list(
    conn: Reader,
    name: str,
    org_id: uuid.UUID,
    asked: Filter,
    limit: int,
    paths: tuple[str, ...],
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    columns = (*masks.columns(PATHS, paths), "id")
    values = {field: getattr(asked, field) for field in Filter.__dataclass_fields__}
    return await _rows(conn, name, columns, org_id=org_id, limit=limit, **values)


async def _rows(
    conn: Reader, name: str, columns: tuple[str, ...], **parameters: Any
) -> list[tuple[Any, ...]]:
    return await (await conn.execute(SQL.select(name, columns), parameters)).fetchall()
