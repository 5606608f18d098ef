"""Statements about alert rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libs import queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.model.checks import Direction, Question, Thresholds
from services.monitor.model.rules import Rule

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "rules.sql")
COLUMNS = (
    "name",
    "unit",
    "enabled",
    "direction",
    '"warningAt"',
    '"criticalAt"',
    '"clearAt"',
    '"forSeconds"',
    '"clearSeconds"',
    '"mutedUntil"',
    "version",
    '"updatedAt"',
    '"updatedBy"',
)


async def add_rule(conn: Connection, question: Question) -> None:
    parameters = {"name": question.name, "unit": question.unit, **_of(question.thresholds)}
    parameters["direction"] = question.thresholds.direction.value
    await conn.send(SQL.add_rule, parameters)


async def all_rules(conn: Reader) -> list[Rule]:
    cursor = await conn.execute(SQL.select("all_rules", COLUMNS))
    return [_rule(row) for row in await cursor.fetchall()]


async def list_rules(conn: Reader, after: str, limit: int) -> list[Rule]:
    query = SQL.select("list_rules", COLUMNS)
    cursor = await conn.execute(query, {"after": after, "limit": limit})
    return [_rule(row) for row in await cursor.fetchall()]


async def lock_rule(conn: Connection, name: str) -> Rule | None:
    row = await (await conn.execute(SQL.select("lock_rule", COLUMNS), {"name": name})).fetchone()
    return None if row is None else _rule(row)


async def update_rule(conn: Connection, rule: Rule, updated_by: str) -> Rule:
    parameters = {
        "name": rule.name,
        "enabled": rule.enabled,
        "muted_until": rule.muted_until,
        "updated_by": updated_by,
        **_of(rule.thresholds),
    }
    row = await (await conn.execute(SQL.select("update_rule", COLUMNS), parameters)).fetchone()
    if row is None:
        raise ValueError("the rule was locked")
    return _rule(row)


def _of(thresholds: Thresholds) -> dict[str, Any]:
    return {
        "warning_at": thresholds.warning_at,
        "critical_at": thresholds.critical_at,
        "clear_at": thresholds.clear_at,
        "for_s": thresholds.for_s,
        "clear_s": thresholds.clear_s,
    }


def _rule(row: tuple[Any, ...]) -> Rule:
    return Rule(
        name=row[0],
        unit=row[1],
        enabled=row[2],
        thresholds=Thresholds(
            direction=Direction(row[3]),
            warning_at=row[4],
            critical_at=row[5],
            clear_at=row[6],
            for_s=row[7],
            clear_s=row[8],
        ),
        muted_until=row[9],
        version=row[10],
        updated_at=row[11],
        updated_by=row[12],
    )
