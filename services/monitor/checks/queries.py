"""Questions about statements."""

from __future__ import annotations

from datetime import timedelta

from libs.errors import FailedPrecondition
from services.monitor import statements
from services.monitor.checks.asked import Asked
from services.monitor.model.checks import (
    EVIDENCE_MAX,
    Measured,
    Question,
    Thresholds,
    Unmeasurable,
    grpcurl,
)
from services.monitor.model.plans import PlanVerdict
from services.monitor.model.queries import SLOW_MS, WINDOW_S, Filter, Order, Window
from services.monitor.servicer.desk import Desk
from services.monitor.store import plans as plan_store
from services.monitor.store import queries as store

CALLS_MIN = 5
"""Within the hour: one that is called more seldom keeps few people waiting."""
PATHS = ("query_id", "name", "role", "calls", "mean_ms")


async def slow_queries(desk: Desk) -> Measured:
    window = await _window(desk)
    if window is None:
        return Measured(None, "No snapshot was taken yet.")
    asked = Filter(order=Order.MEAN, min_calls=CALLS_MIN, min_mean_ms=SLOW_MS)
    async with desk.read() as conn:
        rows, total = await statements.listed(conn, window, asked, EVIDENCE_MAX, PATHS)
    if not total:
        return Measured(0, f"No statement took more than {SLOW_MS:.0f} ms on average.")
    lines = [
        f"{row['name'] or row['query_id']} ({row['role']}): {row['mean_ms']:.0f} ms,"
        f" {row['calls']} calls"
        for row in rows
    ]
    if total > EVIDENCE_MAX:
        lines[-1] = f"and {total - EVIDENCE_MAX + 1} more"
    return Measured(
        total, f"{total} statements took more than {SLOW_MS:.0f} ms on average.", tuple(lines)
    )


async def evicted_queries(desk: Desk) -> Measured:
    window = await _window(desk)
    if window is None:
        return Measured(None, "No snapshot was taken yet.")
    return Measured(window.evicted, f"{window.evicted} statements were forgotten within the hour.")


async def _window(desk: Desk) -> Window | None:
    """The last hour."""
    now = desk.clock()
    try:
        async with desk.read() as conn:
            with store.counted():
                return await store.find_window(conn, now - timedelta(seconds=WINDOW_S), now)
    except FailedPrecondition as error:
        raise Unmeasurable(error.message) from error


async def query_plans(desk: Desk) -> Measured:
    async with desk.read() as conn:
        lines = await plan_store.list_ledger(conn, "")
    if not any(line.verdict for line in lines):
        return Measured(None, "No plan was looked at yet.")
    bad = [line for line in lines if line.is_bad]
    used = sum(line.verdict is PlanVerdict.USED for line in lines)
    if not bad:
        return Measured(0, f"Every plan is by its index: {used} of {len(lines)} were seen so.")
    return Measured(
        len(bad),
        f"{len(bad)} of {len(lines)} needs of an index are not met.",
        tuple(
            f"{line.schema}.{line.index} for {line.query or line.rpc}: {line.detail}"
            for line in bad
        ),
    )


ASKED: tuple[Asked, ...] = (
    Asked(
        Question(
            name="slow_queries",
            title="Slow queries",
            unit="count",
            why="Statements of more than 100 ms make calls slow and hold connections.",
            next_step="Look at the slowest one's plan: driveflow queries explain.",
            command=grpcurl("ListSlowQueries", {"min_calls": CALLS_MIN}),
            # More than five, says the guide.
            thresholds=Thresholds(warning_at=6, critical_at=20, clear_at=4, for_s=300),
        ),
        slow_queries,
    ),
    Asked(
        Question(
            name="query_plans",
            title="Plans by the guide's indexes",
            unit="count",
            why="A query that left its index slows down with every row that is added.",
            next_step="See what it does instead; ANALYZE the table, or make the index anew.",
            command=grpcurl("VerifyQueryPlans"),
            thresholds=Thresholds(warning_at=1),
        ),
        query_plans,
    ),
    Asked(
        Question(
            name="evicted_queries",
            title="Statements that PostgreSQL forgot",
            unit="count",
            why="What is forgotten is missing from the lists of slow and frequent statements.",
            next_step="Find who makes so many different ones, or raise pg_stat_statements.max.",
            command=grpcurl("ListFrequentQueries", {"page_size": 5}),
            thresholds=Thresholds(warning_at=5_000, for_s=3_600),
        ),
        evicted_queries,
    ),
)
