"""Events a second, from a producer's outbox to the committed effect in a consumer.

    ./dev run python bench/events.py [--quick]

Tracking tells of its trips and booking takes them in: real processes, and booking's real effect, a
row of "LessonTrip" and its lesson added up. The outbox is filled before booking starts: events of
200 schools in turn, in transactions of 1 to 100. A database without other events takes turns with
one that holds a million processed ones. Rates are from the first effect to the last. Then latency,
from commit to commit by the database's own clock, at 200 events a second. Fails when an effect is
missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil
import psycopg

from bench.stack import CORES, _own, _with_children
from libs import checks, outbox, pooling
from libs.orgs import Orgs
from libs.settings import Settings
from tests.libs.pair import Pair, furnish, lesson_id, pair, school_id, trip_id
from tests.postgres import Server, embedded_server, make_template

SCHOOLS = 200
TRANSACTION_MAX = 100
PER_S = 200
PROCESSED = 1_000_000
RATE_BAR, RATE_FLOOR = 1_500.0, 1_000.0
P99_BAR_MS = 250.0
FLAT_BAR = 0.9
PATIENCE_S = 300.0
FILL_SEED = 1


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    events: int
    rounds: int
    seconds: float
    processed: int


FULL = Plan(events=100_000, rounds=2, seconds=30.0, processed=PROCESSED)
QUICK = Plan(events=10_000, rounds=1, seconds=5.0, processed=100_000)


@dataclass(frozen=True)
class Round:
    """One outbox taken in."""

    rate: float
    """Events a second."""
    producer_us: float
    """CPU an event; as are the next two."""
    consumer_us: float
    postgres_us: float
    strangers: float
    """Share of the machine that had nothing to do with it."""


# --- what is told ------------------------------------------------------------------------------

# Events of lessons in turn, in one transaction.
_TELL = """
INSERT INTO tracking."Outbox" ("orgId", "aggregateType", "aggregateId", "aggregateVersion", topic,
                               type, payload, "processedAt")
SELECT ('ea000000-0000-7000-8000-' || lpad(to_hex(k %% %(schools)s), 12, '0'))::uuid, 'trip',
       ('ec000000-0000-7000-8000-' || lpad(to_hex(k), 12, '0'))::uuid, %(version)s, 'trip',
       'trip.completed',
       jsonb_build_object(
         'trip_id', ('ec000000-0000-7000-8000-' || lpad(to_hex(k), 12, '0'))::uuid,
         'lesson_id', ('eb000000-0000-7000-8000-' || lpad(to_hex(k), 12, '0'))::uuid,
         'started_at', '2026-06-01T01:00:00+00:00', 'ended_at', '2026-06-01T02:00:00+00:00',
         'point_count', 3600, 'distance_meters', 31234.5, 'duration_seconds', 3600),
       %(processed)s::timestamptz
  FROM generate_series(%(first)s::int, %(first)s::int + %(count)s::int - 1) AS k
"""


def fill(admin: psycopg.Connection, events: int, version: int) -> None:
    """An event of each lesson, in transactions of 1 to 100 events."""
    dice, first = random.Random(FILL_SEED), 0
    while first < events:
        count = min(dice.randint(1, TRANSACTION_MAX), events - first)
        _tell(admin, first, count, version)
        first += count
    admin.execute('VACUUM ANALYZE tracking."Outbox"')
    admin.execute("CHECKPOINT")


def keep_processed(admin: psycopg.Connection, events: int, lessons: int) -> None:
    """So many events that the consumer took long ago."""
    for first in range(0, events, lessons):
        _tell(admin, 0, min(lessons, events - first), 0, datetime.now(UTC))
    admin.execute(
        'INSERT INTO booking."EventCursor" (producer, consumer, "xactId", id)'
        """ SELECT 'tracking', 'booking', "xactId", id FROM tracking."Outbox" """
        ' ORDER BY "xactId" DESC, id DESC LIMIT 1'
    )


def _tell(
    admin: psycopg.Connection,
    first: int,
    count: int,
    version: int,
    processed: datetime | None = None,
) -> None:
    parameters = {"schools": SCHOOLS, "first": first, "count": count, "version": version}
    admin.execute(_TELL.encode(), parameters | {"processed": processed})


# --- throughput --------------------------------------------------------------------------------


async def throughput(two: Pair, plan: Plan, version: int) -> Round:
    """Fill the outbox, then start booking and wait until it has taken in everything."""
    with two.admin() as admin:
        fill(admin, plan.events, version)
        before, began = _cpu(two), time.monotonic()
        await two.booking.start()
        await taken(admin, plan.events, version)
        used = [now - then for now, then in zip(_cpu(two), before, strict=True)]
        available = CORES * (time.monotonic() - began)
        await two.booking.stop()
        *ours, bench, machine = used
        producer, consumer, postgres = (each / plan.events * 1e6 for each in ours)
        strangers = max(0.0, machine - bench - sum(ours)) / available
        return Round(_rate(admin, version), producer, consumer, postgres, strangers)


def _cpu(two: Pair) -> tuple[float, ...]:
    """Seconds used so far by producer, consumer, PostgreSQL, the bench itself, and everybody.

    The consumer's are 0 before its start.
    """
    embedded = two.database.server.embedded
    postmaster = embedded.postmaster() if embedded is not None else None
    assert postmaster is not None
    consumer = _own(psutil.Process(two.booking.pid)) if two.booking.runs else 0.0
    times = [psutil.cpu_times(percpu=True)[core] for core in os.sched_getaffinity(0)]
    return (
        _own(psutil.Process(two.tracking.pid)),
        consumer,
        _with_children(postmaster),
        _own(psutil.Process()),
        sum(sum(each) - each.idle - each.iowait for each in times),
    )


async def taken(admin: psycopg.Connection, events: int, version: int) -> None:
    """Return once the last event has had its effect; exits when some had none."""
    query = (
        'SELECT (SELECT ("xactId", id) FROM tracking."Outbox" ORDER BY "xactId" DESC, id DESC'
        ' LIMIT 1) = (SELECT ("xactId", id) FROM booking."EventCursor" WHERE producer = %s)'
    )
    give_up = time.monotonic() + PATIENCE_S
    while admin.execute(query, ["tracking"]).fetchone() != (True,):
        if time.monotonic() > give_up:
            sys.exit("the events do not arrive")
        await asyncio.sleep(0.2)
    count = 'SELECT count(*) FROM booking."LessonTrip" WHERE version = %s'
    if (found := admin.execute(count, [version]).fetchone()) != (events,):
        sys.exit(f"{events} events had {found} effects")


def _rate(admin: psycopg.Connection, version: int) -> float:
    """Effects a second, from the first commit to the last."""
    row = admin.execute(
        "SELECT count(*) / extract(epoch FROM max(at) - min(at))::float8"
        " FROM (SELECT pg_xact_commit_timestamp(xmin) AS at"
        ' FROM booking."LessonTrip" WHERE version = %s) AS effects',
        [version],
    ).fetchone()
    assert row is not None
    return float(row[0])


# --- latency -----------------------------------------------------------------------------------


async def latency(two: Pair, folder: Path, plan: Plan, version: int) -> list[float]:
    """Milliseconds from the commit of each change to that of its effect, in order of size."""
    count = int(plan.seconds * PER_S)
    await two.booking.start()
    async with writing(two, folder) as orgs:
        await _pace(orgs, count, version)
    with two.admin() as admin:
        # Of all lessons only the first have an event of this version.
        await taken(admin, count, version)
        rows = admin.execute(
            "SELECT extract(epoch FROM pg_xact_commit_timestamp(e.xmin)"
            ' - pg_xact_commit_timestamp(o."xactId"::xid))::float8 * 1000'
            ' FROM booking."LessonTrip" AS e JOIN tracking."Outbox" AS o'
            '   ON o."aggregateId" = e."tripId" AND o."aggregateVersion" = e.version'
            " WHERE e.version = %s ORDER BY 1",
            [version],
        ).fetchall()
    await two.booking.stop()
    return [float(ms) for (ms,) in rows]


async def _pace(orgs: Orgs, count: int, version: int) -> None:
    """A change at a time, each when it is due, whatever became of those before."""
    began, under_way = time.monotonic(), set()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / PER_S - time.monotonic()))
        task = asyncio.create_task(_change(orgs, number, version))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def _change(orgs: Orgs, number: int, version: int) -> None:
    org_id, trip = school_id(number % SCHOOLS), trip_id(number)
    payload = {
        "trip_id": str(trip),
        "lesson_id": str(lesson_id(number)),
        "started_at": "2026-06-01T01:00:00+00:00",
        "ended_at": "2026-06-01T02:00:00+00:00",
        "distance_meters": 31234.5,
    }
    async with orgs.write(org_id) as conn:
        await outbox.emit(conn, org_id, "trip", trip, version, "trip.completed", payload)


@asynccontextmanager
async def writing(two: Pair, folder: Path) -> AsyncIterator[Orgs]:
    """Transactions as tracking opens them."""
    dsn = two.database.dsn("tracking")
    settings = Settings(listen="-", dsn=dsn, jwks=str(folder), page_token_key="-" * 32)
    pool = pooling.create("tracking", dsn, settings, max_size=8)
    async with AsyncExitStack() as stack:
        await checks.open_pools(stack, 30.0, pool)
        yield Orgs(pool)


# --- report ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What was measured."""

    few: Sequence[Round]
    many: Sequence[Round]
    """Beside the processed events."""
    latencies_ms: Sequence[float]

    def figures(self) -> dict[str, float]:
        """For the line of JSON."""
        return {
            "events_per_s": round(of(self.few, "rate"), 1),
            "p50_ms": round(self._percentile(50), 1),
            "p99_ms": round(self._percentile(99), 1),
            "events_per_s_1m": round(of(self.many, "rate"), 1),
        }

    def flat(self) -> float:
        """The rate beside the processed events in rates without: the median of the rounds'."""
        pairs = zip(self.many, self.few, strict=True)
        return median(many.rate / few.rate for many, few in pairs)

    def _percentile(self, percent: int) -> float:
        return self.latencies_ms[len(self.latencies_ms) * percent // 100]


def of(rounds: Sequence[Round], figure: str) -> float:
    """The median of a figure."""
    return float(median(getattr(each, figure) for each in rounds))


def report(found: Found, plan: Plan) -> bool:
    """All figures, each bar with its verdict; whether every bar is met."""
    head = f"{'':32}{'events/s':>9}   CPU us/event: {'producer':>9}{'consumer':>9}{'postgres':>9}"
    print(f"{head}{'sum':>7}")
    names = (f"{plan.events:,} events", f"beside {plan.processed:,} processed")
    for name, rounds in zip(names, (found.few, found.many), strict=True):
        cpu = [of(rounds, f"{each}_us") for each in ("producer", "consumer", "postgres")]
        each = "".join(f"{us:9.0f}" for us in cpu)
        print(f"{name:32}{of(rounds, 'rate'):9.0f}{'':17}{each}{sum(cpu):7.0f}")
    strangers = max(each.strangers for each in (*found.few, *found.many))
    print(f"CPU used meanwhile by processes of others: {strangers:.0%} at most")
    figures = found.figures()
    print(
        f"{f'{PER_S} events a second':32}p50 {figures['p50_ms']:.0f} ms, p99"
        f" {figures['p99_ms']:.0f} ms, worst {found.latencies_ms[-1]:.0f} ms\n"
    )
    rate, p99 = figures["events_per_s"], figures["p99_ms"]
    flat = found.flat()
    bars = [
        ("events a second", rate, f"at least {RATE_BAR:.0f}", rate >= RATE_BAR),
        ("p99, ms", p99, f"under {P99_BAR_MS:.0f}", p99 < P99_BAR_MS),
        ("share beside the processed", flat, f"at least {FLAT_BAR}", flat >= FLAT_BAR),
    ]
    for name, value, bar, met in bars:
        print(f"{name:32}{value:9.2f}   bar: {bar:16}{'met' if met else 'MISSED'}")
    if rate < RATE_FLOOR:
        print(f"below the floor of {RATE_FLOOR:.0f} events a second")
    print(json.dumps(figures))
    return all(met for *_, met in bars)


async def _stand(stack: AsyncExitStack, server: Server, folder: Path, plan: Plan) -> Pair:
    """A database with the lessons; tracking serves."""
    database = make_template(server)
    furnish(database, SCHOOLS, plan.events)
    two = await stack.enter_async_context(pair(database, folder))
    await two.tracking.start()
    return two


async def run(plan: Plan, folder: Path) -> Found:
    """All of it."""
    with embedded_server() as server:
        assert server.embedded is not None
        with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET track_commit_timestamp = on")
        server.embedded.stop()
        server.embedded.start()
        async with AsyncExitStack() as stack:
            folders = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(2)]
            bare, full = [await _stand(stack, server, each, plan) for each in folders]
            with full.admin() as admin:
                keep_processed(admin, plan.processed, plan.events)
            few, many = [], []
            for version in range(1, plan.rounds + 1):
                few.append(await throughput(bare, plan, version))
                many.append(await throughput(full, plan, version))
            latencies = await latency(bare, folder, plan, plan.rounds + 1)
    return Found(few, many, latencies)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory(prefix="driveflow-bench-") as folder:
        found = asyncio.run(run(plan, Path(folder)))
    met = report(found, plan)
    sys.exit(not met and not options.quick)


if __name__ == "__main__":
    main()
