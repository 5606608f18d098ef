"""The database's figures for Prometheus, beside those that every process has of its own.

The process that leads looks at the server every few seconds, and with each report of the schedule
at tables, partitions and backlogs. What it found is kept in memory: a scrape asks the database
nothing. Figures that have not been renewed for a while are exported no more, so a process that led
once, or one whose database does not answer, tells nothing that is no longer so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias

from libs import telemetry
from services.monitor.backlogs import Backlogs
from services.monitor.model.checks import Report, Verdict
from services.monitor.servicer.desk import Desk
from services.monitor.store import exporting as store
from services.monitor.store.exporting import ReplicaLag, Runway, ServerFigures, TableFigures

LOOK_EVERY_S = 15.0
LOOK_LASTS_S = 4 * LOOK_EVERY_S
REPORT_LASTS = 3
"""Intervals of the schedule."""
VERDICTS = {Verdict.OK: 0, Verdict.WARNING: 1, Verdict.CRITICAL: 2, Verdict.UNKNOWN: 3}
STATES = ("active", "idle", "idle in transaction", "idle in transaction (aborted)")
"""Those that are always told, also at 0."""

Figures: TypeAlias = Mapping[str, Sequence[telemetry.Figure]]
"""By the name of the metric."""

GAUGES = (
    (
        "driveflow.health.verdict",
        "{verdict}",
        "Of each check: 0 ok, 1 warning, 2 critical, 3 unknown",
    ),
    ("driveflow.health.figure", "{figure}", "What each check measured, in its unit"),
    ("driveflow.health.time", "s", "When the last report was made, since 1970"),
    (
        "driveflow.alerts.open",
        "{alert}",
        "Alerts that have fired and are not resolved, by severity",
    ),
    ("driveflow.database.size", "By", "Size of the database"),
    ("driveflow.database.table.size", "By", "Size by table, with indexes and partitions"),
    ("driveflow.database.table.dead_rows", "{row}", "Dead rows by table, with partitions"),
    ("driveflow.database.partition.runway", "s", "How long partitions last, by table"),
    ("driveflow.database.connections", "{connection}", "Clients of the database, by state"),
    ("driveflow.database.connections.max", "{connection}", "Most connections of the server"),
    ("driveflow.database.transaction.age", "s", "Age of the oldest transaction of a client"),
    ("driveflow.database.replication.lag", "s", "How far replicas are behind, by replica"),
    ("driveflow.database.replication.behind", "By", "WAL that replicas lack, by replica"),
    ("driveflow.outbox.pending", "{event}", "Events that wait, by producer, topic and consumer"),
    ("driveflow.outbox.age", "s", "Age of the oldest of them"),
)
COUNTERS = (
    ("driveflow.database.transactions", "{transaction}", "Transactions by outcome"),
    ("driveflow.database.blocks", "{block}", "Blocks asked for, by where they were"),
    ("driveflow.database.deadlocks", "{deadlock}", "Deadlocks"),
    ("driveflow.database.temporary", "By", "Written to temporary files"),
    ("driveflow.database.wal", "By", "Write-ahead log of the server"),
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Figures, and until when they count, on the monotonic clock."""

    figures: Figures
    until: float


class Exporting:
    """Keeps what was found last, for scrapes."""

    def __init__(self, desk: Desk, *, report_every: timedelta) -> None:
        self._desk = desk
        self._report_lasts_s = REPORT_LASTS * report_every.total_seconds()
        self._kept: dict[str, _Kept] = {}
        for name, unit, description in GAUGES:
            telemetry.observed_gauge(name, unit, description, partial(self._read, name))
        for name, unit, description in COUNTERS:
            telemetry.observed_counter(name, unit, description, partial(self._read, name))

    async def look(self) -> None:
        """Renew what the server counts."""
        async with self._desk.read() as conn:
            server = await store.server_figures(conn)
            sessions = await store.session_counts(conn)
            lags = await store.replica_lags(conn)
        self._keep("look", of_server(server, sessions, lags), LOOK_LASTS_S)

    async def told(self, report: Report) -> None:
        """Renew what a report says, and what changes no faster than reports come."""
        self._keep("report", of_report(report), self._report_lasts_s)
        now = self._desk.clock()
        backlogs = await self._desk.backlogs.read()
        self._keep("backlogs", of_backlogs(backlogs, now), self._report_lasts_s)
        async with self._desk.read() as conn:
            tables = await store.table_figures(conn)
            runways = await store.partition_runways(conn, now)
            size = await store.database_size(conn)
            alerts = await store.open_alerts(conn)
        self._keep("tables", of_tables(tables, runways, size), self._report_lasts_s)
        self._keep("alerts", of_alerts(alerts), self._report_lasts_s)

    def _keep(self, found_by: str, figures: Figures, lasts_s: float) -> None:
        self._kept[found_by] = _Kept(figures, time.monotonic() + lasts_s)

    def _read(self, name: str) -> Iterator[telemetry.Figure]:
        """In the thread of the scrape."""
        for kept in [*self._kept.values()]:
            if kept.until > time.monotonic():
                yield from kept.figures.get(name, ())


def of_report(report: Report) -> Figures:
    """The verdict of each check, and the figure of those that have one."""
    checks = report.checks
    return {
        "driveflow.health.verdict": [
            (VERDICTS[check.verdict], {"check": check.question.name}) for check in checks
        ],
        "driveflow.health.figure": [
            (check.figure, {"check": check.question.name, "unit": check.question.unit})
            for check in checks
            if check.figure is not None
        ],
        "driveflow.health.time": [(report.at.timestamp(), {})],
    }


def of_server(
    server: ServerFigures, sessions: Mapping[str, int], lags: Sequence[ReplicaLag]
) -> Figures:
    """What the server counts."""
    states = dict.fromkeys(STATES, 0) | dict(sessions)
    return {
        "driveflow.database.transactions": [
            (server.commits, {"outcome": "commit"}),
            (server.rollbacks, {"outcome": "rollback"}),
        ],
        "driveflow.database.blocks": [
            (server.blocks_hit, {"source": "memory"}),
            (server.blocks_read, {"source": "disk"}),
        ],
        "driveflow.database.deadlocks": [(server.deadlocks, {})],
        "driveflow.database.temporary": [(server.temporary_bytes, {})],
        "driveflow.database.wal": [(server.wal_bytes, {})],
        "driveflow.database.connections": [
            (count, {"state": state}) for state, count in states.items()
        ],
        "driveflow.database.connections.max": [(server.connections_max, {})],
        "driveflow.database.transaction.age": [(server.oldest_transaction_s, {})],
        "driveflow.database.replication.lag": [
            (lag.seconds, {"replica": lag.replica}) for lag in lags
        ],
        "driveflow.database.replication.behind": [
            (lag.bytes, {"replica": lag.replica}) for lag in lags
        ],
    }


def of_tables(
    tables: Sequence[TableFigures], runways: Sequence[Runway], size_bytes: float
) -> Figures:
    """Sizes, dead rows, and how long partitions last."""
    named = [(each, {"schema": each.schema, "table": each.table}) for each in tables]
    return {
        "driveflow.database.size": [(size_bytes, {})],
        "driveflow.database.table.size": [(each.bytes, of) for each, of in named],
        "driveflow.database.table.dead_rows": [(each.dead_rows, of) for each, of in named],
        "driveflow.database.partition.runway": [
            (each.seconds, {"schema": each.schema, "table": each.table}) for each in runways
        ],
    }


def of_alerts(alerts: Mapping[str, int]) -> Figures:
    """How many are open of each severity."""
    return {
        "driveflow.alerts.open": [
            (alerts.get(severity, 0), {"severity": severity.value})
            for severity in (Verdict.WARNING, Verdict.CRITICAL)
        ]
    }


def of_backlogs(backlogs: Backlogs, now: datetime) -> Figures:
    """How many events wait for whom, and since when."""
    pending: list[telemetry.Figure] = []
    ages: list[telemetry.Figure] = []
    for producer, backlog in backlogs.known.items():
        for topic in backlog.topics:
            if not topic.consumer:
                continue
            of = {"producer": producer, "topic": topic.topic, "consumer": topic.consumer}
            oldest_s = topic.oldest_pending_time.ToNanoseconds() / 1e9
            waiting = topic.pending_count > 0
            pending.append((topic.pending_count, of))
            ages.append((max(0.0, now.timestamp() - oldest_s) if waiting else 0.0, of))
    return {"driveflow.outbox.pending": pending, "driveflow.outbox.age": ages}
