"""Whether queries still go by the indexes that were made for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg

from libs import telemetry
from libs.errors import not_found
from libs.pooling import Connection
from services.monitor.model import plans as model
from services.monitor.model.plans import IndexState, PlanCheck, PlanVerdict
from services.monitor.servicer.desk import Desk
from services.monitor.store import plans as store
from services.monitor.store.queries import counted

log = logging.getLogger(__name__)

EVERY = timedelta(hours=1)
Found = tuple[PlanVerdict, str]
"""With the detail."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is looked at of a plan."""

    indexes: tuple[str, ...]
    """Of partitions the parent's."""
    tree: Mapping[str, Any]


class Plans:
    """Looks at plans, and keeps what it finds in the ledger of indexes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def verify(self, index: str = "") -> list[PlanCheck]:
        """The lines of one index, or all, with today's verdicts.

        Raises NotFound INDEX_NOT_FOUND, FailedPrecondition QUERIES_NOT_COUNTED.
        """
        async with self._desk.read() as conn:
            lines = await store.list_ledger(conn, index)
            if not lines:
                raise not_found("index", index)
            with counted():
                judged = await _judged(conn, lines)
        now = self._desk.clock()
        async with self._desk.write() as conn:
            for line in judged:
                await store.keep_verdict(conn, line, now)
        return [
            replace(line, last_used_at=now) if line.verdict is PlanVerdict.USED else line
            for line in judged
        ]

    async def verify_when_due(self) -> None:
        """Once an hour; what can't be looked at now is logged, and stops nothing else."""
        try:
            async with self._desk.read() as conn:
                last = await store.last_verified_at(conn)
            if last is None or not timedelta(0) <= self._desk.clock() - last < EVERY:
                await self.verify()
        except Exception as error:  # noqa: BLE001 (the checks that follow say what is wrong)
            log.warning("plans not verified", extra={"exception": telemetry.describe(error)})


async def plan(conn: Connection, service: str, query_id: int, *, seq_scans: bool = True) -> Plan:
    """A statement's plan; the driver's errors where PostgreSQL can't make it."""
    lines = await store.explain_query(conn, service, query_id, as_json=True, seq_scans=seq_scans)
    tree = store.tree(lines)
    indexes = await store.root_indexes(conn, service, model.indexes(tree))
    return Plan(tuple(indexes), tree)


async def _judged(conn: Connection, lines: list[PlanCheck]) -> list[PlanCheck]:
    states = await store.index_states(conn)
    names = {line.query for line in lines if line.query}
    query_ids = await store.list_counted(conn, names)
    # One plan serves all the lines of its statement.
    plans: dict[int, Plan | str] = {}
    judged = []
    for line in lines:
        query_id = query_ids.get((line.schema, line.query), 0)
        if query_id and query_id not in plans:
            plans[query_id] = await _planned(conn, line.schema, query_id)
        state = states.get((line.schema, line.index))
        verdict, detail = await _verdict(conn, line, state, query_id, plans.get(query_id))
        judged.append(replace(line, verdict=verdict, detail=detail, query_id=query_id))
    return judged


async def _planned(conn: Connection, service: str, query_id: int) -> Plan | str:
    """The plan, or why there is none."""
    try:
        return await plan(conn, service, query_id)
    except psycopg.Error as error:
        # Its message may quote the statement.
        return f"PostgreSQL can't plan it without values (SQLSTATE {error.sqlstate})"


async def _verdict(
    conn: Connection,
    line: PlanCheck,
    state: IndexState | None,
    query_id: int,
    planned: Plan | str | None,
) -> Found:
    if state is None or not state.valid:
        return PlanVerdict.INDEX_MISSING, "it is not there" if state is None else "it is invalid"
    if not line.query:
        return PlanVerdict.NOT_SEEN, "people ask by it, no service"
    if planned is None:
        return PlanVerdict.NOT_SEEN, "not called yet"
    if isinstance(planned, str):
        return PlanVerdict.FAILED, planned
    if line.index in planned.indexes:
        return PlanVerdict.USED, ""
    instead = model.instead(planned.tree, line.table)
    if not state.is_small:
        return PlanVerdict.NOT_USED, instead
    forced = await plan(conn, line.schema, query_id, seq_scans=False)
    if line.index in forced.indexes:
        return PlanVerdict.SMALL_TABLE, f"{instead}; it would serve"
    return PlanVerdict.SMALL_TABLE, f"{instead}; too few rows to matter"
