"""Questions about the services: do they answer, how full are their pools, how fast are their RPCs,
how far behind are their events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from driveflow.events.v1 import events_pb2
from libs.client import SERVICES
from services.monitor.backlogs import Backlogs
from services.monitor.checks.asked import Asked
from services.monitor.model.checks import Measured, Question, Thresholds, Unmeasurable, grpcurl
from services.monitor.model.sizes import age
from services.monitor.scraping import Durations
from services.monitor.servicer.desk import Desk

SIMPLE_MS, COMPLEX_MS = 100.0, 500.0
"""The guide's."""
CALLS_MIN = 20
"""Of fewer calls the 95th percentile is one call."""
UNARY = {
    f"{service.full_name}/{method.name}"
    for service in SERVICES
    for method in service.methods
    if not (method.client_streaming or method.server_streaming)
}
"""How long a stream lives is its caller's choice."""
COMPLEX = (
    "SearchSlots",
    "ExplainAvailability",
    "ListDaySchedule",
    "BatchCreate",
    "CreateBookingSeries",
    "BatchGet",
    "GetRevenueReport",
    "ListTripPoints",
    "GetTripRoute",
    "EndTrip",
    "CreatePay",
    "RefundPayment",
    "ReversePayout",
    "CancelPayment",
    "ReceiveWebhook",
    "UploadTripPoints",
)
"""Methods that search, report, write many rows or ask Stripe, by the beginning of their names."""
LEFT_OUT = (
    "MonitorService",
    "ApplyRetention",
    "RefreshInstructorStats",
    "SweepUndeliveredEvents",
    "ReplayRejectedPoints",
    "ExportStudentData",
    "EraseStudent",
)
"""Operators' methods: they take their time."""
NOT_CONFIGURED = "no process is named: set DRIVEFLOW_METRICS_SOURCES"


async def answering(desk: Desk) -> Measured:
    if not (desk.scraping.is_configured or desk.backlogs.is_configured):
        raise Unmeasurable("no service is named: set DRIVEFLOW_SERVICES, DRIVEFLOW_METRICS_SOURCES")
    silent = {**(await desk.scraping.read()).silent, **(await desk.backlogs.read()).silent}
    if not silent:
        return Measured(0, "All services answer.")
    lines = tuple(f"{name}: {why}" for name, why in sorted(silent.items()))
    return Measured(len(silent), f"No answer from {', '.join(sorted(silent))}.", lines)


async def pools(desk: Desk) -> Measured:
    if not desk.scraping.is_configured:
        raise Unmeasurable(NOT_CONFIGURED)
    found = (await desk.scraping.read()).pools
    # A pool of one or two is at work or it is not: it has no share in use.
    shared = [pool for pool in found if pool.limit > 3 and pool.service != "monitor"]
    if not shared:
        raise Unmeasurable("no process told of a pool")
    fullest = max(shared, key=lambda pool: (pool.used_percent, pool.waiting))
    lines = tuple(
        f"{pool.service} {pool.pool}: {pool.used} of {pool.limit} in use, {pool.waiting} calls wait"
        for pool in sorted(shared, key=lambda pool: -pool.used_percent)
    )
    return Measured(
        fullest.used_percent,
        f"The fullest pool, {fullest.pool}, has {fullest.used} of {fullest.limit} in use.",
        lines,
    )


async def rpc_durations(desk: Desk) -> Measured:
    if not desk.scraping.is_configured:
        raise Unmeasurable(NOT_CONFIGURED)
    found, scraped = await desk.scraping.durations()
    if not scraped.scrapes:
        raise Unmeasurable("no process answers")
    judged = [each for each in found if _counts(each)]
    slow = [each for each in judged if each.p95_ms > limit_ms(each.method)]
    slowest = sorted(slow or judged, key=lambda each: -each.p95_ms / limit_ms(each.method))
    lines = tuple(
        f"{each.method.rpartition('.')[2]}: p50 {each.p50_ms:.0f}, p95 {each.p95_ms:.0f},"
        f" p99 {each.p99_ms:.0f} ms of {each.calls} calls (limit {limit_ms(each.method):.0f})"
        for each in slowest
    )
    if not slow:
        return Measured(0, f"The p95 of all {len(judged)} methods is within its limit.", lines)
    return Measured(len(slow), f"Methods that are too slow: {len(slow)} of {len(judged)}.", lines)


def _counts(durations: Durations) -> bool:
    name = durations.method.rpartition(".")[2]
    return (
        durations.calls >= CALLS_MIN
        and durations.method in UNARY
        and not any(each in name for each in LEFT_OUT)
    )


def limit_ms(method: str) -> float:
    """The guide's for this method's p95."""
    return COMPLEX_MS if method.rpartition("/")[2].startswith(COMPLEX) else SIMPLE_MS


async def outbox(desk: Desk) -> Measured:
    found = await _backlogs(desk)
    # Of events that really happened: not by the clock of the schedule, which tests move.
    now = datetime.now(UTC)
    waiting = sorted(_waiting(found, now), reverse=True)
    lines = [line for _, line in waiting]
    for name, backlog in found.known.items():
        if backlog.held_back_count:
            holder = backlog.horizon_holder
            lines.insert(
                0,
                f"{name}: {backlog.held_back_count} events are held back by a transaction of"
                f" {holder.user} ({holder.application_name}, pid {holder.pid})",
            )
    oldest_s = waiting[0][0] if waiting else 0.0
    pending = sum(t.pending_count for b in found.known.values() for t in b.topics if t.consumer)
    if not pending:
        return Measured(oldest_s, "No event waits.", tuple(lines))
    return Measured(
        oldest_s, f"{pending} events wait, the oldest for {age(oldest_s)}.", tuple(lines)
    )


def _waiting(found: Backlogs, now: datetime) -> Iterator[tuple[float, str]]:
    """Seconds and a line for each consumer that is behind."""
    for name, backlog in found.known.items():
        for topic in backlog.topics:
            if topic.consumer and topic.pending_count:
                oldest = topic.oldest_pending_time.ToNanoseconds() / 1e9
                behind_s = max(0.0, now.timestamp() - oldest)
                yield (
                    behind_s,
                    f"{name} {topic.topic}: {topic.pending_count} wait for {topic.consumer},"
                    f" the oldest for {age(behind_s)}",
                )


async def parked_events(desk: Desk) -> Measured:
    found = await _backlogs(desk)
    parked = {name: b.parked_count for name, b in found.known.items() if b.parked_count}
    if not parked:
        return Measured(0, "No event is parked.")
    lines = tuple(f"{name}: {count} events" for name, count in sorted(parked.items()))
    return Measured(sum(parked.values()), f"Events that are parked: {sum(parked.values())}.", lines)


async def _backlogs(desk: Desk) -> Backlogs:
    if not desk.backlogs.is_configured:
        raise Unmeasurable("nobody can be asked: set DRIVEFLOW_SERVICES and DRIVEFLOW_SERVICE_KEY")
    found = await desk.backlogs.read()
    if not found.known:
        raise Unmeasurable(f"no answer from {', '.join(sorted(found.silent))}")
    return found


_GET_BACKLOG = (
    'grpcurl -plaintext -H "authorization: Bearer $DRIVEFLOW_OPS_TOKEN" "$DRIVEFLOW_BOOKING_ADDR"'
    f" {events_pb2.DESCRIPTOR.services_by_name['EventService'].full_name}/"
)
ASKED = (
    Asked(
        Question(
            name="services",
            title="Services that do not answer",
            unit="count",
            why="What does not answer serves no school, and the monitor is blind to it.",
            next_step="Look at the service's log and start it again.",
            command=grpcurl("CheckHealth", {"checks": ["services"]}),
            thresholds=Thresholds(critical_at=1, for_s=60, clear_s=60),
        ),
        answering,
    ),
    Asked(
        Question(
            name="pools",
            title="Connection pools",
            unit="percent",
            why="A call that finds no free connection waits, and then is refused.",
            next_step="See what holds connections: long transactions, locks, slow statements.",
            command=grpcurl("GetConnectionStats"),
            thresholds=Thresholds(warning_at=80, critical_at=100, clear_at=60, for_s=300),
        ),
        pools,
    ),
    Asked(
        Question(
            name="rpc_durations",
            title="Slow RPCs",
            unit="count",
            why="Simple calls should take less than 100 ms, searches and reports less than 500 ms.",
            next_step="See which statements take the time.",
            command=grpcurl("ListSlowQueries", {"order": "QUERY_ORDER_TOTAL", "min_mean_ms": 0}),
            thresholds=Thresholds(warning_at=1, critical_at=10, for_s=600),
        ),
        rpc_durations,
    ),
    Asked(
        Question(
            name="outbox",
            title="Events that wait",
            unit="seconds",
            why="Bookings are confirmed, lessons completed and payouts due by events.",
            next_step="See whether the consumer runs, and which transaction holds events back.",
            command=f"{_GET_BACKLOG}GetBacklog",
            thresholds=Thresholds(warning_at=60, critical_at=600, clear_at=30, for_s=60),
        ),
        outbox,
    ),
    Asked(
        Question(
            name="parked_events",
            title="Events whose effect failed",
            unit="count",
            why="What they tell of has not happened on the other side.",
            next_step="List them; the log of that service says why: driveflow outbox parked.",
            command=f"{_GET_BACKLOG}ListParkedEvents",
            thresholds=Thresholds(warning_at=1, critical_at=1_000, for_s=300),
        ),
        parked_events,
    ),
)
