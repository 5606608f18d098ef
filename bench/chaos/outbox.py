"""The outbox does not rot: events for a long time, beside a reader that sits in a transaction.

    ./dev run python bench/chaos/outbox.py                  ten minutes
    ./dev run python bench/chaos/outbox.py --minutes 60     the promise: an hour, or 10^6 events

Tracking tells 500 events a second of its trips and booking has the effects. For the first half, at
most ten minutes, a reader sits in a transaction, so that nothing that was updated or deleted can be
vacuumed. Events are deleted a minute after they were processed rather than after 14 days, by a
process whose clock is ahead. All the while the statement that delivery reads with is timed, and the
size of the table with its indexes is noted. Prints a table and last one line of JSON. Exit code 1:
a bar was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from bench.events import writing
from libs import outbox
from libs.events.tidy import KEPT, Tidy
from libs.orgs import Orgs
from tests import postgres
from tests.libs.pair import Pair, furnish, lesson_id, pair, school_id, trip_id

SCHOOLS, TRIPS = 20, 2_000
PER_S = 500
TRANSACTION = 5
EVENTS_MAX = 1_000_000
READER_S_MAX = 600.0
KEPT_HERE = timedelta(minutes=1)
DELETE_EVERY_S = 5.0
LOOK_EVERY_S = 1.0
SETTLE_S = 20.0
"""So long after the reader has gone vacuum may take before the size must stand still."""
BACKLOG_BAR_S = 60.0
CLAIM_BAR_MS = 20.0
GROWTH_BAR = 1.25
_PLACE = """SELECT "xactId"::text, id FROM booking."EventCursor" WHERE producer = 'tracking'"""
# As delivery reads, from the place where the consumer is.
_CLAIM = """
SELECT "xactId"::text, id, "orgId", topic, type, payload::text FROM tracking."Outbox"
 WHERE ("xactId", id) > (%s::text::xid8, %s::bigint)
   AND "xactId" < pg_snapshot_xmin(pg_current_snapshot()) AND topic = ANY ('{trip}')
 ORDER BY "xactId", id LIMIT 200
"""
_WAITING = """
SELECT count(*) FROM tracking."Outbox"
 WHERE ("xactId", id) > (SELECT "xactId", id FROM booking."EventCursor" WHERE producer = 'tracking')
"""
_SIZES = """
SELECT pg_total_relation_size('tracking."Outbox"') / 1e6, n_live_tup, n_dead_tup
  FROM pg_stat_user_tables WHERE schemaname = 'tracking' AND relname = 'Outbox'
"""
_STATEMENTS = r"""
SELECT (regexp_match(query, 'events\.(\w+)'))[1], sum(calls)::bigint,
       (sum(total_exec_time) / sum(calls))::float8, max(max_exec_time)::float8
  FROM pg_stat_statements WHERE query LIKE '%/* events.%' GROUP BY 1 HAVING sum(calls) > 0
 ORDER BY sum(total_exec_time) DESC LIMIT 8
"""


@dataclass(frozen=True)
class Look:
    """The queue at a moment."""

    at_s: float
    claim_ms: float
    waiting: int
    size_mb: float
    live: int
    dead: int


@dataclass
class Seen:
    """What was looked at on the way."""

    looks: list[Look] = field(default_factory=list)
    emitted: int = 0
    reader_s: float = 0.0
    """When the reader had gone."""
    backlog_s: float = 0.0
    """How long it took after the last event until all had had their effect."""
    statements: Sequence[tuple[str, int, float, float]] = ()

    @property
    def claim_p99_ms(self) -> float:
        """Of all looks."""
        ordered = sorted(look.claim_ms for look in self.looks)
        return ordered[math.ceil(0.99 * len(ordered)) - 1]

    @property
    def growth(self) -> float:
        """The last size in sizes a while after the reader went."""
        behind = [look for look in self.looks if look.at_s > self.reader_s + SETTLE_S]
        return behind[-1].size_mb / behind[0].size_mb if behind else math.inf


async def emit(orgs: Orgs, until: float, seen: Seen) -> None:
    """Change trips at the pace, in transactions of a few, until that time."""
    dice, began = random.Random(1), time.monotonic()
    versions: dict[int, int] = {}
    under_way: set[asyncio.Task[None]] = set()
    while time.monotonic() < until and seen.emitted < EVENTS_MAX:
        await asyncio.sleep(max(0.0, began + seen.emitted / PER_S - time.monotonic()))
        trips = dice.sample(range(dice.randrange(SCHOOLS), TRIPS, SCHOOLS), TRANSACTION)
        for trip in trips:
            versions[trip] = versions.get(trip, 0) + 1
        task = asyncio.create_task(_change(orgs, [(trip, versions[trip]) for trip in trips]))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        seen.emitted += TRANSACTION
    await asyncio.gather(*under_way)


async def _change(orgs: Orgs, trips: Sequence[tuple[int, int]]) -> None:
    org_id = school_id(trips[0][0] % SCHOOLS)
    async with orgs.write(org_id) as conn:
        for trip, version in trips:
            id_ = trip_id(trip)
            payload = {
                "trip_id": str(id_),
                "lesson_id": str(lesson_id(trip)),
                "started_at": "2026-06-01T01:00:00+00:00",
                "ended_at": "2026-06-01T02:00:00+00:00",
                "distance_meters": float(version),
            }
            await outbox.emit(conn, org_id, "trip", id_, version, "trip.completed", payload)


async def look(two: Pair, seen: Seen) -> None:
    """Note how the queue does, for ever."""
    began = time.monotonic()
    with two.admin() as admin:
        while True:
            seen.looks.append(await asyncio.to_thread(_look, admin, began))
            await asyncio.sleep(LOOK_EVERY_S)


def _look(admin: psycopg.Connection, began: float) -> Look:
    place = admin.execute(_PLACE).fetchone() or ("0", 0)
    started = time.perf_counter()
    admin.execute(_CLAIM, place).fetchall()
    claim_ms = (time.perf_counter() - started) * 1e3
    waiting, sizes = admin.execute(_WAITING).fetchone(), admin.execute(_SIZES).fetchone()
    assert waiting is not None
    assert sizes is not None
    size_mb, live, dead = sizes
    at_s = time.monotonic() - began
    return Look(at_s, claim_ms, int(waiting[0]), float(size_mb), int(live), int(dead))


async def delete(orgs: Orgs) -> None:
    """Delete what was processed a minute ago, for ever."""
    tidy = Tidy(orgs, {"booking"}, lambda: datetime.now(UTC) + KEPT - KEPT_HERE)
    while True:
        with suppress(psycopg.Error):
            await tidy.delete()
        await asyncio.sleep(DELETE_EVERY_S)


async def run(minutes: float, folder: Path) -> Seen:
    """All of it."""
    seen = Seen()
    with postgres.embedded_server() as server:
        database = postgres.make_template(server)
        furnish(database, SCHOOLS, TRIPS)
        async with pair(database, folder) as two, writing(two, folder) as orgs:
            await asyncio.gather(two.tracking.start(), two.booking.start())
            beside = [asyncio.create_task(look(two, seen)), asyncio.create_task(delete(orgs))]
            began = time.monotonic()
            reading = asyncio.create_task(read(two, min(READER_S_MAX, minutes * 30), seen))
            await emit(orgs, began + minutes * 60, seen)
            await reading
            seen.backlog_s = await _empty(two)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            with two.admin() as admin:
                seen.statements = admin.execute(_STATEMENTS).fetchall()
    return seen


async def read(two: Pair, seconds: float, seen: Seen) -> None:
    """Sit in a transaction."""
    with two.admin() as admin:
        admin.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        admin.execute('SELECT count(*) FROM tracking."Outbox"')
        await asyncio.sleep(seconds)
        admin.execute("COMMIT")
    seen.reader_s = seconds


async def _empty(two: Pair) -> float:
    began = time.monotonic()
    with two.admin() as admin:
        while admin.execute(_WAITING).fetchone() != (0,):
            if time.monotonic() - began > 5 * BACKLOG_BAR_S:
                return math.inf
            await asyncio.sleep(0.1)
    return time.monotonic() - began


def report(seen: Seen) -> bool:
    """The queue over time, what statements cost, and the bars; whether all are met."""
    print(f"{'second':>7}{'claim ms':>10}{'waiting':>9}{'MB':>8}{'live':>10}{'dead':>10}")
    for each in seen.looks[:: max(1, len(seen.looks) // 15)]:
        print(
            f"{each.at_s:7.0f}{each.claim_ms:10.1f}{each.waiting:9,}{each.size_mb:8.0f}"
            f"{each.live:10,}{each.dead:10,}"
        )
    print(f"the reader went after {seen.reader_s:.0f} s; {seen.emitted:,} events\n")
    print(f"{'statement':28}{'calls':>10}{'mean ms':>9}{'max ms':>9}")
    for name, calls, mean, worst in seen.statements:
        print(f"{name:28}{calls:10,}{mean:9.2f}{worst:9.1f}")
    bars = [
        ("claim_p99_ms", seen.claim_p99_ms, CLAIM_BAR_MS),
        ("backlog_s", seen.backlog_s, BACKLOG_BAR_S),
        ("growth_without_reader", seen.growth, GROWTH_BAR),
    ]
    for name, value, bar in bars:
        print(f"{name:28}{value:10.2f}   bar: at most {bar:<8}{_verdict(value, bar)}")
    figures = {name: round(value, 2) for name, value, _ in bars}
    print(json.dumps(figures | {"events": seen.emitted, "ok": all(v <= b for _, v, b in bars)}))
    return all(value <= bar for _, value, bar in bars)


def _verdict(value: float, bar: float) -> str:
    return "met" if value <= bar else "MISSED"


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="driveflow-chaos-") as folder:
        seen = asyncio.run(run(options.minutes, Path(folder)))
    sys.exit(0 if report(seen) else 1)


if __name__ == "__main__":
    main()
