"""Statements about plans, and the ledger of the guide's indexes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import queries
from libs.bootstrap import SERVICES
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.model.plans import ROLES, IndexState, PlanCheck, PlanVerdict

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "plans.sql")
EXPLAIN = {
    service: f"{service}.explain(%(query_id)s::bigint, %(as_json)s::bool, %(seq_scans)s::bool)"
    for service in SERVICES
}


async def list_ledger(conn: Reader, index: str) -> list[PlanCheck]:
    """By index and query; of all indexes when it is empty."""
    cursor = await conn.execute(SQL.list_ledger, {"index": index})
    return [
        PlanCheck(
            schema=row[0],
            index=row[1],
            table=row[2],
            rpc=row[3],
            query=row[4],
            verdict=None if row[5] is None else PlanVerdict(row[5]),
            detail=row[6],
            query_id=row[7],
            checked_at=row[8],
            last_used_at=row[9],
        )
        for row in await cursor.fetchall()
    ]


async def index_states(conn: Reader) -> dict[tuple[str, str], IndexState]:
    """By schema and name."""
    cursor = await conn.execute(SQL.index_states)
    return {(row[0], row[1]): IndexState(*row[2:]) for row in await cursor.fetchall()}


async def list_counted(conn: Reader, names: Collection[str]) -> dict[tuple[str, str], int]:
    """PostgreSQL's number of each statement by service and name."""
    cursor = await conn.execute(SQL.list_counted, {"roles": list(ROLES), "names": list(names)})
    return {(row[0], row[1]): row[2] for row in await cursor.fetchall()}


async def explain_query(
    conn: Reader, service: str, query_id: int, *, as_json: bool = False, seq_scans: bool = True
) -> list[str]:
    """Lines of the plan. The driver's errors where it can't be made."""
    parameters = {"query_id": query_id, "as_json": as_json, "seq_scans": seq_scans}
    cursor = await conn.execute(SQL.select("explain_query", (EXPLAIN[service],)), parameters)
    return [row[0] for row in await cursor.fetchall()]


async def root_indexes(conn: Reader, schema: str, indexes: Collection[str]) -> list[str]:
    parameters = {"schema": schema, "indexes": list(indexes)}
    return [row[0] for row in await (await conn.execute(SQL.root_indexes, parameters)).fetchall()]


async def keep_verdict(conn: Connection, check: PlanCheck, now: datetime) -> None:
    parameters = {
        "schema": check.schema,
        "index": check.index,
        "query": check.query,
        "verdict": check.verdict and check.verdict.value,
        "detail": check.detail,
        "query_id": check.query_id,
        "now": now,
    }
    await conn.send(SQL.keep_verdict, parameters)


async def last_verified_at(conn: Reader) -> datetime | None:
    row = await (await conn.execute(SQL.last_verified_at)).fetchone()
    return None if row is None else row[0]


def tree(lines: Collection[str]) -> Mapping[str, Any]:
    """The plan that EXPLAIN's JSON tells of."""
    (answer,) = json.loads("\n".join(lines))
    plan: Mapping[str, Any] = answer["Plan"]
    return plan
